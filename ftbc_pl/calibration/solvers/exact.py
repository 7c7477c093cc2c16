"""The temporal bias with which the expected output of a step equals the expected activation of the ANN.

Wu et al. (ECCV 2024), proposition 1: there is exactly one. Here it is found at once, as an order statistic of the
membrane, instead of by repeated steps.
"""

import torch
from torch import Tensor

from ftbc_pl.calibration.solvers.base import SiteRun, SiteStep, Solver
from ftbc_pl.functional.merge import ALONE, Merge
from ftbc_pl.functional.neuron import per_channel
from ftbc_pl.functional.selection import largest
from ftbc_pl.functional.targets import Target
from ftbc_pl.registry import SOLVERS


@SOLVERS.register("exact")
class Exact(Solver):
    """Makes every channel, or the layer, fire as often as the ANN demands."""

    def solve(self, step: SiteStep) -> Tensor:
        """Choose b[t], (C,)."""
        return exact_bias(
            step.membrane, step.target, step.threshold, step.channel_dim, self.granularity, merge=step.merge
        )

    def bears_nan(self, device: torch.device) -> bool:
        """On a GPU, where nothing is indexed by values."""
        return device.type == "cuda"

    def launch_all_(self, run: SiteRun) -> bool:
        """All steps of a site in one launch: a bias of each channel's own, all images in one process."""
        from ftbc_pl.functional.kernels.exact_site import exact_site_, fits  # imports Triton

        site = run.first
        if (
            self.granularity == "layer"
            or site.merge is not ALONE
            or not fits(site.membrane, run.current, run.out, site.channel_dim)
        ):
            return False
        cut = site.target.cut(self.granularity, site.membrane.dtype)
        exact_site_(
            run.current, site.membrane, site.threshold, cut, run.bias, run.out, site.channel_dim, run.counts
        )  # fmt: skip
        return True

    def launch_(self, step: SiteStep) -> bool:
        """All of a step in 8 launches."""
        from ftbc_pl.functional.kernels.exact import exact_step_  # imports Triton

        cut = step.target.cut(self.granularity, step.membrane.dtype)
        exact_step_(
            step.current, step.membrane, step.threshold, cut, step.bias, step.out, step.channel_dim, step.counts,
            add=step.merge.add, maximum=step.merge.maximum,
        )  # fmt: skip
        return True


def exact_bias(
    membrane: Tensor,
    target: Target,
    threshold: Tensor,
    channel_dim: int,
    granularity: str = "channel",
    *,
    merge: Merge = ALONE,
) -> Tensor:
    """Choose b[t] so that the fraction of fired neurons equals E[a]/θ: an order statistic of the membrane.

    The cut lies half-way between the last value that fires and the first that does not, so the fraction is met to one
    sample plus the samples tied at the cut. Channels that should never (always) fire get a bias that keeps the largest
    (smallest) membrane below (at) the threshold, and none where that is so already.

    Args:
        membrane: u[t] without the bias, (B, C, ...), in activation units.
        target: Expectations of the ANN at this site.
        threshold: θ, (C,).
        channel_dim: Dimension of C in `membrane`.
        granularity: One cut per `channel`, or one for the whole `layer`, where the fraction is the mean of all
            channels'.
        merge: Makes statistics of the whole from those of one part.

    Returns:
        b[t], (C,).
    """
    excess = membrane - per_channel(threshold, membrane.ndim, channel_dim)
    cut = target.cut(granularity, excess.dtype)
    if granularity == "layer":
        excess, channel_dim = excess.flatten().unsqueeze(0), 0
    below, above = largest(excess, cut.rank, channel_dim, merge)
    # b lies in [−above, −below): `above` still fires, `below` does not.
    middle = -(below + (above - below) / 2)
    if target.levels > 1:
        # Trains whose mean is that of the ANN without a bias get none: QCFS with as many levels stays exact.
        middle = torch.where((below < 0) & (above >= 0), 0, middle)
    edge = ((below.abs() + 1) * cut.margin - below).clamp(cut.lowest, cut.highest)
    return torch.where(cut.edge, edge, middle).expand(threshold.shape)
