"""Order statistics of each channel: the same answer for any number of parts, such as processes.

One part alone partitions its values, or sorts them where a channel holds few, and on a GPU, where a call costs more
than the work. Several exchange counts: a histogram finds the bin of each channel that holds the wanted rank. Among its
few values a bisection finds the one: floating-point numbers map to integers of the same order, and fixing the bits of
that integer from the leading one on, with one count of the values at or above it each, ends at the exact order
statistic after 32 (float32) or 64 counts. Counts of several parts merge by adding.
"""

import numpy as np
import torch
from torch import Tensor

from ftbc_pl.functional.merge import ALONE, Merge
from ftbc_pl.functional.neuron import batch_slices, per_channel

_BINS = 1024
_SORTED = 2**25  # values sorted at once, with 8 bytes of index each
_FEW = 2048


def largest(values: Tensor, ranks: Tensor, channel_dim: int, merge: Merge = ALONE) -> tuple[Tensor, Tensor]:
    """Find the value of each channel that has a given rank, and the one ranked just before it.

    Args:
        values: (B, C, ...) float32 or float64, without NaN; of all parts together, one channel holds n values.
        ranks: (C,) int64 in 0 … n − 1, counted over all parts: 0 selects the largest value of the channel.
        channel_dim: Dimension of C in `values`.
        merge: Adds up counts of all parts.

    Returns:
        Two tensors (C,) of the dtype of `values`: the value of that rank, and the value of the next smaller rank
        (the same value where the two tie; infinity for rank 0).
    """
    if merge is not ALONE:
        return by_counts(values, ranks, channel_dim, merge)
    return (by_partition if values.device.type == "cpu" else by_sorting)(values, ranks, channel_dim)


def by_partition(values: Tensor, ranks: Tensor, channel_dim: int) -> tuple[Tensor, Tensor]:
    """`largest` of one part; NumPy's partition is vectorised where the processor allows, torch's is not."""
    last = values.movedim(channel_dim, -1)
    # Channels last in memory: a transposed matrix is copied three times faster than a tensor of four dimensions.
    channels = last.flatten(0, -2).t() if last.is_contiguous() else values.movedim(channel_dim, 0).flatten(1)
    matrix = channels.contiguous().numpy()
    final = matrix.shape[1] - 1
    places = final - ranks.numpy()
    if final < _FEW:
        # Short rows cost less to sort all at once than to partition one by one.
        neighbours = np.stack([places, np.minimum(places + 1, final)], axis=1)
        pairs = np.take_along_axis(np.sort(matrix, axis=1), neighbours, axis=1)
    else:
        pairs = np.array([_cut(row, place) for row, place in zip(matrix, places, strict=True)])
    value, larger = torch.from_numpy(pairs).unbind(1)
    return value, larger.masked_fill(ranks == 0, torch.inf)


def _cut(row: np.ndarray, place: int) -> tuple[np.floating, np.floating]:
    """The value at a place of the sorted row, and the one after it (infinity behind the last)."""
    parts = np.partition(row, place)
    return parts[place], parts[place + 1 :].min(initial=np.inf)


