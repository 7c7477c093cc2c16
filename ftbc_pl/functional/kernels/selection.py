"""Order statistics of each channel from three histograms of the bits of its values, without a sort.

A float32 maps to an integer of the same order. A histogram of its leading 11 bits finds the bin that holds the wanted
rank; among the values of that bin one of the next 11 bits, then one of the last 10, leaves a single value. The value
before it in rank is that of the next occupied bin, or the smallest value in the next occupied bin of a level above.
Counts of several processes merge by adding.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ftbc_pl.functional.kernels.launch import MOST, Merge, alone, blocks, check_layout, launch
from ftbc_pl.functional.kernels.neuron import channels_of

_BLOCK = 1024
_CHUNK = 4  # blocks of one channel that a program counts before it adds to the histogram in memory
_LEADING = tl.constexpr(2048)  # bins of the leading 11 bits, and of the 11 bits after them
_LAST = tl.constexpr(1024)
_BINS = 2 * _LEADING.value + _LAST.value


@dataclass
class Ranked:
    """What is known of the value of each group that has a given rank: all its bits but the last, and their counts.

    A group is a channel, or the whole layer; G groups.

    Attributes:
        ranks: Rank of the value, (G,) int64.
        state: (5, G) int32: leading 22 bits; rank within them; smallest and largest integer that the next larger value
            may have; and the complement of that value.
        counts: Histograms of the three levels, (G·2048 + G·2048 + G·1024,) int32.
    """

    ranks: Tensor
    state: Tensor
    counts: Tensor

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.ranks.numel()

    @property
    def last_counts(self) -> Tensor:
        """Histogram of the last 10 bits of the values that share the leading 22, (G·1024,)."""
        return self.counts[2 * self.groups * _LEADING.value :]


def largest(
    values: Tensor, ranks: Tensor, channel_dim: int, add: Merge = alone, maximum: Merge = alone
) -> tuple[Tensor, Tensor]:
    """Find the value of each channel that has a given rank, and the one ranked just before it.

    Args:
        values: (B, C, ...) float32, without NaN, fewer than 2³⁰ elements, and 2³¹ in all processes together;
            contiguous or channels last.
        ranks: (C,) int64, counted over all processes: 0 selects the largest value of the channel.
        channel_dim: Dimension of C in `values`.
        add: Adds int32 tensors of all processes.
        maximum: Takes the element-wise maximum of int32 tensors of all processes.

    Returns:
        Two tensors (C,): the value of that rank, and the value of the next smaller rank (the same value where the two
        tie; infinity for rank 0).
    """
    ranked = rank(values, None, None, ranks, channel_dim, add=add, maximum=maximum)
    pair = values.new_empty(2, ranked.groups)
    launch(_values, (ranked.groups,), ranked.last_counts, ranked.state, ranks, pair, ranked.groups)
    return pair[0], pair[1]


def rank(
    membrane: Tensor,
    current: Tensor | None,
    threshold: Tensor | None,
    ranks: Tensor,
    channel_dim: int,
    add: Merge = alone,
    maximum: Merge = alone,
) -> Ranked:
    """Add the current to the membrane and count what finds the excess u − θ of a given rank: 6 launches.

    Args:
        membrane: v, (B, C, ...) float32; becomes u = v + x.
        current: x, (B, C, ...); None for nothing to add.
        threshold: θ, (C,); None for nothing to subtract.
        ranks: (C,) int64, or (1,) for one rank over the whole layer.
        channel_dim: Dimension of C in `membrane`.
        add: Adds int32 tensors of all processes.
        maximum: Takes the element-wise maximum of int32 tensors of all processes.

    Returns:
        The counts, those of all processes.
    """
    inner = check_layout(channel_dim, membrane) if current is None else check_layout(channel_dim, membrane, current)
    size, channels, groups = membrane.numel(), membrane.shape[channel_dim], ranks.numel()
    _check(membrane, channels, groups)
    layer = groups != channels
    counts = torch.zeros(groups * _BINS, dtype=torch.int32, device=membrane.device)
    leading, middle, last = counts.split([groups * _LEADING.value, groups * _LEADING.value, groups * _LAST.value])
    state = counts.new_empty(5, groups)
    shape = (size, channels, inner)
    if layer or inner > 1 or channels == 1:
        rows = size if layer else size // channels
        # In larger blocks where they can be filled: a histogram of each costs 2048 bins.
        block = 4 * _BLOCK if rows >= 4 * _BLOCK else _BLOCK
        chunk = min(_CHUNK, blocks(rows, block))
        tiles, warps = (blocks(rows, block * chunk), groups), 8 if block > _BLOCK else 4
        args = (membrane, current, threshold, leading, channels, inner, rows, chunk)
        launch(_count_rows, tiles, *args, LAYER=layer, BLOCK=block, num_warps=warps)
    else:
        launch(_count_channels, (blocks(size, _BLOCK),), membrane, current, threshold, leading, *shape, BLOCK=_BLOCK)
    launch(_find, (groups,), add(leading), ranks, state, groups, FIRST=True)
    grid = (blocks(size, _BLOCK),)
    launch(
        _count_within, grid, membrane, threshold, state, middle, *shape, groups, LAYER=layer, LAST=False, BLOCK=_BLOCK
    )
    launch(_find, (groups,), add(middle), ranks, state, groups, FIRST=False)
    launch(_count_within, grid, membrane, threshold, state, last, *shape, groups, LAYER=layer, LAST=True, BLOCK=_BLOCK)
    add(last)
    maximum(state[4])
    return Ranked(ranks, state, counts)


def _check(membrane: Tensor, channels: int, groups: int) -> None:
    if membrane.dtype != torch.float32:
        raise ValueError(f"Expected a float32 membrane, got {membrane.dtype}; use the eager code for other dtypes.")
    if membrane.numel() >= MOST:
        raise ValueError(
            f"Expected fewer than 2³⁰ membranes, got {membrane.numel()}; use smaller batches, or the eager code."
        )
    if groups not in (1, channels):
        raise ValueError(f"Expected {channels} ranks, one for each channel, or 1 for the layer, got {groups}.")


@triton.jit
def _key(values):
    """Map float32 to int32 of the same order; the same map leads back."""
    raw = values.to(tl.int32, bitcast=True)
    return raw ^ ((raw >> 31) & 0x7FFFFFFF)


@triton.jit
def _value(key):
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _integrate_(membrane, current, threshold, at, channel, inside):
    """Integer of the excess u − θ, after u = v + x."""
    u = tl.load(membrane + at, mask=inside, other=0.0)
    if current is not None:
        u += tl.load(current + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(membrane + at, u, mask=inside)
    if threshold is not None:
        u -= tl.load(threshold + channel).to(tl.float32)
    return _key(u)


@triton.jit(do_not_specialize=["channels", "chunk"])
def _count_rows(
    membrane,
    current,
    threshold,
    counts,
    channels,
    inner,
    rows,
    chunk,
    LAYER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Histogram of the leading 11 bits where a program has one group: in shared memory, then added to the others'."""
    group = tl.program_id(1)
    bins = tl.arange(0, _LEADING)
    total = tl.zeros([_LEADING], dtype=tl.int32)
    for block in range(chunk):
        row = (tl.program_id(0) * chunk + block) * BLOCK + tl.arange(0, BLOCK)
        inside = row < rows
        if LAYER:
            at, channel = row, row // inner % channels
        else:
            at, channel = row // inner * (channels * inner) + group * inner + row % inner, group
        digit = (_integrate_(membrane, current, threshold, at, channel, inside) >> 21) + _LEADING // 2
        total += tl.histogram(digit, _LEADING, mask=inside)
    tl.atomic_add(counts + group * _LEADING + bins, total, mask=total > 0, sem="relaxed")


