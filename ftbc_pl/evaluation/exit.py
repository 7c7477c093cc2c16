"""Early exit: when an image may stop, set on calibration images; and what that costs in accuracy."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ftbc_pl.conversion.batch import finite_images, images_and_labels
from ftbc_pl.distributed import gather_over_processes, in_any_process, progress_bar
from ftbc_pl.evaluation.predictions import class_indices, single_output, with_classes
from ftbc_pl.functional.exit import choose_thresholds, confidence, decisions, exit_steps
from ftbc_pl.simulation import SpikingNetwork


@dataclass(frozen=True)
class ExitChoice:
    """What early exit does on the images that it was set on.

    Attributes:
        thresholds: Confidence at which an image stops at each step, T numbers; infinite where none does.
        images: Number of calibration images.
        stated: Largest expected share of decisions that differ from those at T, as it was asked for.
        loss: The share among these images.
        mean_steps: Mean step at which they stop.
    """

    thresholds: tuple[float, ...]
    images: int
    stated: float
    loss: float
    mean_steps: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the thresholds are the network's."""
        return {"images": self.images, "stated": self.stated, "loss": self.loss, "mean_steps": self.mean_steps}

    def __str__(self) -> str:
        """One line."""
        return (
            f"Early exit set on {self.images:,} images: they stop after {self.mean_steps:.2f} of "
            f"{len(self.thresholds)} steps in the mean, {100 * self.loss:.2f} % decide otherwise than at the end."
        )


