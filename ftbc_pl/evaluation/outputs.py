"""Networks whose outputs are values: any metric at every timestep, and the distance from the ANN's outputs."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_structure, tree_unflatten
from torchmetrics import Metric, MetricCollection

from ftbc_pl.conversion.batch import check_images, finite_images, images_and_targets
from ftbc_pl.distributed import progress_bar, sum_over_processes
from ftbc_pl.simulation import SpikingNetwork


@torch.no_grad()
def metric_by_step(
    snn: SpikingNetwork, loader: Iterable[Any], metric: Metric | MetricCollection, *, progress: bool = True
) -> Any:
    """Compute a metric of the prediction at each timestep.

    Args:
        snn: A converted network.
        loader: Batches of (images, target, ...) or dicts of them; in a distributed run each process hands in its own.
        metric: A metric of TorchMetrics, whose `update` takes the prediction (as the ANN gives it) and the target. It
            is copied for each step and left as it is.
        progress: Whether to show a progress bar.

    Returns:
        The metric at t = 1 … T, (T,), or (T, …) for a metric of several numbers; where it computes a dict or tuple,
        the same with such a tensor in each place, or a list over t of tensors that differ in shape.

    Raises:
        TypeError: What was handed in is no metric.
        ValueError: The loader is empty.
    """
    if not isinstance(metric, Metric | MetricCollection):
        raise TypeError(
            f"expected a metric of TorchMetrics, such as torchmetrics.MeanSquaredError(), got {metric!r}: make one "
            "(an object, not its class), or a subclass of torchmetrics.Metric."
        )
    metrics = [metric.clone().to(snn.device) for _ in snn.prediction_steps]
    for own in metrics:
        own.reset()
    batches = 0
    for batch in progress_bar(loader, "Evaluating", progress):
        images, target = images_and_targets(batch)
        check_images(images)
        predictions = snn.readout(snn(images.to(snn.device)))
        target = tree_map(lambda leaf: leaf.to(snn.device) if isinstance(leaf, Tensor) else leaf, target)
        for t, own in enumerate(metrics):
            own.update(_at(predictions, t), target)
        batches += 1
    if not batches:
        raise ValueError("There is nothing to evaluate: the loader is empty.")
    return _by_step([own.compute() for own in metrics])


@torch.no_grad()
def evaluate_outputs(snn: SpikingNetwork, loader: Iterable[Any], *, progress: bool = True) -> Any:
    """Measure how far the predictions are from the ANN's outputs at every timestep: no labels are needed.

    Args:
        snn: A converted network.
        loader: Images (B, ...) or (images, labels); in a distributed run each process hands in its own.
        progress: Whether to show a progress bar.

    Returns:
        ‖prediction at t − ANN‖ / ‖ANN‖ over all images at t = 1 … T, (T,) float64; for a network of several outputs
        their structure, with one such tensor for each.

    Raises:
        ValueError: The loader is empty.
    """
    squares: list[Tensor] = []
    structure = None
    for batch in progress_bar(loader, "Comparing outputs", progress):
        images = finite_images(batch).to(snn.device)
        ann, predictions = snn.network(images), snn.readout(snn(images))
        structure = tree_structure(ann)
        pairs = [pair for pair in zip(tree_leaves(predictions), tree_leaves(ann), strict=True) if _is_value(pair[1])]
        found = [_squares(prediction.double(), output.double()) for prediction, output in pairs]
        squares = [a + b for a, b in zip(squares, found, strict=True)] if squares else found
    if structure is None:
        raise ValueError("There is nothing to compare: the loader is empty.")
    totals = [sum_over_processes(total).cpu() for total in squares]
    errors = [(total[:-1] / total[-1].clamp(min=torch.finfo(torch.float32).tiny)).sqrt() for total in totals]
    return tree_unflatten(errors, structure) if len(errors) == structure.num_leaves else errors


def _by_step(values: list[Any]) -> Any:
    """What a metric has computed at each step, the steps in front of each tensor; lists where shapes differ."""
    found = [tree_flatten(value) for value in values]
    structure = found[0][1]
    if any(other != structure for _, other in found):
        return values
    places = [[torch.as_tensor(leaf) for leaf in steps] for steps in zip(*(leaves for leaves, _ in found), strict=True)]
    return tree_unflatten([_stacked(steps) for steps in places], structure)


def _stacked(steps: list[Tensor]) -> Tensor | list[Tensor]:
    return torch.stack(steps) if len({step.shape for step in steps}) == 1 else steps


def _squares(predictions: Tensor, ann: Tensor) -> Tensor:
    """Squared errors at each step, and the square of the ANN's output, (T + 1,)."""
    errors = (predictions - ann).flatten(1).square().sum(1)
    return torch.cat([errors, ann.square().sum().unsqueeze(0)])


def _is_value(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _at(predictions: Any, t: int) -> Any:
    return tree_map(lambda leaf: leaf[t] if isinstance(leaf, Tensor) else leaf, predictions)
