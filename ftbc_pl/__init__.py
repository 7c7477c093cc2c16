"""Train image classifiers, convert them to spiking networks and calibrate these with FTBC in one forward pass.

FTBC is Forward Temporal Bias Correction (Wu et al., ECCV 2024, arXiv 2403.18388).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftbc_pl.calibration import CalibrationReport as CalibrationReport
    from ftbc_pl.calibration import calibrate_ as calibrate_
    from ftbc_pl.calibration import register_solver as register_solver
    from ftbc_pl.callbacks import FTBC as FTBC
    from ftbc_pl.comparisons import compare as compare
    from ftbc_pl.conversion import ConversionError as ConversionError
    from ftbc_pl.conversion import ConversionReport as ConversionReport
    from ftbc_pl.conversion import SpikingNetwork as SpikingNetwork
    from ftbc_pl.conversion import convert as convert
    from ftbc_pl.conversion import prepare as prepare
    from ftbc_pl.energy import EnergyCost as EnergyCost
    from ftbc_pl.energy import measure_energy as measure_energy
    from ftbc_pl.energy import measure_firing_rates as measure_firing_rates
    from ftbc_pl.evaluation import choose_exit_ as choose_exit_
    from ftbc_pl.evaluation import diagnose as diagnose
    from ftbc_pl.evaluation import evaluate as evaluate
    from ftbc_pl.evaluation import evaluate_ann as evaluate_ann
    from ftbc_pl.evaluation import evaluate_beside_ann as evaluate_beside_ann
    from ftbc_pl.evaluation import evaluate_exit as evaluate_exit
    from ftbc_pl.evaluation import evaluate_outputs as evaluate_outputs
    from ftbc_pl.export import export_nir as export_nir
    from ftbc_pl.export import export_onnx as export_onnx
    from ftbc_pl.io import load_snn as load_snn
    from ftbc_pl.io import save_snn as save_snn
    from ftbc_pl.layers import Activation as Activation
    from ftbc_pl.layers import register_activation as register_activation
    from ftbc_pl.models import create_network as create_network
    from ftbc_pl.models.images import remembered_images as remembered_images
    from ftbc_pl.options import PAPER as PAPER
    from ftbc_pl.reports import write_report as write_report
    from ftbc_pl.simulation.shorten import shorten_ as shorten_
    from ftbc_pl.trainer import FTBCTrainer as FTBCTrainer

__version__ = "0.1.0"

# What is imported when it is first asked for: those who only convert need not wait for Lightning.
_HOMES = {
    "Activation": "ftbc_pl.layers",
    "CalibrationReport": "ftbc_pl.calibration",
    "ConversionError": "ftbc_pl.conversion",
    "ConversionReport": "ftbc_pl.conversion",
    "EnergyCost": "ftbc_pl.energy",
    "FTBC": "ftbc_pl.callbacks",
    "FTBCTrainer": "ftbc_pl.trainer",
    "PAPER": "ftbc_pl.options",
    "SpikingNetwork": "ftbc_pl.conversion",
    "calibrate_": "ftbc_pl.calibration",
    "choose_exit_": "ftbc_pl.evaluation",
    "compare": "ftbc_pl.comparisons",
    "convert": "ftbc_pl.conversion",
    "create_network": "ftbc_pl.models",
    "diagnose": "ftbc_pl.evaluation",
    "evaluate": "ftbc_pl.evaluation",
    "evaluate_ann": "ftbc_pl.evaluation",
    "evaluate_beside_ann": "ftbc_pl.evaluation",
    "evaluate_exit": "ftbc_pl.evaluation",
    "evaluate_outputs": "ftbc_pl.evaluation",
    "export_nir": "ftbc_pl.export",
    "export_onnx": "ftbc_pl.export",
    "load_snn": "ftbc_pl.io",
    "measure_energy": "ftbc_pl.energy",
    "measure_firing_rates": "ftbc_pl.energy",
    "prepare": "ftbc_pl.conversion",
    "register_activation": "ftbc_pl.layers",
    "register_solver": "ftbc_pl.calibration",
    "remembered_images": "ftbc_pl.models.images",
    "save_snn": "ftbc_pl.io",
    "shorten_": "ftbc_pl.simulation.shorten",
    "write_report": "ftbc_pl.reports",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
