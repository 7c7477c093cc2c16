"""What a solver of the temporal bias is: one object that is asked for b[t] of one site at one step."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ftbc_pl.functional.merge import ALONE, Merge
from ftbc_pl.functional.targets import Target
from ftbc_pl.options import CalibrationOptions


@dataclass(frozen=True, kw_only=True)
class SiteStep:
    """What a solver sees: one site at one timestep, before it fires, in this process.

    Attributes:
        membrane: u[t] without the bias, (B, C, ...), in activation units.
        bias: b[t] so far, (C,): 0 in the first batch, unless the solver goes on from batch to batch.
        threshold: θ, (C,).
        channel_dim: Dimension of C in ``membrane``.
        target: Expectations of the ANN at this site.
        error: t·a − θ·Σ_{τ<t} s[τ], what the output so far lacks, (B, C, ...); only for solvers that look at single
            neurons.
        merge: Makes statistics of all processes from those of this one.
    """

    membrane: Tensor
    bias: Tensor
    threshold: Tensor
    channel_dim: int
    target: Target
    error: Tensor | None = None
    merge: Merge = ALONE


class Solver(ABC):
    """A rule that chooses the temporal bias.

    Attributes:
        options: Which of the options of a calibration it takes beside those that all take.
        continues: Whether a batch goes on from the biases of the batch before; if not, those of all batches are
            averaged.
        single_neurons: Whether it needs ``error``, which costs memory of the size of a step.
    """

    options: ClassVar[frozenset[str]] = frozenset()
    continues: ClassVar[bool] = False
    single_neurons: ClassVar[bool] = False

    def __init__(self, options: CalibrationOptions, num_steps: int) -> None:
        """Create the solver for one calibration of T = ``num_steps``."""
        self.granularity = options.granularity

    @abstractmethod
    def solve(self, step: SiteStep) -> Tensor:
        """Choose b[t], (C,); the same in all processes."""


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
