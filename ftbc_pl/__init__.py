"""Train image classifiers, convert them to spiking networks and calibrate these with FTBC in one forward pass.

FTBC is Forward Temporal Bias Correction (Wu et al., ECCV 2024, arXiv 2403.18388).
"""

from ftbc_pl.calibration import CalibrationReport, calibrate_
from ftbc_pl.conversion import ConversionError, ConversionReport, SpikingNetwork, convert, prepare
from ftbc_pl.evaluation import evaluate
from ftbc_pl.io import load_snn, save_snn
from ftbc_pl.models import create_network

__version__ = "0.1.0"

__all__ = [
    "CalibrationReport",
    "ConversionError",
    "ConversionReport",
    "SpikingNetwork",
    "calibrate_",
    "convert",
    "create_network",
    "evaluate",
    "load_snn",
    "prepare",
    "save_snn",
]
