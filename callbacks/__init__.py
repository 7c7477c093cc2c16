"""Lightning callbacks of ftbc_pl: thin adapters between a Trainer and the package."""

from callbacks.ftbc import FTBC
from callbacks.predictions import PredictionWriter

__all__ = ["FTBC", "PredictionWriter"]
