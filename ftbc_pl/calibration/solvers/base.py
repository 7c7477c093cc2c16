"""What a solver of the temporal bias is: one object that is asked for b[t] of one site at one step."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ftbc_pl.functional import kernels
from ftbc_pl.functional.merge import ALONE, Merge
from ftbc_pl.functional.neuron import fire_, per_channel
from ftbc_pl.functional.targets import Target
from ftbc_pl.options import CalibrationOptions


@dataclass(frozen=True, kw_only=True)
class SiteStep:
    """What a solver sees: one site at one timestep, in this process.

    Attributes:
        current: x[t], (B, C, ...), in activation units.
        membrane: v[t−1] at first, u[t] without the bias for `solve`, v[t] in the end; (B, C, ...).
        bias: b[t] so far, (C,), where the new one is written: 0 in the first batch, unless the solver goes on from
            batch to batch.
        threshold: θ, (C,).
        channel_dim: Dimension of C in `membrane`.
        target: Expectations of the ANN at this site.
        out: (B, C, ...), becomes θ·s[t]; may be the memory of `current`.
        counts: (1,) int64, to which the number of spikes is added.
        activation: a, (B, C, ...); only for solvers that look at single neurons.
        error: What the output so far lacks, t·a − θ·Σ_{τ<t} s[τ], (B, C, ...); only for those, too.
        memory: What the solver wants to keep of the site from one step of a batch to the next.
        merge: Makes statistics of all processes from those of this one.
    """

    current: Tensor
    membrane: Tensor
    bias: Tensor
    threshold: Tensor
    channel_dim: int
    target: Target
    out: Tensor
    counts: Tensor
    activation: Tensor | None = None
    error: Tensor | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    merge: Merge = ALONE


class SiteRun(NamedTuple):
    """A site at K timesteps that follow each other, in this process.

    Attributes:
        first: The first of them.
        current: x, (K, B, C, ...).
        bias: b so far, (K, C).
        out: (K, B, C, ...), becomes θ·s.
        counts: (K,) int64, to which the number of spikes of each step is added.
    """

    first: SiteStep
    current: Tensor
    bias: Tensor
    out: Tensor
    counts: Tensor

    def steps(self) -> Iterator[SiteStep]:
        """The timesteps, one after the other."""
        for k, (current, bias, out) in enumerate(zip(self.current, self.bias, self.out, strict=True)):
            yield replace(self.first, current=current, bias=bias, out=out, counts=self.counts[k : k + 1])


class Solver(ABC):
    """A rule that chooses the temporal bias.

    Attributes:
        options: Which of the options of a calibration it takes beside those that all take.
        continues: Whether a batch goes on from the biases of the batch before; if not, those of all batches are
            averaged.
        single_neurons: Whether it needs `activation` and `error`, which cost memory of the size of a step.
    """

    options: ClassVar[frozenset[str]] = frozenset()
    continues: ClassVar[bool] = False
    single_neurons: ClassVar[bool] = False

    def __init__(self, options: CalibrationOptions, num_steps: int) -> None:
        """Create the solver for one calibration of T = `num_steps`."""
        self.granularity = options.granularity

    @abstractmethod
    def solve(self, step: SiteStep) -> Tensor:
        """Choose b[t], (C,); the same in all processes."""

    def run_(self, run: SiteRun) -> None:
        """Integrate the current of each step, choose b[t], fire: in few launches where there are kernels for it."""
        in_kernels = _fits_kernels(run.first)
        if in_kernels and self.launch_all_(run):
            return
        for step in run.steps():
            if not (in_kernels and self.launch_(step)):
                self._step_by_step_(step)

    def bears_nan(self, device: torch.device) -> bool:
        """Whether NaN in a current harms nothing but the result, so that it may be looked for after the forward."""
        return False

    def launch_all_(self, run: SiteRun) -> bool:
        """Do all steps of a site in kernels, with the bits of `solve`; False if there are none."""
        return False

    def launch_(self, step: SiteStep) -> bool:
        """Do all of a step in kernels, with the bits of `solve`; False if there are none."""
        return False

    def _step_by_step_(self, step: SiteStep) -> None:
        membrane = step.membrane.add_(step.current)
        if step.error is not None and step.activation is not None:
            step.error.add_(step.activation)
        step.bias.copy_(self.solve(step))
        ndim, dim = membrane.ndim, step.channel_dim
        membrane.add_(per_channel(step.bias.to(membrane.dtype), ndim, dim))
        fire_(membrane, per_channel(step.threshold.to(membrane.dtype), ndim, dim), step.out)
        if step.error is not None:
            step.error.sub_(step.out)
        step.counts.add_(torch.count_nonzero(step.out > 0))


class SumSolver(Solver):
    """A solver that needs one round of sums: each process adds up, the sums of all processes give the bias."""

    @abstractmethod
    def update(self, step: SiteStep) -> Tensor:
        """Sums over the neurons of this process, in one tensor of a shape that is the same in all processes."""

    @abstractmethod
    def compute(self, sums: Tensor, step: SiteStep) -> Tensor:
        """Choose b[t], (C,), from the sums over all processes."""

    def solve(self, step: SiteStep) -> Tensor:
        """Choose b[t], (C,)."""
        return self.compute(step.merge.add(self.update(step)), step)


def _fits_kernels(step: SiteStep) -> bool:
    if not kernels.available(step.membrane.device):
        return False
    from ftbc_pl.functional.kernels.launch import supports  # imports Triton

    same = [values for values in (step.activation, step.error) if values is not None]
    return supports(step.channel_dim, step.membrane, step.current, step.out, *same)
