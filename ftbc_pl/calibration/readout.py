"""The readout of a network without temporal bias: what weighing the steps gives by itself."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ftbc_pl.conversion.batch import first_batches
from ftbc_pl.distributed import sum_over_processes
from ftbc_pl.functional.readout import error_products, least_squares_readout
from ftbc_pl.simulation import SpikingNetwork


@torch.no_grad()
def uncalibrated_readout(snn: SpikingNetwork, loader: Iterable[Any], num_batches: int = 1) -> Tensor | None:
    """Fit the least-squares readout to the network as it was converted, with one forward for each batch.

    The network keeps its biases, weights and readout. In a distributed run every process hands in its share of the
    batches, and all get the same weights.

    Args:
        snn: A converted network, calibrated or not.
        loader: Training images (B, ...) or (images, labels), without augmentation.
        num_batches: How many of the batches are used.

    Returns:
        Weights (T, T) for `ftbc_pl.functional.readout.weigh`; None for a network of several outputs.

    Raises:
        ValueError: The output has NaN or infinite values.
    """
    predictions = len(snn.prediction_steps)
    products = torch.zeros(predictions, predictions, dtype=torch.float64, device=snn.device)
    with snn.uncalibrated(), torch.autocast(snn.device.type, enabled=False):
        for batch in first_batches(loader, num_batches):
            images = batch.to(snn.device)
            outputs, target = snn(images), snn.network(images)
            if not isinstance(target, Tensor):
                return None
            products += error_products(outputs, target)
    return least_squares_readout(sum_over_processes(products)).to(snn.readout_weights)
