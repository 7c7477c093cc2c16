"""The steps of a conversion: prepare → (train) → fold → trace → check → measure thresholds."""

from ftbc_pl.conversion.convert import convert
from ftbc_pl.conversion.errors import ConversionError
from ftbc_pl.conversion.prepare import prepare
from ftbc_pl.simulation import SpikingNetwork
from ftbc_pl.sites import ConversionReport

__all__ = ["ConversionError", "ConversionReport", "SpikingNetwork", "convert", "prepare"]
