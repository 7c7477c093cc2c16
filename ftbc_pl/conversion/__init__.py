"""From an ANN to a spiking network: prepare → train → convert."""

from ftbc_pl.conversion.convert import convert
from ftbc_pl.conversion.errors import ConversionError
from ftbc_pl.conversion.network import SpikingNetwork
from ftbc_pl.conversion.prepare import prepare
from ftbc_pl.conversion.report import ConversionReport

__all__ = ["ConversionError", "ConversionReport", "SpikingNetwork", "convert", "prepare"]
