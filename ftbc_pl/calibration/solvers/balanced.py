"""The temporal bias that minimises the error of the output, its mean weighted more than its noise.

Matching means alone (`exact`) ignores what single neurons do; least squares alone (λ = 0) lets the mean of a channel
drift, and an error of the mean is shared by all neurons of a channel and adds up from layer to layer, where noise
averages out. λ says how much more the mean counts. Small values keep weak neurons from firing early: that costs
accuracy at the first step and gains some at the following ones, so the best λ depends on the step that matters.
"""

import torch
from torch import Tensor

from ftbc_pl.calibration.solvers.base import SiteStep, SumSolver
from ftbc_pl.functional.neuron import batch_slices, per_channel
from ftbc_pl.options import CalibrationOptions
from ftbc_pl.registry import SOLVERS

_BINS = 256  # candidates for the bias, in each θ
_ZERO = _BINS  # index of the candidate 0: they go from −θ …
_CANDIDATES = 3 * _BINS + 1  # … to 2θ
_INTEGER = 2.0**16  # errors are summed as multiples of θ over this, so that the order of a sum does not matter


@SOLVERS.register("balanced")
class Balanced(SumSolver):
    """Minimises the squared error of the output so far, its mean weighted by λ."""

    options = frozenset({"horizon", "mean_weight"})
    single_neurons = True

    def __init__(self, options: CalibrationOptions, num_steps: int) -> None:
        """Create the solver with λ as given, or as the horizon wants it."""
        super().__init__(options, num_steps)
        given = options.mean_weight
        self.mean_weight = mean_weight_for(options.horizon or num_steps) if given is None else given

    def update(self, step: SiteStep) -> Tensor:
        """Count and add up what each candidate for the bias would fire, (2, C, candidates)."""
        assert step.error is not None, "single_neurons asks for it"
        sums = balanced_sums(step.membrane, step.error, step.threshold, step.channel_dim, self.granularity)
        if step.target.levels == 1:
            return sums
        further = step.error[len(step.error) // step.target.levels :]
        return sums.sub_(mean_share(further, step.threshold, step.channel_dim, self.granularity))

    def compute(self, sums: Tensor, step: SiteStep) -> Tensor:
        """Choose b[t], (C,)."""
        return balanced_bias(sums, step.threshold, self.mean_weight, self.granularity)

    def launch_(self, step: SiteStep) -> bool:
        """All of a step in 4 launches, where each channel has a bias of its own."""
        if self.granularity == "layer":
            return False
        from ftbc_pl.functional.kernels.balanced import Scale, balanced_step_  # imports Triton

        assert step.error is not None, "single_neurons asks for it"
        assert step.activation is not None, "single_neurons asks for it"
        if "scale" not in step.memory:
            step.memory["scale"] = Scale.of(step.threshold)
        balanced_step_(
            step.current, step.membrane, step.threshold, step.error, step.activation, step.memory["scale"],
            self.mean_weight, step.bias, step.out, step.channel_dim, step.counts, add=step.merge.add,
        )  # fmt: skip
        return True


def mean_weight_for(horizon: int) -> float:
    """λ for the step that accuracy is wanted at: 40/t², at least 1, from held-out images of trained networks.

    The later that step, the more time there is to make up for a mean that is off at first.

    Args:
        horizon: Timestep t ≥ 1 that matters.
    """
    return max(1.0, 40.0 / horizon**2)


def balanced_bias(sums: Tensor, threshold: Tensor, mean_weight: float, granularity: str = "channel") -> Tensor:
    """Choose b[t] to minimise Σ (e − θ·s)² + λ·n·(mean of e − θ·s)², a sum over the n neurons of a channel.

    s are the spikes that u[t] + b[t] fires, e = t·a − θ·Σ_{τ<t} s[τ] what the output so far lacks. Candidates for b[t]
    are the multiples of θ/256 from −θ to 2θ; of those that fire the same neurons the one closest to zero is taken.

    Args:
        sums: What `balanced_sums` adds up, over all processes, (2, C, candidates).
        threshold: θ, (C,).
        mean_weight: λ ≥ 0.
        granularity: One bias per `channel`, or one for the whole `layer`.

    Returns:
        b[t], (C,).
    """
    unit = _unit(threshold, granularity)
    counts, lacking = sums[0], sums[1] / _INTEGER
    number, total = counts.sum(1, keepdim=True), lacking.sum(1, keepdim=True)
    # In units of `unit`: what firing puts out, and what it changes of the squared error.
    output, gain = counts, torch.sub(counts, lacking, alpha=2)
    if granularity == "layer":
        theta = (threshold / unit).to(torch.float64).unsqueeze(1)
        output, gain = theta * counts, theta * torch.sub(theta * counts, lacking, alpha=2)
        number, total, output, gain = (values.sum(0, keepdim=True) for values in (number, total, output, gain))
    loss = (total - output.cumsum(1)).square_().mul_(mean_weight / number).add_(gain.cumsum(1))[:, :_CANDIDATES]
    distance = torch.arange(-_ZERO, _CANDIDATES - _ZERO, dtype=torch.int16, device=loss.device).abs_()
    best = distance.where(loss == loss.amin(1, keepdim=True), _CANDIDATES).argmin(1)
    return ((best - _ZERO) * (unit / _BINS)).to(threshold.dtype)


def _unit(threshold: Tensor, granularity: str) -> Tensor:
    """What candidates are multiples of, (C,): θ of each channel, or the largest of the layer."""
    return threshold.max().expand_as(threshold) if granularity == "layer" else threshold


def balanced_sums(
    membrane: Tensor, error: Tensor, threshold: Tensor, channel_dim: int, granularity: str = "channel"
) -> Tensor:
    """Count the neurons of each channel that begin to fire at each candidate, and add up what their outputs lack.

    Sums of several parts add up to the bit, in any order.

    Args:
        membrane: u[t] without the bias, (B, C, ...), in activation units.
        error: e, (B, C, ...), in activation units.
        threshold: θ, (C,).
        channel_dim: Dimension of C in `membrane`.
        granularity: One bias per `channel`, or one for the whole `layer`.

    Returns:
        (2, C, _CANDIDATES + 1), whole numbers in float64. The last bin holds those that fire at no candidate.
    """
    channels, ndim, unit = threshold.numel(), membrane.ndim, _unit(threshold, granularity)
    slope, start = (
        per_channel(values, ndim, channel_dim) for values in (-_BINS / unit, threshold / unit * _BINS + _ZERO)
    )
    factor = per_channel(_INTEGER / unit, ndim, channel_dim)
    numbers = torch.arange(channels, dtype=torch.int32, device=unit.device)
    offset = per_channel(numbers * (_CANDIDATES + 1), ndim, channel_dim)
    sums = torch.zeros(2, channels * (_CANDIDATES + 1), dtype=torch.float64, device=unit.device)
    for rows in batch_slices(membrane):
        u, e = membrane[rows], error[rows]
        first = (u * slope).add_(start).ceil_().clamp_(0, _CANDIDATES).to(torch.int32)
        bins = first.add_(offset).flatten()
        sums[0] += torch.bincount(bins, minlength=sums.shape[1])
        # Whole numbers in float64: sums below 2^53 are exact, in any order.
        lacking = (e * factor).round_().flatten().to(torch.float64)
        if bins.device.type == "cpu":
            sums[1] += torch.bincount(bins, lacking, sums.shape[1])
        else:  # there, bincount with weights is refused by torch.use_deterministic_algorithms
            sums[1].index_add_(0, bins, lacking)
    return sums.view(2, channels, -1)


def mean_share(error: Tensor, threshold: Tensor, channel_dim: int, granularity: str = "channel") -> Tensor:
    """What neurons add to the mean error that `balanced_bias` reads from the sums, in the bin that none fires in.

    Of the T decisions that a train stands for only the first brings along what the neuron's output lacks. The sums
    less this of the others have the number of neurons and the mean error of trains.

    Args:
        error: Of the other decisions, (B, C, ...), in activation units.
        threshold: θ, (C,).
        channel_dim: Dimension of C in `error`.
        granularity: As in `balanced_sums`.

    Returns:
        (2, C, _CANDIDATES + 1), zero but for the last bin.
    """
    share = torch.zeros(2, len(threshold), _CANDIDATES + 1, dtype=torch.float64, device=error.device)
    others = [dim for dim in range(error.ndim) if dim != channel_dim]
    factor = per_channel(_INTEGER / _unit(threshold, granularity), error.ndim, channel_dim)
    share[0, :, -1] = error.numel() / len(threshold)
    share[1, :, -1] = (error * factor).round_().sum(others, dtype=torch.float64)
    return share