@dataclass(frozen=True)
class ExitResult:
    """Accuracy with early exit.

    Attributes:
        accuracy: Share of images whose decision at their own step is right, in 0..1.
        accuracy_fixed: Share that is right at t = 1 … T if all stop there, (T,) float64.
        loss: Share of decisions that differ from those at T.
        steps: Step at which each image stops, (N,) int64; in a distributed run those of all processes.
    """

    accuracy: float
    accuracy_fixed: Tensor
    loss: float
    steps: Tensor

    @property
    def mean_steps(self) -> float:
        """Mean number of steps of an image."""
        return self.steps.double().mean().item()

    @property
    def percentile_90(self) -> int:
        """Number of steps that nine images of ten don't exceed."""
        return int(self.steps.kthvalue(-(-9 * len(self.steps) // 10)).values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        counts = torch.bincount(self.steps, minlength=len(self.accuracy_fixed) + 1)[1:]
        return {
            "accuracy": self.accuracy,
            "mean_steps": self.mean_steps,
            "percentile_90": self.percentile_90,
            "loss": self.loss,
            "images_by_step": counts.tolist(),
        }

    def __str__(self) -> str:
        """One line."""
        last = self.accuracy_fixed[-1].item()
        return (
            f"Early exit: {100 * self.accuracy:.2f} % after {self.mean_steps:.2f} steps in the mean (90 % of the "
            f"images within {self.percentile_90}), {100 * last:.2f} % if all take {len(self.accuracy_fixed)}."
        )


def fewest_images(loss: float) -> int:
    """Number of images that early exit needs to keep to a loss."""
    return math.ceil(2 / loss)


@torch.no_grad()
def choose_exit_(
    snn: SpikingNetwork, loader: Iterable[Any], loss: float = 0.005, *, progress: bool = True
) -> ExitChoice:
    """Set at which confidence an image may stop at each step, in place; `save_snn` keeps it.

    The images must not be those that the network was calibrated with, or it is surer of them than of others. Their
    labels are not used.

    Args:
        snn: A calibrated network.
        loader: Images (B, ...) or (images, labels), at least 2 / loss of them.
        loss: Largest expected share of decisions that differ from those at T, such as 0.005.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: The loss is not in (0, 1), or there are too few images to tell.
    """
    if not 0 < loss < 1:
        raise ValueError(f"Expected a loss in (0, 1), got {loss}: 0.005 lets half a percent of the decisions differ.")
    predicted = (_predict(snn, finite_images(batch)) for batch in progress_bar(loader, "Early exit", progress))
    found = [(confidence(logits), decisions(logits)) for logits in predicted]
    if in_any_process(not found, snn.device):
        raise ValueError("There is nothing to set early exit on: the loader is empty.")
    confidences, chosen = (gather_over_processes(torch.cat(parts, 1), 1) for parts in zip(*found, strict=True))
    agrees = chosen == chosen[-1]
    count = agrees.shape[1]
    if count < fewest_images(loss):
        raise ValueError(
            f"Expected at least {fewest_images(loss)} images to keep to a loss of {loss:g}, got {count}: take more, or "
            "a larger loss."
        )
    thresholds = choose_thresholds(confidences, agrees, loss)
    snn.exit_thresholds.copy_(thresholds)
    steps = exit_steps(confidences, snn.exit_thresholds)
    wrong = ~agrees.gather(0, (steps - 1).unsqueeze(0))
    return ExitChoice(
        thresholds=tuple(snn.exit_thresholds.tolist()),
        images=count,
        stated=loss,
        loss=wrong.double().mean().item(),
        mean_steps=steps.double().mean().item(),
    )


class ExitMeter:
    """Adds up what early exit does, from predictions that were made anyway."""

    def __init__(self, thresholds: Tensor) -> None:
        """Start with no images.

        Args:
            thresholds: Confidence at which an image stops at each step, (T,).
        """
        self.thresholds = thresholds
        self.steps: list[Tensor] = []
        self.right: list[Tensor] = []
        self.agree: list[Tensor] = []

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            logits: Logits of the prediction at each step, (T, B, classes); of a network of one output (T, B, 1) or
                (T, B).
            labels: (B,), or any other form that `ftbc_pl.evaluation.predictions.class_indices` knows.
        """
        logits = with_classes(logits)
        chosen = decisions(logits)
        steps = exit_steps(confidence(logits), self.thresholds)
        self.steps.append(steps)
        self.right.append(chosen == class_indices(labels.to(chosen.device), logits))
        self.agree.append(chosen.gather(0, (steps - 1).unsqueeze(0)).squeeze(0) == chosen[-1])

    def compute(self) -> ExitResult:
        """Accuracy and steps over the images of all processes.

        Raises:
            ValueError: There were no images.
        """
        own, device = len(self.thresholds), self.thresholds.device
        none = torch.zeros(own, 0, dtype=torch.bool, device=device)  # of a process without images
        steps = gather_over_processes(torch.cat([*self.steps, none[0].long()]), 0)
        right = gather_over_processes(torch.cat([*self.right, none], 1), 1)
        agree = gather_over_processes(torch.cat([*self.agree, none[0]]), 0)
        if not len(steps):
            raise ValueError("There is nothing to evaluate: the loader is empty.")
        return ExitResult(
            accuracy=right.gather(0, (steps - 1).unsqueeze(0)).double().mean().item(),
            accuracy_fixed=right.double().mean(1).cpu(),
            loss=1 - agree.double().mean().item(),
            steps=steps.cpu(),
        )


@torch.no_grad()
def evaluate_exit(snn: SpikingNetwork, loader: Iterable[Any], *, progress: bool = True) -> ExitResult:
    """Measure accuracy and number of steps with early exit, and the accuracy at every fixed step.

    All T steps are simulated, and the decision is the one at the step where the image would have stopped.

    Args:
        snn: A network with early exit, see `choose_exit_`.
        loader: Batches of (images, labels, ...) or dicts of them; in a distributed run each process hands in its own
            images.
        progress: Whether to show a progress bar.

    Raises:
        TypeError: A batch is not of a form that is known.
        ValueError: The loader is empty, or labels, images and outputs don't fit.
    """
    meter = ExitMeter(snn.exit_thresholds)
    for batch in progress_bar(loader, "Early exit", progress):
        meter.update(_predict(snn, finite_images(batch)), images_and_labels(batch)[1])
    return meter.compute()


def _predict(snn: SpikingNetwork, images: Tensor) -> Tensor:
    """Logits of the prediction at each step, (T, B, classes)."""
    if len(snn.prediction_steps) < snn.num_steps:
        raise ValueError(
            "Early exit needs the schedule 'stream': by 'accumulate' there is one answer, after depth × T timesteps."
        )
    outputs = snn(images.to(snn.device))
    if not isinstance(outputs, Tensor) or outputs.ndim not in (2, 3):
        raise ValueError("Early exit needs one output (T, B, classes): this network is no classifier of one output.")
    return with_classes(snn.readout(single_output(outputs, snn)))