def by_sorting(values: Tensor, ranks: Tensor, channel_dim: int) -> tuple[Tensor, Tensor]:
    """`largest` of one part in a handful of operations, a group of channels at a time to save memory."""
    channels = values.movedim(channel_dim, 0).flatten(1)
    places = torch.stack([ranks, (ranks - 1).clamp(min=0)], dim=1)
    group = max(1, _SORTED // channels.shape[1])
    pairs = [
        some.sort(dim=1, descending=True).values.gather(1, place)
        for some, place in zip(channels.split(group), places.split(group), strict=True)
    ]
    value, larger = torch.cat(pairs).unbind(1)
    return value, larger.masked_fill(ranks == 0, torch.inf)


def by_counts(values: Tensor, ranks: Tensor, channel_dim: int, merge: Merge = ALONE) -> tuple[Tensor, Tensor]:
    """`largest` from counts of all parts."""
    bins, counts = _histogram(values, len(ranks), channel_dim, merge)
    # How many values lie in each bin and above it.
    reached = counts.flip(1).cumsum(1).flip(1)
    chosen = (reached > ranks.unsqueeze(1)).sum(1) - 1
    within = bins == per_channel(chosen.to(torch.int32), values.ndim, channel_dim)
    candidates = values.movedim(channel_dim, -1)[within.movedim(channel_dim, -1)]
    channels = within.movedim(channel_dim, -1).nonzero()[:, -1]
    beyond = torch.where(chosen + 1 < _BINS, reached.gather(1, (chosen + 1).clamp(max=_BINS - 1)[:, None])[:, 0], 0)
    value = _bisect(candidates, channels, ranks - beyond, merge)
    others = [dim for dim in range(values.ndim) if dim != channel_dim]
    above = values > per_channel(value, values.ndim, channel_dim)
    count = merge.add(above.sum(others))
    next_larger = -merge.maximum(torch.where(above, -values, -torch.inf).amax(others))
    return value, torch.where((ranks > 0) & (count < ranks), value, next_larger)


def _histogram(values: Tensor, channels: int, channel_dim: int, merge: Merge) -> tuple[Tensor, Tensor]:
    """Bin of each value between the smallest and largest one of its channel, and counts (C, bins) of all parts."""
    finite = torch.finfo(values.dtype)
    others = [dim for dim in range(values.ndim) if dim != channel_dim]
    # A quarter of the largest numbers, so that no difference overflows.
    low, high = (
        bound.clamp(finite.min / 4, finite.max / 4)
        for bound in (-merge.maximum(-values.amin(others)), merge.maximum(values.amax(others)))
    )
    scale = torch.where(high > low, _BINS / (high - low), 0).clamp(max=finite.max)
    low, scale = (per_channel(bound, values.ndim, channel_dim) for bound in (low, scale))
    offset = per_channel(
        torch.arange(channels, dtype=torch.int32, device=values.device) * _BINS, values.ndim, channel_dim
    )
    bins = torch.empty_like(values, dtype=torch.int32)
    counts = torch.zeros(channels * _BINS, dtype=torch.int64, device=values.device)
    for rows in batch_slices(values):
        position = values[rows].clamp(finite.min / 4, finite.max / 4).sub_(low).mul_(scale).clamp_(0, _BINS - 1)
        bins[rows] = position.to(torch.int32)
        counts += torch.bincount((bins[rows] + offset).flatten(), minlength=len(counts))
    return bins, merge.add(counts).view(channels, _BINS)


def _bisect(values: Tensor, channels: Tensor, ranks: Tensor, merge: Merge) -> Tensor:
    """The value of each channel that has a given rank.

    Args:
        values: (N,) float32 or float64.
        channels: Channel of each value, (N,).
        ranks: (C,), counted over all parts.
        merge: Adds up counts of all parts.
    """
    dtype, bits = values.dtype, torch.finfo(values.dtype).bits
    lowest, highest = _to_key(torch.tensor([-torch.inf, torch.inf], dtype=dtype)).tolist()
    key = torch.full_like(ranks, -(1 << (bits - 1)))
    for bit in reversed(range(bits)):
        # In int64 the first step of float64 wraps around, from the smallest integer to zero, as it should.
        candidate = key + torch.tensor(1 << bit if bit < 63 else -(1 << 63), device=key.device)
        cut = _from_key(candidate.clamp(lowest, highest), dtype)
        count = merge.add(torch.bincount(channels[values >= cut[channels]], minlength=len(ranks)))
        key = torch.where(count > ranks, candidate, key)
    return _from_key(key.clamp(lowest, highest), dtype)


def _to_key(values: Tensor) -> Tensor:
    """Map floats to int64 keys of the same order."""
    if values.dtype == torch.float64:
        raw = values.view(torch.int64)
        return raw ^ ((raw >> 63) & torch.iinfo(torch.int64).max)
    raw = values.view(torch.int32)
    return (raw ^ ((raw >> 31) & torch.iinfo(torch.int32).max)).to(torch.int64)


def _from_key(keys: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float64:
        return (keys ^ ((keys >> 63) & torch.iinfo(torch.int64).max)).view(dtype)
    raw = keys.to(torch.int32)
    return (raw ^ ((raw >> 31) & torch.iinfo(torch.int32).max)).view(dtype)
