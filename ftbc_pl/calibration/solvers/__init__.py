"""Rules for the temporal bias, one file each; `@register_solver("name")` adds one of your own."""

from ftbc_pl.calibration.solvers.balanced import Balanced
from ftbc_pl.calibration.solvers.base import SiteStep, Solver, SumSolver
from ftbc_pl.calibration.solvers.exact import Exact
from ftbc_pl.calibration.solvers.heuristic import Heuristic
from ftbc_pl.registry import SOLVERS

register_solver = SOLVERS.register

__all__ = ["SOLVERS", "Balanced", "Exact", "Heuristic", "SiteStep", "Solver", "SumSolver", "register_solver"]
