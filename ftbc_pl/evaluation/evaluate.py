"""Accuracy of a spiking network in plain code, without a Trainer."""

from collections.abc import Iterable
from typing import Any

import torch
from torchmetrics import Metric, MetricCollection

from ftbc_pl.conversion.batch import check_images, images_and_labels
from ftbc_pl.distributed import progress_bar
from ftbc_pl.evaluation.metric import TimestepAccuracy, per_step
from ftbc_pl.evaluation.outputs import metric_by_step
from ftbc_pl.evaluation.predictions import single_output
from ftbc_pl.simulation import SpikingNetwork


@torch.no_grad()
def evaluate(
    snn: SpikingNetwork,
    loader: Iterable[Any],
    *,
    metric: Metric | MetricCollection | None = None,
    progress: bool = True,
) -> Any:
    """Measure the accuracy, or another metric, at every timestep in one pass over the data.

    Args:
        snn: A converted network.
        loader: Batches of (images, labels, ...) or dicts of them; in a distributed run each process hands in its own
            images.
        metric: Another metric of TorchMetrics, or a collection of them, for which the labels may be whatever it takes;
            left out: accuracy.
        progress: Whether to show a progress bar.

    Returns:
        Accuracy at t = 1 … T, (T,) float64, in 0..1; or the metric, (T,), or a dict or tuple of such tensors where that
        is what it computes. By the schedule `accumulate` that at T, (1,).

    Raises:
        TypeError: A batch is not of a form that is known, or the metric is none.
        ValueError: The loader is empty, the network is no classifier of one output, or labels, images and outputs
            don't fit.
    """
    if metric is not None:
        return metric_by_step(snn, loader, metric, progress=progress)
    accuracy = TimestepAccuracy(len(snn.prediction_steps)).to(snn.device)
    batches = 0
    for batch in progress_bar(loader, "Evaluating", progress):
        images, labels = images_and_labels(batch)
        check_images(images)
        outputs = single_output(snn(images.to(snn.device)), snn)
        accuracy.update(snn.readout(outputs), labels.to(snn.device))
        batches += 1
    if not batches:
        raise ValueError("There is nothing to evaluate: the loader is empty.")
    return torch.tensor(per_step(accuracy), dtype=torch.float64)
