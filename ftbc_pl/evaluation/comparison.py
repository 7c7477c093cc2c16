"""Accuracy of a spiking network beside that of its ANN, with and without calibration, on the same images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ftbc_pl.conversion.batch import check_images
from ftbc_pl.distributed import sum_over_processes
from ftbc_pl.evaluation.metric import TimestepAccuracy, per_step
from ftbc_pl.evaluation.predictions import single_output
from ftbc_pl.functional.readout import weigh
from ftbc_pl.simulation import SpikingNetwork


@dataclass(frozen=True)
class Accuracies:
    """Result of one evaluation.

    Attributes:
        ann: Accuracy of the ANN, in 0..1.
        uncalibrated: Accuracy at t = 1 … T without temporal bias.
        calibrated: The same with it; None if the network is not calibrated.
        images: Number of images.
        readout_only: Accuracy without temporal bias, but with a least-squares readout fitted to such a network: what
            the readout gives and what the bias adds; None if it was not measured.
    """

    ann: float
    uncalibrated: list[float]
    calibrated: list[float] | None
    images: int
    readout_only: list[float] | None = None


class Comparison(nn.Module):
    """Counts the correct predictions of an ANN and of its spiking network."""

    def __init__(self, predictions: int, calibrated: bool = True) -> None:
        """Start with no images.

        Args:
            predictions: Predictions of the network for an image: T, or 1 by the schedule `accumulate`.
            calibrated: Whether the network has a temporal bias; if not, only the uncalibrated accuracy is measured.
        """
        super().__init__()
        self.is_calibrated = calibrated
        self.ann = TimestepAccuracy(1)
        self.uncalibrated = TimestepAccuracy(predictions)
        self.calibrated = TimestepAccuracy(predictions)
        self.readout_only = TimestepAccuracy(predictions)

    def reset(self) -> None:
        """Start counting anew."""
        for metric in (self.ann, self.uncalibrated, self.readout_only, self.calibrated):
            metric.reset()

    @torch.no_grad()
    def update(
        self,
        snn: SpikingNetwork,
        images: Tensor,
        labels: Tensor,
        simulate_uncalibrated: Callable[[Tensor], Any] | None = None,
        simulate: Callable[[Tensor], Any] | None = None,
    ) -> Tensor:
        """Count the correct predictions, in full precision.

        Args:
            snn: The spiking network.
            images: (B, ...).
            labels: (B,), or any other form that `TimestepAccuracy` knows.
            simulate_uncalibrated: Runs the network without calibration, such as a counter of its spikes; left out: the
                network itself.
            simulate: The same for the network as it is calibrated.

        Returns:
            Logits of the prediction at each step, (T, B, num_classes), calibrated where the network is.

        Raises:
            ValueError: The network has several outputs, or labels, images and outputs don't fit.
        """
        check_images(images)
        # A spike is a comparison with a threshold: rounding to 16 bits would change what was calibrated.
        with torch.autocast(images.device.type, enabled=False):
            self.ann.update(single_output(snn.network(images), snn).unsqueeze(0), labels)
            with snn.uncalibrated():
                outputs = (simulate_uncalibrated or snn)(images)
                logits: Tensor = snn.readout(outputs)
            self.uncalibrated.update(logits, labels)
            if snn.uncalibrated_readout is not None:  # no further forward: a readout is a linear map over the steps
                self.readout_only.update(weigh(outputs, snn.uncalibrated_readout), labels)
            if self.is_calibrated:
                logits = snn.readout((simulate or snn)(images))
                self.calibrated.update(logits, labels)
        return logits

    def compute(self) -> Accuracies:
        """The accuracies over all processes.

        Raises:
            ValueError: There were no images.
        """
        images = int(sum_over_processes(self.uncalibrated.images.clone()).item())
        if not images:
            raise ValueError("There are no images to evaluate on.")
        calibrated = per_step(self.calibrated) if self.is_calibrated else None
        (ann,) = per_step(self.ann)
        readout_only = per_step(self.readout_only) if self.readout_only.update_called else None
        return Accuracies(ann, per_step(self.uncalibrated), calibrated, images, readout_only)
