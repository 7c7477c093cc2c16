"""Accuracy of a spiking network beside that of its ANN, with and without calibration, on the same images."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ftbc_pl.conversion.batch import check_images
from ftbc_pl.distributed import sum_over_processes
from ftbc_pl.evaluation.metric import TimestepAccuracy, per_step
from ftbc_pl.evaluation.predictions import single_output
from ftbc_pl.simulation import SpikingNetwork


@dataclass(frozen=True)
class Accuracies:
    """Result of one evaluation.

    Attributes:
        ann: Accuracy of the ANN, in 0..1.
        uncalibrated: Accuracy at t = 1 … T without temporal bias.
        calibrated: The same with it; None if the network is not calibrated.
        images: Number of images.
    """

    ann: float
    uncalibrated: list[float]
    calibrated: list[float] | None
    images: int


class Comparison(nn.Module):
    """Counts the correct predictions of an ANN and of its spiking network."""

    def __init__(self, num_steps: int, calibrated: bool = True) -> None:
        """Start with no images.

        Args:
            num_steps: Timesteps T.
            calibrated: Whether the network has a temporal bias; if not, only the uncalibrated accuracy is measured.
        """
        super().__init__()
        self.is_calibrated = calibrated
        self.ann = TimestepAccuracy(1)
        self.uncalibrated = TimestepAccuracy(num_steps)
        self.calibrated = TimestepAccuracy(num_steps)

    def reset(self) -> None:
        """Start counting anew."""
        for metric in (self.ann, self.uncalibrated, self.calibrated):
            metric.reset()

    @torch.no_grad()
    def update(self, snn: SpikingNetwork, images: Tensor, labels: Tensor) -> None:
        """Count the correct predictions, in full precision.

        Args:
            snn: The spiking network.
            images: (B, ...).
            labels: (B,), or any other form that `TimestepAccuracy` knows.

        Raises:
            ValueError: The network has several outputs, or labels, images and outputs don't fit.
        """
        check_images(images)
        # A spike is a comparison with a threshold: rounding to 16 bits would change what was calibrated.
        with torch.autocast(images.device.type, enabled=False):
            self.ann.update(single_output(snn.network(images), snn).unsqueeze(0), labels)
            with snn.uncalibrated():
                self.uncalibrated.update(snn.readout(snn(images)), labels)
            if self.is_calibrated:
                self.calibrated.update(snn.readout(snn(images)), labels)

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
        return Accuracies(ann, per_step(self.uncalibrated), calibrated, images)
