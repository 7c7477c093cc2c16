"""Accuracy of a spiking network in plain code, without a Trainer."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ftbc_pl.distributed import progress_bar
from ftbc_pl.evaluation.metric import TimestepAccuracy, per_step
from ftbc_pl.simulation import SpikingNetwork


@torch.no_grad()
def evaluate(snn: SpikingNetwork, loader: Iterable[Any], *, progress: bool = True) -> Tensor:
    """Measure the accuracy at every timestep in one pass over the data.

    Args:
        snn: A converted network.
        loader: Batches of (images, labels); in a distributed run each process hands in its own images.
        progress: Whether to show a progress bar.

    Returns:
        Accuracy at t = 1 … T, (T,) float64, in 0..1.

    Raises:
        ValueError: The loader is empty, or the network is no classifier of one output.
    """
    metric = TimestepAccuracy(snn.num_steps).to(snn.device)
    batches = 0
    for images, labels in progress_bar(loader, "Evaluating", progress):
        outputs = snn(images.to(snn.device))
        if not isinstance(outputs, Tensor):
            raise ValueError(
                f"Accuracy needs one output (T, B, classes), the network gives a {type(outputs).__name__}: call the "
                "network itself and measure what you need."
            )
        metric.update(snn.readout(outputs), labels.to(snn.device))
        batches += 1
    if not batches:
        raise ValueError("There is nothing to evaluate: the loader is empty.")
    return torch.tensor(per_step(metric), dtype=torch.float64)
