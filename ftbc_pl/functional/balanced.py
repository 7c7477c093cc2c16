"""The temporal bias that minimises the error of the output, its mean weighted more than its noise.

Matching means alone (``exact``) ignores what single neurons do; least squares alone (λ = 0) lets the mean of a channel
drift, and an error of the mean is shared by all neurons of a channel and adds up from layer to layer, where noise
averages out. λ says how much more the mean counts.
"""

import torch
from torch import Tensor

from ftbc_pl.distributed import sum_over_processes
from ftbc_pl.functional.neuron import per_channel

_BINS = 256  # candidates for the bias, in each θ
_ZERO = _BINS  # index of the candidate 0: they go from −θ …
_CANDIDATES = 3 * _BINS + 1  # … to 2θ
_INTEGER = 2.0**16  # values are summed as multiples of its inverse, so that the order of a sum does not matter


def balanced_bias(
    membrane: Tensor,
    error: Tensor,
    threshold: Tensor,
    channel_dim: int,
    mean_weight: float,
    granularity: str = "channel",
) -> Tensor:
    """Choose b[t] to minimise Σ (e − θ·s)² + λ·n·(mean of e − θ·s)², a sum over the n neurons of a channel.

    s are the spikes that u[t] + b[t] fires, e = t·a − θ·Σ_{τ<t} s[τ] what the output so far lacks. Candidates for b[t]
    are the multiples of θ/256 from −θ to 2θ; of those that fire the same neurons the one closest to zero is taken.
    Counts and integer sums a candidate are all that is needed, so the result is the same to the bit for any number of
    processes.

    Args:
        membrane: u[t] without the bias, (B, C, ...), in activation units.
        error: e, (B, C, ...), in activation units.
        threshold: θ, (C,).
        channel_dim: Dimension of C in ``membrane``.
        mean_weight: λ ≥ 0.
        granularity: One bias a channel, or one for the whole layer.

    Returns:
        b[t], (C,).
    """
    by_channel = granularity == "channel"
    channels, ndim = threshold.numel(), membrane.ndim
    unit = threshold if by_channel else threshold.max().expand_as(threshold)
    scale = per_channel(unit, ndim, channel_dim)
    theta, error = per_channel(threshold / unit, ndim, channel_dim), error / scale
    # The first candidate that makes each neuron fire; one beyond the last where none does.
    first = (theta - membrane / scale).mul_(_BINS).ceil_().add_(_ZERO).clamp_(0, _CANDIDATES).to(torch.int64)
    groups = channels if by_channel else 1
    if by_channel:
        offsets = torch.arange(channels, device=first.device) * (_CANDIDATES + 1)
        first += per_channel(offsets, ndim, channel_dim)
    others = [dim for dim in range(ndim) if not by_channel or dim != channel_dim]
    sums = torch.cat(
        [
            _sums(first, theta * (theta - 2 * error), groups),
            _sums(first, theta.expand_as(error), groups),
            _integers(error).sum(others).view(groups, 1),
            torch.full((groups, 1), error.numel() / groups, dtype=torch.float64, device=error.device),
        ],
        dim=1,
    )
    sums = sum_over_processes(sums)
    lacking, count = sums[:, -2:-1] / _INTEGER, sums[:, -1:]
    squares, fired = (part[:, :_CANDIDATES].cumsum(1) / _INTEGER for part in sums[:, :-2].chunk(2, 1))
    mean = (lacking - fired) / count
    loss = squares / count + mean_weight * mean * mean
    distance = torch.arange(-_ZERO, _CANDIDATES - _ZERO, device=loss.device).abs()
    best = torch.where(loss == loss.amin(1, keepdim=True), distance, _CANDIDATES).argmin(1)
    return ((best - _ZERO) * (unit / _BINS)).to(threshold.dtype)


def _sums(bins: Tensor, values: Tensor, groups: int) -> Tensor:
    """Sum of the values in each bin, (groups, _CANDIDATES + 1)."""
    total = groups * (_CANDIDATES + 1)
    return torch.bincount(bins.flatten(), _integers(values).flatten(), total).view(groups, -1)


def _integers(values: Tensor) -> Tensor:
    # Whole numbers in float64: sums below 2^53 are exact.
    return (values * _INTEGER).round_().to(torch.float64)
