"""What belongs beside the accuracy of a spiking network: that of its ANN, and that without calibration."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ftbc_pl.conversion.batch import images_and_labels
from ftbc_pl.distributed import progress_bar
from ftbc_pl.evaluation.comparison import Accuracies, Comparison
from ftbc_pl.evaluation.metric import TimestepAccuracy, per_step
from ftbc_pl.evaluation.predictions import single_output
from ftbc_pl.simulation import SpikingNetwork


@torch.no_grad()
def evaluate_ann(snn: SpikingNetwork, loader: Iterable[Any], *, progress: bool = True) -> float:
    """Measure the accuracy of the ANN inside a spiking network, in 0..1.

    Args:
        snn: A converted network.
        loader: Batches of (images, labels, ...) or dicts of them; in a distributed run each process hands in its own
            images.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: The loader is empty, or labels, images and outputs don't fit.
    """
    accuracy = TimestepAccuracy(1).to(snn.device)
    for images, labels in _batches(snn, loader, progress):
        accuracy.update(single_output(snn.network(images), snn).unsqueeze(0), labels)
    if not int(accuracy.images):
        raise ValueError("There is nothing to evaluate: the loader is empty.")
    return per_step(accuracy)[0]


def evaluate_beside_ann(
    snn: SpikingNetwork, loader: Iterable[Any], *, calibrated: bool = True, progress: bool = True
) -> Accuracies:
    """Measure the accuracies that `write_report` shows: of the ANN, and of the network with and without calibration.

    Args:
        snn: A converted network.
        loader: Batches of (images, labels, ...) or dicts of them.
        calibrated: Whether it was calibrated; if not, only the accuracy without is measured.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: The loader is empty, or labels, images and outputs don't fit.
    """
    comparison = Comparison(len(snn.prediction_steps), calibrated).to(snn.device)
    for images, labels in _batches(snn, loader, progress):
        comparison.update(snn, images, labels)
    return comparison.compute()


def _batches(snn: SpikingNetwork, loader: Iterable[Any], progress: bool) -> Iterable[tuple[Tensor, Tensor]]:
    for batch in progress_bar(loader, "Evaluating", progress):
        images, labels = images_and_labels(batch)
        yield images.to(snn.device), labels.to(snn.device)
