"""One step of a site under `heuristic` in 4 launches: integrate and count, move the bias, fire."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ftbc_pl.functional.kernels.launch import Merge, alone, blocks, check_layout, launch
from ftbc_pl.functional.kernels.neuron import fire_

_ROWS, _CHANNELS = 1024, 64  # of a tile: at most 64 channels, and rows to make up 1024 values
_CHUNK = 16  # tiles that a program goes through before it adds to the counts in memory


def heuristic_step_(
    current: Tensor,
    membrane: Tensor,
    threshold: Tensor,
    activation: Tensor,
    count: int,
    alpha: float,
    bias: Tensor,
    out: Tensor,
    channel_dim: int,
    layer: bool = False,
    counts: Tensor | None = None,
    add: Merge = alone,
) -> Tensor:
    """Integrate a current, move the bias as `ftbc_pl.calibration.solvers.heuristic_bias` does, and fire.

    Args:
        current: x[t], (B, C, ...), in activation units.
        membrane: v[t−1], (B, C, ...), 32 or 64 bits; becomes v[t].
        threshold: θ, (C,).
        activation: E[a], (C,) float64, in activation units.
        count: Number of values per channel, over all processes.
        alpha: Step size α.
        bias: b[t] so far, (C,); becomes b − α·(E[θ·s] − E[a]), s fired with the bias so far.
        out: (B, C, ...), becomes θ·s[t]; may be `current` itself.
        channel_dim: Dimension of C in `membrane`.
        layer: One error for the whole layer, the mean of the channels', instead of one per channel.
        counts: (1,) int64, to which the number of spikes of this process is added.
        add: Adds int64 tensors of all processes in place; called once.

    Returns:
        `out`.

    Raises:
        ValueError: Memory that is neither contiguous nor channels last, or in two orders.
    """
    fired = integrate_and_count_(current, membrane, threshold, bias, channel_dim)
    launch(
        _move,
        (1,),
        bias,
        add(fired),
        threshold,
        activation,
        count,
        threshold.numel(),
        ALPHA=float(alpha),
        LAYER=layer,
        BLOCK=triton.next_power_of_2(threshold.numel()),
    )
    return fire_(membrane, threshold, bias, out, channel_dim, counts=counts)


def integrate_and_count_(
    current: Tensor, membrane: Tensor, threshold: Tensor, bias: Tensor, channel_dim: int
) -> Tensor:
    """Add the current to the membrane, and count the neurons of each channel that would fire with `bias`.

    Args:
        current: x, (B, C, ...).
        membrane: v, (B, C, ...); becomes u = v + x.
        threshold: θ, (C,).
        bias: b, (C,), which isn't added to the membrane.
        channel_dim: Dimension of C in `membrane`.

    Returns:
        (C,) int64, of this process.
    """
    inner, channels = check_layout(channel_dim, membrane, current), threshold.numel()
    rows = membrane.numel() // channels
    wide = 1 if inner > 1 else min(_CHANNELS, triton.next_power_of_2(channels))
    chunk = min(_CHUNK, blocks(rows, _ROWS // wide))
    fired = threshold.new_zeros(channels, dtype=torch.int64)
    grid = (blocks(rows, _ROWS // wide * chunk), blocks(channels, wide))
    shape = (rows, channels, inner, chunk)
    launch(_count, grid, membrane, current, threshold, bias, fired, *shape, ROWS=_ROWS // wide, CHANNELS=wide)
    return fired


@triton.jit(do_not_specialize=["chunk"])
def _count(
    membrane,
    current,
    threshold,
    bias,
    fired,
    rows,
    channels,
    inner,
    chunk,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    present = channel < channels
    compute = membrane.dtype.element_ty
    theta = tl.load(threshold + channel, mask=present, other=0.0).to(compute)[None, :]
    b = tl.load(bias + channel, mask=present, other=0.0).to(compute)[None, :]
    total = tl.zeros([ROWS, CHANNELS], dtype=tl.int32)
    for tile in range(chunk):
        # Only the first row of a tile may need 64 bits, in which divisions are slow.
        first = (tl.program_id(0).to(tl.int64) * chunk + tile) * ROWS
        inside = (tl.arange(0, ROWS) < rows - first)[:, None] & present[None, :]
        row = (first % inner).to(tl.int32) + tl.arange(0, ROWS)
        at = (first // inner + row // inner) * (channels * inner) + row % inner
        at = at[:, None] + (channel * inner)[None, :]
        u = tl.load(membrane + at, mask=inside, other=0.0) + tl.load(current + at, mask=inside, other=0.0).to(compute)
        tl.store(membrane + at, u, mask=inside)
        total += (inside & (u + b >= theta)).to(tl.int32)
    tl.atomic_add(fired + channel, tl.sum(total, 0).to(tl.int64), mask=present, sem="relaxed")


@triton.jit(do_not_specialize=["count", "channels"])
def _move(
    bias, fired, threshold, activation, count, channels, ALPHA: tl.constexpr, LAYER: tl.constexpr, BLOCK: tl.constexpr
):
    channel = tl.arange(0, BLOCK)
    present = channel < channels
    mean = tl.load(fired + channel, mask=present, other=0).to(tl.float64) / count.to(tl.float64)
    theta = tl.load(threshold + channel, mask=present, other=0.0).to(tl.float64)
    error = mean * theta - tl.load(activation + channel, mask=present, other=0.0)
    if LAYER:
        error = tl.zeros([BLOCK], tl.float64) + tl.sum(error, 0) / channels.to(tl.float64)
    alpha = tl.full([BLOCK], ALPHA, tl.float64)
    moved = tl.load(bias + channel, mask=present, other=0.0).to(tl.float64) - alpha * error
    tl.store(bias + channel, moved.to(bias.dtype.element_ty), mask=present)
