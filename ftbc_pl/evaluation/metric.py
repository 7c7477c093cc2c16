"""Accuracy at every timestep."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class TimestepAccuracy(Metric):
    """Top-1 accuracy of the prediction at t, for every t = 1 … T.

    One metric with a state of length T: a collection of T equal metrics would be merged into one by torchmetrics.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    correct: Tensor
    total: Tensor

    def __init__(self, num_steps: int, **kwargs: Any) -> None:
        """Create the metric for T = ``num_steps``."""
        super().__init__(**kwargs)
        self.add_state("correct", torch.zeros(num_steps, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            logits: Logits at each step, (T, B, num_classes), as ``snn.readout`` gives them.
            labels: Class indices, (B,).

        Raises:
            ValueError: The number of steps or labels is not the one expected.
        """
        if logits.shape[:2] != (len(self.correct), len(labels)):
            raise ValueError(
                f"Expected logits ({len(self.correct)}, {len(labels)}, classes), got {tuple(logits.shape)}."
            )
        self.correct += (logits.argmax(-1) == labels).sum(1)
        self.total += labels.numel()

    def compute(self) -> Tensor:
        """Accuracy at t = 1 … T, (T,), in 0..1."""
        return self.correct.double() / self.total


def per_step(metric: TimestepAccuracy) -> list[float]:
    """Accuracy at t = 1 … T; torchmetrics would drop the dimension for T = 1."""
    return metric.compute().reshape(-1).tolist()  # type: ignore[no-any-return]
