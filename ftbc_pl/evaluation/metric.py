"""Accuracy at every timestep."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ftbc_pl.evaluation.predictions import class_indices, predicted_classes, with_classes


class TimestepAccuracy(Metric):
    """Top-1 accuracy of the prediction at t, for every t = 1 … T.

    Networks whose outputs are maps are judged at every position; a network of one output by the sign of its logit.

    One metric with a state of length T: a collection of T equal metrics would be merged into one by torchmetrics.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    correct: Tensor
    total: Tensor
    images: Tensor

    def __init__(self, num_steps: int, **kwargs: Any) -> None:
        """Create the metric for T = `num_steps`."""
        super().__init__(**kwargs)
        self.add_state("correct", torch.zeros(num_steps, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            logits: Logits at each step, (T, B, num_classes) or (T, B, num_classes, ...), as `snn.readout` gives
                them; of a network of one output (T, B, 1) or (T, B).
            labels: Class indices (B,) or soft labels (B, num_classes); see
                `ftbc_pl.evaluation.predictions.class_indices`.

        Raises:
            ValueError: The number of steps is not the one expected, or labels and outputs don't fit.
        """
        logits = with_classes(logits)
        if logits.shape[:2] != (len(self.correct), *labels.shape[:1]):
            count = labels.shape[0] if labels.ndim else "images"
            raise ValueError(
                f"Expected logits ({len(self.correct)}, {count}, classes), got {tuple(logits.shape)} for labels "
                f"{tuple(labels.shape)}."
            )
        classes = class_indices(labels, logits)
        self.correct += (predicted_classes(logits) == classes).flatten(1).sum(1)
        self.total += classes.numel()
        self.images += len(classes)

    def compute(self) -> Tensor:
        """Accuracy at t = 1 … T, (T,), in 0..1."""
        return self.correct.double() / self.total


def per_step(metric: TimestepAccuracy) -> list[float]:
    """Accuracy at t = 1 … T; torchmetrics would drop the dimension for T = 1."""
    return metric.compute().reshape(-1).tolist()  # type: ignore[no-any-return]
