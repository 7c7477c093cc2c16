"""The paper's rule: steps of the bias against the error of the mean output (Wu et al., ECCV 2024, algorithm 1)."""

import torch
from torch import Tensor

from ftbc_pl.calibration.solvers.base import SiteStep, SumSolver
from ftbc_pl.functional.neuron import per_channel
from ftbc_pl.functional.targets import Target
from ftbc_pl.options import CalibrationOptions
from ftbc_pl.registry import SOLVERS


@SOLVERS.register("heuristic")
class Heuristic(SumSolver):
    """Takes one step of size α per batch, over several batches and passes."""

    options = frozenset({"alpha", "passes"})
    continues = True

    def __init__(self, options: CalibrationOptions, num_steps: int) -> None:
        """Create the solver."""
        super().__init__(options, num_steps)
        self.alpha = options.alpha

    def update(self, step: SiteStep) -> Tensor:
        """Count the neurons that fire with the present bias, (C,)."""
        return fired_counts(step.membrane, step.bias, step.threshold, step.channel_dim)

    def compute(self, sums: Tensor, step: SiteStep) -> Tensor:
        """Choose b[t], (C,)."""
        return heuristic_bias(sums, step.bias, step.target, step.threshold, self.alpha, self.granularity)

    def bears_nan(self, device: torch.device) -> bool:
        """On a GPU: nothing is indexed by values."""
        return device.type == "cuda"

    def launch_(self, step: SiteStep) -> bool:
        """All of a step in 4 launches."""
        from ftbc_pl.functional.kernels.heuristic import heuristic_step_  # imports Triton

        heuristic_step_(
            step.current, step.membrane, step.threshold, step.target.activation, step.target.count, self.alpha,
            step.bias, step.out, step.channel_dim, self.granularity == "layer", step.counts, add=step.merge.add,
        )  # fmt: skip
        return True


def fired_counts(membrane: Tensor, bias: Tensor, threshold: Tensor, channel_dim: int) -> Tensor:
    """Count the neurons of each channel that fire: (C,) float64.

    Args:
        membrane: u[t] without the bias, (B, C, ...), in activation units.
        bias: b[t], (C,).
        threshold: θ, (C,).
        channel_dim: Dimension of C in `membrane`.
    """
    theta, b = (per_channel(values, membrane.ndim, channel_dim) for values in (threshold, bias))
    others = [dim for dim in range(membrane.ndim) if dim != channel_dim]
    return (membrane + b >= theta).sum(others, dtype=torch.float64)


def heuristic_bias(
    counts: Tensor, bias: Tensor, target: Target, threshold: Tensor, alpha: float, granularity: str = "channel"
) -> Tensor:
    """One step of the paper's rule: b ← b − α·(E[θ·s] − E[a]), s fired with the present b (Wu et al., algorithm 1).

    Args:
        counts: How many neurons of each channel fired, (C,), over all processes.
        bias: b[t] so far, (C,).
        target: Expectations of the ANN at this site.
        threshold: θ, (C,).
        alpha: Step size α.
        granularity: One error per `channel`, or one for the whole `layer`.

    Returns:
        The new b[t], (C,).
    """
    error = counts / target.count * threshold - target.activation
    if granularity == "layer":
        error = error.mean().expand_as(error)
    return (bias - alpha * error).to(bias.dtype)
