"""Accuracy of a spiking network at every timestep."""

from ftbc_pl.evaluation.evaluate import evaluate
from ftbc_pl.evaluation.metric import TimestepAccuracy
from ftbc_pl.evaluation.module import Accuracies, SpikingClassifier

__all__ = ["Accuracies", "SpikingClassifier", "TimestepAccuracy", "evaluate"]
