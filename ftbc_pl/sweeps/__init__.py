"""W&B sweep files run on this machine, without an account."""

from ftbc_pl.sweeps.command import sweep
from ftbc_pl.sweeps.file import SweepFile, read_sweep

__all__ = ["SweepFile", "read_sweep", "sweep"]
