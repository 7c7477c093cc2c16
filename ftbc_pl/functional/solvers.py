"""Temporal-bias solvers: each gives b[t] for one site and one timestep from the membrane before firing.

Wu et al., "FTBC: Forward Temporal Bias Correction for optimizing ANN-SNN conversion" (ECCV 2024), proposition 1: with a
continuous membrane density there is exactly one bias with which the expected output of a step equals the expected
activation of the ANN. Expectations are over the batch, the space and all processes.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ftbc_pl.distributed import sum_over_processes
from ftbc_pl.functional.neuron import per_channel
from ftbc_pl.functional.selection import largest

Solver = Literal["heuristic", "exact", "balanced"]
Granularity = Literal["channel", "layer"]


@dataclass(frozen=True)
class Cut:
    """Where `exact` cuts the membranes of a site, the same at every step; (C,), or (1,) for the whole layer.

    Attributes:
        rank: Rank of the largest membrane that should not fire, int64; of the smallest one where all should.
        edge: Whether no neuron should fire, or all.
        margin: Distance to keep there, for a membrane of size 1: negative where none should fire, 0 inside.
        lowest: Least bias: 0 where all should fire.
        highest: Largest bias: 0 where none should.
    """

    rank: Tensor
    edge: Tensor
    margin: Tensor
    lowest: Tensor
    highest: Tensor

    @classmethod
    def of(cls, fraction: Tensor, count: int, dtype: torch.dtype) -> "Cut":
        """Cut so that a fraction (C,) of ``count`` membranes of ``dtype`` fires."""
        firing = (fraction * count).round().to(torch.int64)
        none, every = firing == 0, firing == count
        infinite = fraction.new_full(fraction.shape, torch.inf, dtype=dtype)
        # A distance that survives rounding when it is added.
        margin = (every.to(dtype) - none.to(dtype)) * (4 * torch.finfo(dtype).eps)
        lowest, highest = (-infinite).masked_fill(every, 0), infinite.masked_fill(none, 0)
        return cls(firing.clamp(max=count - 1), none | every, margin, lowest, highest)


@dataclass(frozen=True)
class Target:
    """What the ANN does at a site: the expectation that the spikes of every step should meet.

    Attributes:
        activation: E[a], (C,) float64, in activation units.
        fraction: E[a]/θ clipped to [0, 1], (C,) float64: the fraction of neurons that should fire.
        count: Number of values a channel, over all processes.
    """

    activation: Tensor
    fraction: Tensor
    count: int
    _cuts: dict[tuple[Granularity, torch.dtype], Cut] = field(default_factory=dict, repr=False, compare=False)

    def cut(self, granularity: Granularity, dtype: torch.dtype) -> Cut:
        """Where to cut membranes of ``dtype``, worked out once."""
        if (granularity, dtype) not in self._cuts:
            fraction, count = self.fraction, self.count
            if granularity == "layer":
                fraction, count = fraction.mean().unsqueeze(0), count * len(fraction)
            self._cuts[granularity, dtype] = Cut.of(fraction, count, dtype)
        return self._cuts[granularity, dtype]

    @classmethod
    def of(cls, activation: Tensor, threshold: Tensor, channel_dim: int) -> "Target":
        """Measure the target.

        Args:
            activation: a, (B, C, ...).
            threshold: θ, (C,).
            channel_dim: Dimension of C in ``activation``.
        """
        others = [dim for dim in range(activation.ndim) if dim != channel_dim]
        sums = activation.sum(others, dtype=torch.float64)
        size = sums.new_tensor([activation.numel() / activation.shape[channel_dim]])
        totals = sum_over_processes(torch.cat([sums, size]))
        mean = totals[:-1] / totals[-1]
        return cls(mean, (mean / threshold.double()).clamp(0, 1), int(totals[-1].item()))


def mean_per_channel(values: Tensor, channel_dim: int, count: int) -> Tensor:
    """Mean of ``values`` (B, C, ...) a channel over the batch, the space and all processes: (C,) float64."""
    others = [dim for dim in range(values.ndim) if dim != channel_dim]
    return sum_over_processes(values.sum(others, dtype=torch.float64)) / count


def heuristic_bias(
    membrane: Tensor,
    bias: Tensor,
    target: Target,
    threshold: Tensor,
    channel_dim: int,
    alpha: float,
    granularity: Granularity = "channel",
) -> Tensor:
    """One step of the paper's rule: b ← b − α·(E[θ·s] − E[a]), s fired with the present b (Wu et al., algorithm 1).

    Args:
        membrane: u[t] without the bias, (B, C, ...), in activation units.
        bias: b[t] so far, (C,).
        target: Expectations of the ANN at this site.
        threshold: θ, (C,).
        channel_dim: Dimension of C in ``membrane``.
        alpha: Step size α.
        granularity: One error a channel, or one for the whole layer.

    Returns:
        The new b[t], (C,).
    """
    theta = per_channel(threshold, membrane.ndim, channel_dim)
    fired = membrane + per_channel(bias, membrane.ndim, channel_dim) >= theta
    error = mean_per_channel(fired, channel_dim, target.count) * threshold - target.activation
    if granularity == "layer":
        error = error.mean().expand_as(error)
    return (bias - alpha * error).to(bias.dtype)


def exact_bias(
    membrane: Tensor, target: Target, threshold: Tensor, channel_dim: int, granularity: Granularity = "channel"
) -> Tensor:
    """Choose b[t] so that the fraction of fired neurons equals E[a]/θ: an order statistic of the membrane.

    The cut lies half-way between the last value that fires and the first that does not, so the fraction is met to one
    sample plus the samples tied at the cut. Channels that should never (always) fire get a bias that keeps the largest
    (smallest) membrane below (at) the threshold, and none where that is so already.

    Args:
        membrane: u[t] without the bias, (B, C, ...), in activation units.
        target: Expectations of the ANN at this site.
        threshold: θ, (C,).
        channel_dim: Dimension of C in ``membrane``.
        granularity: One cut a channel, or one for the whole layer, where the fraction is the mean of all channels'.

    Returns:
        b[t], (C,).
    """
    excess = membrane - per_channel(threshold, membrane.ndim, channel_dim)
    cut = target.cut(granularity, excess.dtype)
    if granularity == "layer":
        excess, channel_dim = excess.flatten().unsqueeze(0), 0
    below, above = largest(excess, cut.rank, channel_dim)
    # b lies in [−above, −below): `above` still fires, `below` does not.
    middle = -(below + (above - below) / 2)
    edge = ((below.abs() + 1) * cut.margin - below).clamp(cut.lowest, cut.highest)
    return torch.where(cut.edge, edge, middle).expand(threshold.shape)
