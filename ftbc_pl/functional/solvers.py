"""Temporal-bias solvers: each gives b[t] for one site and one timestep from the membrane before firing.

Wu et al., "FTBC: Forward Temporal Bias Correction for optimizing ANN-SNN conversion" (ECCV 2024), proposition 1: with a
continuous membrane density there is exactly one bias with which the expected output of a step equals the expected
activation of the ANN. Expectations are over the batch, the space and all processes.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ftbc_pl.distributed import sum_over_processes
from ftbc_pl.functional.neuron import per_channel
from ftbc_pl.functional.selection import largest

Solver = Literal["heuristic", "exact", "balanced"]
Granularity = Literal["channel", "layer"]


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
    fraction, count = target.fraction, target.count
    if granularity == "layer":
        channels = threshold.numel()
        excess = excess.flatten().unsqueeze(0)
        fraction, count, channel_dim = fraction.mean().unsqueeze(0), count * channels, 0
    firing = (fraction * count).round().to(torch.int64)
    cut_rank = firing.clamp(max=count - 1)
    below, above = largest(excess, cut_rank, channel_dim)
    # b lies in [−above, −below): `above` still fires, `below` does not.
    middle = -(below + (above - below) / 2)
    none = -below - _margin(below)
    bias = torch.where(firing == 0, none.clamp(max=0), middle)
    bias = torch.where(firing == count, (-below + _margin(below)).clamp(min=0), bias)
    return bias.expand(threshold.shape).clone()


def _margin(values: Tensor) -> Tensor:
    """A distance that survives rounding when added to values of this size."""
    return (values.abs() + 1) * (4 * torch.finfo(values.dtype).eps)
