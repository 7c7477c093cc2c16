"""Integrate-and-fire neurons over several timesteps in one kernel: one read of each current, one write of the spikes.

The same operations in the same order as in `ftbc_pl.functional.neuron`, with the same result to the bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ftbc_pl.functional import neuron
from ftbc_pl.functional.kernels.launch import blocks, check_layout, inner_size, launch

_BLOCK = 1024


def integrate_and_fire_(
    current: Tensor,
    membrane: Tensor,
    threshold: Tensor,
    bias: Tensor | None,
    out: Tensor | None,
    channel_dim: int,
    counts: Tensor | None = None,
) -> Tensor | None:
    """Run the neuron over K timesteps.

    Memory in other orders than contiguous and channels last takes the eager code, unless spikes are to be counted.

    Args:
        current: x, (K, B, C, ...), in activation units; 16, 32 or 64 bits.
        membrane: v before the first of these steps, (B, C, ...), of at least 32 bits so that chunks of time don't
            change the result; becomes v after the last one.
        threshold: θ, (C,), rounded to the dtype of `current`.
        bias: b, (K, C), or None for no bias.
        out: (K, B, C, ...), becomes θ·s. May be `current` itself, which it then overwrites. None: only count spikes.
        channel_dim: Dimension of C in `membrane`.
        counts: (K,) int64, to which the number of spikes of each step is added.

    Returns:
        `out`.
    """
    tensors = (membrane, current[0]) if out is None else (membrane, current[0], out[0])
    inner, channels = inner_size(channel_dim, *tensors), threshold.numel()
    if inner is None and out is not None and counts is None:
        theta = neuron.per_channel(threshold.to(current.dtype), membrane.ndim, channel_dim)
        b = bias if bias is None else neuron.per_channel(bias, membrane.ndim, channel_dim)
        return neuron.integrate_and_fire_(current, membrane, theta, b, out)
    launch(
        _neuron,
        (blocks(membrane.numel(), _BLOCK),),
        membrane,
        current,
        threshold,
        None if bias is None else bias.contiguous(),
        out,
        counts,
        membrane.numel(),
        len(current),
        current.stride(0),
        0 if out is None else out.stride(0),
        channels,
        check_layout(channel_dim, *tensors) if inner is None else inner,
        COMPUTE=_compute(membrane),
        BLOCK=_BLOCK,
    )
    return out


def fire_(
    membrane: Tensor,
    threshold: Tensor,
    bias: Tensor,
    out: Tensor,
    channel_dim: int,
    error: Tensor | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """Add the bias of one step, then fire and reset by subtraction.

    Args:
        membrane: u[t] without the bias, (B, C, ...), in activation units, 32 or 64 bits; becomes v[t].
        threshold: θ, (C,), rounded to the dtype of `out`.
        bias: b[t], (C,).
        out: (B, C, ...), becomes θ·s[t].
        channel_dim: Dimension of C in `membrane`.
        error: (B, C, ...), from which θ·s[t] is subtracted.
        counts: (1,) int64, to which the number of spikes is added.

    Returns:
        `out`.

    Raises:
        ValueError: The tensors lie in memory in different orders, or in one that is neither contiguous nor channels
            last.
    """
    tensors = (membrane, out) if error is None else (membrane, out, error)
    launch(
        _fire,
        (blocks(membrane.numel(), _BLOCK),),
        membrane,
        threshold,
        bias,
        out,
        error,
        counts,
        membrane.numel(),
        threshold.numel(),
        check_layout(channel_dim, *tensors),
        COMPUTE=_compute(membrane),
        BLOCK=_BLOCK,
    )
    return out


def _compute(membrane: Tensor) -> tl.dtype:
    return tl.float64 if membrane.dtype == torch.float64 else tl.float32


@triton.jit
def channels_of(start, within, channels, inner):
    """Channel of each element of memory `start + within`; only the start may need 64 bits."""
    return ((start % (channels * inner)).to(tl.int32) + within) // inner % channels


@triton.jit(do_not_specialize=["steps", "channels"])
def _neuron(
    membrane,
    current,
    threshold,
    bias,
    out,
    counts,
    size,
    steps,
    current_step,
    out_step,
    channels,
    inner,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    within = tl.arange(0, BLOCK)
    inside = within < size - start
    channel = channels_of(start, within, channels, inner)
    theta = tl.load(threshold + channel).to(current.dtype.element_ty).to(COMPUTE)
    v = tl.load(membrane + start + within, mask=inside, other=0.0).to(COMPUTE)
    source = current + start + within
    following = tl.load(source, mask=inside, other=0.0)
    for step in range(steps):
        # The next current is on its way while this one is worked on. `out` may overwrite this one, not the next.
        present = following
        source += current_step
        following = tl.load(source, mask=within < tl.where(step + 1 < steps, size - start, 0), other=0.0)
        u = v + present.to(COMPUTE)
        if bias is not None:
            u += tl.load(bias + step * channels + channel).to(COMPUTE)
        fires = u >= theta
        spikes = tl.where(fires, theta, 0.0)
        v = u - spikes
        if out is not None:
            tl.store(out + start + within, spikes.to(out.dtype.element_ty), mask=inside)
            out += out_step
        if counts is not None:
            tl.atomic_add(counts + step, tl.sum((fires & inside).to(tl.int32)).to(tl.int64))
    tl.store(membrane + start + within, v.to(membrane.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["channels"])
def _fire(
    membrane, threshold, bias, out, error, counts, size, channels, inner, COMPUTE: tl.constexpr, BLOCK: tl.constexpr
):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    within = tl.arange(0, BLOCK)
    inside = within < size - start
    channel = channels_of(start, within, channels, inner)
    theta = tl.load(threshold + channel).to(out.dtype.element_ty).to(COMPUTE)
    u = tl.load(membrane + start + within, mask=inside, other=0.0).to(COMPUTE)
    u += tl.load(bias + channel).to(COMPUTE)
    fires = u >= theta
    spikes = tl.where(fires, theta, 0.0)
    tl.store(out + start + within, spikes.to(out.dtype.element_ty), mask=inside)
    tl.store(membrane + start + within, (u - spikes).to(membrane.dtype.element_ty), mask=inside)
    if error is not None:
        lacking = tl.load(error + start + within, mask=inside, other=0.0).to(COMPUTE)
        tl.store(error + start + within, (lacking - spikes).to(error.dtype.element_ty), mask=inside)
    if counts is not None:
        tl.atomic_add(counts, tl.sum((fires & inside).to(tl.int32)).to(tl.int64))
