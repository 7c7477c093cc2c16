"""Accuracy of a spiking network at every timestep."""

from ftbc_pl.evaluation.companions import evaluate_ann, evaluate_beside_ann
from ftbc_pl.evaluation.comparison import Accuracies, Comparison
from ftbc_pl.evaluation.diagnosis import Diagnosis, diagnose
from ftbc_pl.evaluation.evaluate import evaluate
from ftbc_pl.evaluation.exit import ExitChoice, ExitResult, choose_exit_, evaluate_exit
from ftbc_pl.evaluation.measurement import Measured, Measurement
from ftbc_pl.evaluation.metric import TimestepAccuracy
from ftbc_pl.evaluation.outputs import evaluate_outputs

__all__ = [
    "Accuracies",
    "Comparison",
    "Diagnosis",
    "ExitChoice",
    "ExitResult",
    "Measured",
    "Measurement",
    "TimestepAccuracy",
    "choose_exit_",
    "diagnose",
    "evaluate",
    "evaluate_ann",
    "evaluate_beside_ann",
    "evaluate_exit",
    "evaluate_outputs",
]
