"""Order statistics of each channel by bisection: counts only, no sort, the same answer for any number of processes.

Floating-point numbers map to integers of the same order. Fixing the bits of that integer from the leading one on, with
one count of the values at or above it each, ends at the exact order statistic after 32 (float32) or 64 counts. Counts
of several processes merge by adding.
"""

import torch
from torch import Tensor

from ftbc_pl.distributed import maximum_over_processes, sum_over_processes
from ftbc_pl.functional.neuron import per_channel


def largest(values: Tensor, ranks: Tensor, channel_dim: int) -> tuple[Tensor, Tensor]:
    """Find the value of each channel that has a given rank, and the one ranked just before it.

    Args:
        values: (B, C, ...) float32 or float64, without NaN; of all processes together, one channel holds n values.
        ranks: (C,) int64 in 0 … n − 1, counted over all processes: 0 selects the largest value of the channel.
        channel_dim: Dimension of C in ``values``.

    Returns:
        Two tensors (C,) of the dtype of ``values``: the value of that rank, and the value of the next smaller rank
        (the same value where the two tie; infinity for rank 0).
    """
    dtype, ndim = values.dtype, values.ndim
    others = [dim for dim in range(ndim) if dim != channel_dim]
    bits = torch.finfo(dtype).bits
    lowest, highest = _to_key(torch.tensor([-torch.inf, torch.inf], dtype=dtype)).tolist()
    key = torch.full_like(ranks, -(1 << (bits - 1)))
    for bit in reversed(range(bits)):
        # In int64 the first step of float64 wraps around, from the smallest integer to zero, as it should.
        candidate = key + torch.tensor(1 << bit if bit < 63 else -(1 << 63), device=key.device)
        cut = _from_key(candidate.clamp(lowest, highest), dtype)
        count = sum_over_processes((values >= per_channel(cut, ndim, channel_dim)).sum(others))
        key = torch.where(count > ranks, candidate, key)
    value = _from_key(key.clamp(lowest, highest), dtype)
    above = values > per_channel(value, ndim, channel_dim)
    count = sum_over_processes(above.sum(others))
    next_larger = -maximum_over_processes(torch.where(above, -values, -torch.inf).amax(others))
    return value, torch.where((ranks > 0) & (count < ranks), value, next_larger)


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
