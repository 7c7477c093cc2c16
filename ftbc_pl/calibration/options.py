"""The options of a calibration, checked when they are given."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ftbc_pl.functional.balanced import mean_weight_for
from ftbc_pl.functional.solvers import Granularity, Solver

Readout = Literal["least_squares", "mean"]


@dataclass(frozen=True)
class CalibrationOptions:
    """How the bias is solved for; see :func:`calibrate_`."""

    solver: Solver = "exact"
    granularity: Granularity = "channel"
    alpha: float = 0.5
    mean_weight: float | None = None
    horizon: int | None = None
    passes: int = 1
    num_batches: int = 1
    readout: Readout = "least_squares"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: One is out of range.
        """
        if self.solver not in get_args(Solver):
            raise ValueError(f"solver must be one of {', '.join(get_args(Solver))}, got {self.solver!r}.")
        if self.granularity not in ("channel", "layer"):
            raise ValueError(f"granularity must be 'channel' or 'layer', got {self.granularity!r}.")
        if self.readout not in get_args(Readout):
            raise ValueError(f"readout must be 'least_squares' or 'mean', got {self.readout!r}.")
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must lie in (0, 1], got {self.alpha}.")
        if self.mean_weight is not None and not 0 <= self.mean_weight < math.inf:
            raise ValueError(
                f"mean_weight must be finite and 0 or more, got {self.mean_weight}; solver 'exact' is the limit."
            )
        for name in ("passes", "num_batches", "horizon"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("horizon", "mean_weight"):
            if getattr(self, name) is not None and self.solver != "balanced":
                raise ValueError(f"{name} is an option of solver 'balanced'; {self.solver!r} has none.")
        if self.horizon is not None and self.mean_weight is not None:
            raise ValueError("horizon chooses mean_weight: give one of the two.")
        if self.solver != "heuristic" and self.passes > 1:
            raise ValueError(f"solver {self.solver!r} needs one pass: set passes to 1, or take more num_batches.")

    def weight(self, num_steps: int) -> float:
        """λ of ``balanced`` for a network of T = ``num_steps``: as given, or as the horizon wants it."""
        return mean_weight_for(self.horizon or num_steps) if self.mean_weight is None else self.mean_weight
