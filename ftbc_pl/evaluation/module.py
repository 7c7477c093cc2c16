"""The LightningModule that runs a spiking network in Lightning's validation, test and predict loops."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from ftbc_pl.conversion.network import SpikingNetwork
from ftbc_pl.evaluation.metric import TimestepAccuracy


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


class SpikingClassifier(LightningModule):
    """Evaluates a spiking network beside its ANN: accuracy at every timestep, before and after calibration."""

    def __init__(self, snn: SpikingNetwork, calibrated: bool = True) -> None:
        """Create the module.

        Args:
            snn: The spiking network.
            calibrated: Whether it has a temporal bias; if not, only the uncalibrated accuracy is measured.
        """
        super().__init__()
        self.snn = snn
        self.calibrated = calibrated
        self.ann_accuracy = TimestepAccuracy(1)
        self.uncalibrated_accuracy = TimestepAccuracy(snn.num_steps)
        self.calibrated_accuracy = TimestepAccuracy(snn.num_steps)
        self.accuracies: Accuracies | None = None

    @property
    def network(self) -> SpikingNetwork:
        """The network, for data modules that read its configuration."""
        return self.snn

    def forward(self, images: Tensor) -> Tensor:
        """Output of each step, (T, B, num_classes)."""
        return self.snn(images)  # type: ignore[no-any-return]

    def on_validation_epoch_start(self) -> None:
        """Start counting anew."""
        for metric in (self.ann_accuracy, self.uncalibrated_accuracy, self.calibrated_accuracy):
            metric.reset()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Count correct predictions of the ANN and of the spiking network."""
        images, labels = batch
        self.ann_accuracy.update(self.snn.network(images).unsqueeze(0), labels)
        with self.snn.uncalibrated():
            self.uncalibrated_accuracy.update(self.snn(images), labels)
        if self.calibrated:
            self.calibrated_accuracy.update(self.snn(images), labels)

    def on_validation_epoch_end(self) -> None:
        """Compute the accuracies over all processes."""
        calibrated = self.calibrated_accuracy.compute().tolist() if self.calibrated else None
        uncalibrated = self.uncalibrated_accuracy.compute().tolist()
        (ann,) = self.ann_accuracy.compute().tolist()
        total = self.trainer.strategy.reduce(self.uncalibrated_accuracy.total.clone(), reduce_op="sum")
        images = int(total.item() if isinstance(total, Tensor) else total)
        self.accuracies = Accuracies(ann, uncalibrated, calibrated, images)
        self.log("ann/accuracy", ann, prog_bar=True, logger=False, rank_zero_only=True)
        self.log("snn/final_accuracy", (calibrated or uncalibrated)[-1], prog_bar=True, logger=False, rank_zero_only=True)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Class probabilities of the mean output up to each step, (T, B, num_classes)."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        logits = self.snn(images)
        steps = torch.arange(1, len(logits) + 1, device=logits.device).view(-1, 1, 1)
        return (logits.float().cumsum(0) / steps).softmax(-1)
