"""Lightning callbacks of ftbc_pl under a short name; `ftbc_pl.callbacks` holds them."""

from ftbc_pl.callbacks import FTBC, PredictionWriter

__all__ = ["FTBC", "PredictionWriter"]
