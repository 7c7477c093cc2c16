"""All steps of a site under `exact` in one launch: one program per channel integrates, selects and fires, step by step.

Channels don't depend on each other, so nothing has to be waited for between the steps but the program itself. A channel
of few values stays in registers. Of one with more, a sample tells between which two values the wanted one lies; those
between them are few enough to stay in registers again.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ftbc_pl.functional.kernels.exact import Cut, bias_of
from ftbc_pl.functional.kernels.launch import blocks, check_layout, inner_size, launch
from ftbc_pl.functional.kernels.selection import _key, _value

_RESIDENT = 2**14  # values of a channel that a program holds
_SAMPLE = 2**14
_BLOCK = 2**13
_MOST = 2**16  # values of a channel above which sharing the work among programs is faster (measured on an H100)
_SMALLEST, _LARGEST = tl.constexpr(-(2**31)), tl.constexpr(2**31 - 1)


def fits(membrane: Tensor, current: Tensor, out: Tensor, channel_dim: int) -> bool:
    """Whether `exact_site_` takes a site: membrane (B, C, ...), current and output (K, B, C, ...)."""
    rows = membrane.numel() // max(1, membrane.shape[channel_dim])
    return 0 < rows <= _MOST and inner_size(channel_dim, membrane, current[0], out[0]) is not None


def exact_site_(
    current: Tensor,
    membrane: Tensor,
    threshold: Tensor,
    cut: Cut,
    bias: Tensor,
    out: Tensor,
    channel_dim: int,
    counts: Tensor,
) -> Tensor:
    """Integrate each current, choose its bias as `ftbc_pl.calibration.solvers.exact_bias` does, to the bit, and fire.

    One bias per channel, in a single process.

    Args:
        current: x, (K, B, C, ...), in activation units.
        membrane: v before the first of these steps, (B, C, ...) float32; becomes v after the last one.
        threshold: θ, (C,) float32.
        cut: Where to cut each channel, (C,).
        bias: (K, C) float32, becomes b.
        out: (K, B, C, ...), becomes θ·s; may be `current` itself.
        channel_dim: Dimension of C in `membrane`.
        counts: (K,) int64, to which the number of spikes of each step is added.

    Returns:
        `out`.

    Raises:
        ValueError: Another dtype, or memory that is neither contiguous nor channels last, or in two orders.
    """
    if membrane.dtype != torch.float32:
        raise ValueError(f"Expected a float32 membrane, got {membrane.dtype}; use the eager code for other dtypes.")
    inner, channels = check_layout(channel_dim, membrane, current[0], out[0]), threshold.numel()
    rows = membrane.numel() // channels
    tensors = (membrane, current, threshold, cut.rank, cut.edge, cut.margin, cut.lowest, cut.highest, bias, out, counts)
    sizes = (len(current), current.stride(0), out.stride(0), bias.stride(0), rows, channels, inner)
    if rows <= _RESIDENT:
        block = triton.next_power_of_2(rows)
        launch(_few, (channels,), *tensors, *sizes, BLOCK=block, num_warps=_warps(block))
        return out
    # Of the values between the two of the sample there should be a 32nd of all; twice as many fit.
    kept = max(_SAMPLE, triton.next_power_of_2(blocks(rows, 16)))
    scratch = torch.empty(channels * kept, dtype=torch.int32, device=membrane.device)
    options = {"SAMPLE": _SAMPLE, "MARGIN": _SAMPLE // 64, "KEPT": kept, "BLOCK": _BLOCK}
    launch(_many, (channels,), *tensors, scratch, *sizes, **options, num_warps=_warps(_BLOCK))
    return out


def _warps(block: int) -> int:
    return max(1, min(32, block // 256))


@triton.jit
def _largest(keys, rank):
    """The largest integer that more than `rank` of the keys reach: the key of that rank, counted from 0."""
    found = tl.where(tl.sum((keys >= 0).to(tl.int32), 0) > rank, 0, _SMALLEST)
    unit = found * 0 + 1073741824
    for _ in range(31):
        found = tl.where(tl.sum((keys >= found + unit).to(tl.int32), 0) > rank, found + unit, found)
        unit = unit >> 1
    return found


@triton.jit
def _places(start, channel, channels, inner, BLOCK: tl.constexpr):
    """Rows `start` and on of a channel, and where they are in memory."""
    row = start + tl.arange(0, BLOCK)
    return row, row // inner * (channels * inner) + channel * inner + row % inner


@triton.jit
def _two(found, greater, larger, rank):
    """The value of a key, and the value of the rank before it: `greater` keys are larger, the least is `larger`."""
    below = _value(found)
    return below, tl.where(rank == 0, float("inf"), tl.where(greater < rank, below, _value(larger)))


@triton.jit(do_not_specialize=["steps", "bias_step", "channels", "rows"])
def _few(
    membrane, current, threshold, ranks, edge, margin, lowest, highest, bias, out, counts,
    steps, current_step, out_step, bias_step, rows, channels, inner, BLOCK: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0)
    row, at = _places(0, channel, channels, inner, BLOCK)
    inside = row < rows
    theta, rank = tl.load(threshold + channel), tl.load(ranks + channel).to(tl.int32)
    size = theta.to(out.dtype.element_ty).to(tl.float32)
    v = tl.load(membrane + at, mask=inside, other=0.0)
    for step in range(steps):
        u = v + tl.load(current + at, mask=inside, other=0.0).to(tl.float32)
        keys = tl.where(inside, _key(u - theta), _SMALLEST)
        found = _largest(keys, rank)
        greater = keys > found
        larger = tl.min(tl.where(greater, keys, _LARGEST), 0)
        below, above = _two(found, tl.sum(greater.to(tl.int32), 0), larger, rank)
        b = bias_of(below, above, channel, edge, margin, lowest, highest)
        tl.store(bias + channel, b)
        u += b
        fires = u >= size
        spikes = tl.where(fires, size, 0.0)
        v = u - spikes
        tl.store(out + at, spikes.to(out.dtype.element_ty), mask=inside)
        tl.atomic_add(counts + step, tl.sum((fires & inside).to(tl.int32), 0).to(tl.int64))
        current += current_step
        out += out_step
        bias += bias_step
    tl.store(membrane + at, v, mask=inside)


@triton.jit(do_not_specialize=["steps", "bias_step", "channels", "rows"])
def _many(
    membrane, current, threshold, ranks, edge, margin, lowest, highest, bias, out, counts, scratch,
    steps, current_step, out_step, bias_step, rows, channels, inner,
    SAMPLE: tl.constexpr, MARGIN: tl.constexpr, KEPT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0)
    theta, rank = tl.load(threshold + channel), tl.load(ranks + channel).to(tl.int32)
    size = theta.to(out.dtype.element_ty).to(tl.float32)
    scratch += channel * KEPT
    for step in range(steps):
        for start in range(0, rows, BLOCK):
            row, at = _places(start, channel, channels, inner, BLOCK)
            inside = row < rows
            u = tl.load(membrane + at, mask=inside, other=0.0)
            tl.store(membrane + at, u + tl.load(current + at, mask=inside, other=0.0).to(tl.float32), mask=inside)
        tl.debug_barrier()  # what one thread has written another one reads
        low, high = _bracket(membrane, theta, rank, channel, rows, channels, inner, SAMPLE, MARGIN)
        # Summed up by each thread, and over the threads in the end.
        beyond, least, collected = tl.zeros([BLOCK], tl.int32), tl.full([BLOCK], _LARGEST, tl.int32), rank * 0
        for start in range(0, rows, BLOCK):
            row, at = _places(start, channel, channels, inner, BLOCK)
            keys = _key(tl.load(membrane + at, mask=row < rows, other=0.0) - theta)
            greater, between = (row < rows) & (keys > high), (row < rows) & (keys >= low) & (keys <= high)
            beyond += greater.to(tl.int32)
            least = tl.minimum(least, tl.where(greater, keys, _LARGEST))
            place = collected + tl.cumsum(between.to(tl.int32), 0) - 1
            tl.store(scratch + place, keys, mask=between & (place < KEPT))
            collected += tl.sum(between.to(tl.int32), 0)
        tl.debug_barrier()
        above, larger = tl.sum(beyond, 0), tl.min(least, 0)
        within = rank - above
        if (within >= 0) & (within < collected) & ((collected <= KEPT) | (low == high)):
            kept = tl.arange(0, KEPT)
            keys = tl.load(scratch + kept, mask=kept < collected, other=_SMALLEST)
            found = _largest(keys, tl.minimum(within, KEPT - 1))
            greater = (keys > found) & (kept < collected)
            above += tl.sum(greater.to(tl.int32), 0)
            larger = tl.minimum(larger, tl.min(tl.where(greater, keys, _LARGEST), 0))
        else:
            found = _largest_in_memory(membrane, theta, rank, channel, rows, channels, inner, BLOCK)
            above, larger = _beyond(membrane, theta, found, channel, rows, channels, inner, BLOCK)
        below, before = _two(found, above, larger, rank)
        b = bias_of(below, before, channel, edge, margin, lowest, highest)
        tl.store(bias + channel, b)
        fired = tl.zeros([BLOCK], tl.int32)
        for start in range(0, rows, BLOCK):
            row, at = _places(start, channel, channels, inner, BLOCK)
            u = tl.load(membrane + at, mask=row < rows, other=0.0) + b
            fires = u >= size
            spikes = tl.where(fires, size, 0.0)
            tl.store(out + at, spikes.to(out.dtype.element_ty), mask=row < rows)
            tl.store(membrane + at, u - spikes, mask=row < rows)
            fired += (fires & (row < rows)).to(tl.int32)
        tl.atomic_add(counts + step, tl.sum(fired, 0).to(tl.int64))
        tl.debug_barrier()
        current += current_step
        out += out_step
        bias += bias_step


@triton.jit
def _bracket(membrane, theta, rank, channel, rows, channels, inner, SAMPLE: tl.constexpr, MARGIN: tl.constexpr):
    """Two keys between which the wanted one lies, but for one channel in some ten thousand, by a sample of the rows."""
    row = tl.arange(0, SAMPLE) * (rows // SAMPLE)
    at = row // inner * (channels * inner) + channel * inner + row % inner
    keys = _key(tl.load(membrane + at) - theta)
    expected = (rank.to(tl.int64) * SAMPLE // rows).to(tl.int32)
    low = _largest(keys, tl.minimum(expected + MARGIN, SAMPLE - 1))
    high = _largest(keys, tl.maximum(expected - MARGIN, 0))
    return tl.where(expected + MARGIN < SAMPLE, low, _SMALLEST), tl.where(expected >= MARGIN, high, _LARGEST)


@triton.jit
def _reaching(membrane, theta, key, channel, rows, channels, inner, BLOCK: tl.constexpr):
    """How many keys of a channel are `key` or more."""
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, rows, BLOCK):
        row, at = _places(start, channel, channels, inner, BLOCK)
        keys = _key(tl.load(membrane + at, mask=row < rows, other=0.0) - theta)
        count += ((row < rows) & (keys >= key)).to(tl.int32)
    return tl.sum(count, 0)


@triton.jit
def _largest_in_memory(membrane, theta, rank, channel, rows, channels, inner, BLOCK: tl.constexpr):
    """`_largest` of all keys of a channel: where many are equal, or a sample tells little."""
    found = tl.where(_reaching(membrane, theta, 0, channel, rows, channels, inner, BLOCK) > rank, 0, _SMALLEST)
    unit = found * 0 + 1073741824
    for _ in range(31):
        count = _reaching(membrane, theta, found + unit, channel, rows, channels, inner, BLOCK)
        found = tl.where(count > rank, found + unit, found)
        unit = unit >> 1
    return found


@triton.jit
def _beyond(membrane, theta, key, channel, rows, channels, inner, BLOCK: tl.constexpr):
    """How many keys of a channel are larger than `key`, and the smallest of them."""
    count, smallest = tl.zeros([BLOCK], tl.int32), tl.full([BLOCK], _LARGEST, tl.int32)
    for start in range(0, rows, BLOCK):
        row, at = _places(start, channel, channels, inner, BLOCK)
        keys = _key(tl.load(membrane + at, mask=row < rows, other=0.0) - theta)
        greater = (row < rows) & (keys > key)
        count += greater.to(tl.int32)
        smallest = tl.minimum(smallest, tl.where(greater, keys, _LARGEST))
    return tl.sum(count, 0), tl.min(smallest, 0)
