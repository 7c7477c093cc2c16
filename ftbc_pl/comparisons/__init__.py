"""Several ways of calibrating one network, over T and draws of the calibration images, in one table."""

from ftbc_pl.comparisons.compare import compare
from ftbc_pl.comparisons.plan import Plan, Rule
from ftbc_pl.comparisons.table import ComparisonTable, Record

__all__ = ["ComparisonTable", "Plan", "Record", "Rule", "compare"]