@triton.jit(do_not_specialize=["channels"])
def _count_channels(membrane, current, threshold, counts, size, channels, inner, BLOCK: tl.constexpr):
    """Histogram of the leading 11 bits where neighbours in memory are of different channels: straight to memory."""
    start = tl.program_id(0) * BLOCK
    within = tl.arange(0, BLOCK)
    inside = within < size - start
    channel = channels_of(start, within, channels, inner)
    digit = (_integrate_(membrane, current, threshold, start + within, channel, inside) >> 21) + _LEADING // 2
    tl.atomic_add(counts + channel * _LEADING + digit, 1, mask=inside, sem="relaxed")


@triton.jit(do_not_specialize=["channels", "groups"])
def _count_within(
    membrane,
    threshold,
    state,
    counts,
    size,
    channels,
    inner,
    groups,
    LAYER: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Histogram of the next bits of the values whose leading bits are those found."""
    start = tl.program_id(0) * BLOCK
    within = tl.arange(0, BLOCK)
    inside = within < size - start
    channel = channels_of(start, within, channels, inner)
    key = _integrate_(membrane, None, threshold, start + within, channel, inside)
    group = channel * 0 if LAYER else channel
    leading = tl.load(state + group)
    if LAST:
        found = inside & (key >> 10 == leading)
        tl.atomic_add(counts + group * _LAST + (key & (_LAST - 1)), 1, mask=found, sem="relaxed")
        low, high = tl.load(state + 2 * groups + group), tl.load(state + 3 * groups + group)
        tl.atomic_max(state + 4 * groups + group, ~key, mask=inside & (key >= low) & (key <= high), sem="relaxed")
    else:
        found = inside & (key >> 21 == leading)
        tl.atomic_add(counts + group * _LEADING + ((key >> 10) & (_LEADING - 1)), 1, mask=found, sem="relaxed")


@triton.jit
def _bin_of(counts, rank, BINS: tl.constexpr):
    """The bin that holds a rank, counted from the last one; the rank within it; the next occupied bin, or BINS."""
    bins = tl.arange(0, BINS)
    count = tl.load(counts + bins)
    beyond = tl.cumsum(count, 0, reverse=True) - count
    holds = (beyond <= rank) & (rank < beyond + count)
    found = tl.sum(tl.where(holds, bins, 0))
    return found, rank - tl.sum(tl.where(holds, beyond, 0)), tl.min(tl.where((bins > found) & (count > 0), bins, BINS))


@triton.jit(do_not_specialize=["groups"])
def _find(counts, ranks, state, groups, FIRST: tl.constexpr):
    group = tl.program_id(0)
    if FIRST:
        wanted = tl.load(ranks + group).to(tl.int32)
        found, within, following = _bin_of(counts + group * _LEADING, wanted, _LEADING)
        leading, above, shift = found - _LEADING // 2, following - _LEADING // 2, 21
        # No integer lies between these, and none has a smaller complement than this.
        tl.store(state + 2 * groups + group, 2147483647)
        tl.store(state + 3 * groups + group, -2147483648)
        tl.store(state + 4 * groups + group, -2147483648)
    else:
        wanted = tl.load(state + groups + group)
        found, within, following = _bin_of(counts + group * _LEADING, wanted, _LEADING)
        before = tl.load(state + group) * _LEADING
        leading, above, shift = before + found, before + following, 10
    tl.store(state + group, leading)
    tl.store(state + groups + group, within)
    low = above << shift
    tl.store(state + 2 * groups + group, low, mask=following < _LEADING)
    tl.store(state + 3 * groups + group, low + ((1 << shift) - 1), mask=following < _LEADING)


@triton.jit
def value_and_larger(counts, state, ranks, group, groups):
    """The value of the wanted rank, and the one of the rank before it."""
    within = tl.load(state + groups + group)
    found, within, following = _bin_of(counts + group * _LAST, within, _LAST)
    leading = tl.load(state + group) * _LAST
    value = _value(leading + found)
    next_larger = _value(tl.where(following < _LAST, leading + following, ~tl.load(state + 4 * groups + group)))
    next_larger = tl.where(within > 0, value, next_larger)
    return value, tl.where(tl.load(ranks + group) == 0, float("inf"), next_larger)


@triton.jit(do_not_specialize=["groups"])
def _values(counts, state, ranks, pair, groups):
    group = tl.program_id(0)
    value, larger = value_and_larger(counts, state, ranks, group, groups)
    tl.store(pair + group, value)
    tl.store(pair + groups + group, larger)
