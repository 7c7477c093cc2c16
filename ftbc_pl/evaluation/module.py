"""The LightningModule that runs a spiking network in Lightning's validation, test and predict loops."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ftbc_pl.conversion.network import SpikingNetwork
from ftbc_pl.evaluation.metric import TimestepAccuracy, per_step


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

    snn: SpikingNetwork

    def __init__(self, snn: SpikingNetwork | None, calibrated: bool = True, num_steps: int | None = None) -> None:
        """Create the module.

        Args:
            snn: The spiking network; None if a subclass makes it in ``setup``.
            calibrated: Whether it has a temporal bias; if not, only the uncalibrated accuracy is measured.
            num_steps: Timesteps T, where ``snn`` is None.
        """
        super().__init__()
        if snn is not None:
            self.snn, num_steps = snn, snn.num_steps
        assert num_steps is not None
        self.calibrated = calibrated
        self.ann_accuracy = TimestepAccuracy(1)
        self.uncalibrated_accuracy = TimestepAccuracy(num_steps)
        self.calibrated_accuracy = TimestepAccuracy(num_steps)
        self.accuracies: Accuracies | None = None

    @property
    def network(self) -> nn.Module:
        """The ANN, whose configuration tells data modules the size and normalisation of the images."""
        return self.snn.network

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the prediction at each step, (T, B, num_classes)."""
        return self.snn.readout(self.snn(images))

    def on_validation_epoch_start(self) -> None:
        """Start counting anew."""
        for metric in (self.ann_accuracy, self.uncalibrated_accuracy, self.calibrated_accuracy):
            metric.reset()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Count correct predictions of the ANN and of the spiking network."""
        images, labels = batch
        with self._full_precision():
            self.ann_accuracy.update(self.snn.network(images).unsqueeze(0), labels)
            with self.snn.uncalibrated():
                self.uncalibrated_accuracy.update(self(images), labels)
            if self.calibrated:
                self.calibrated_accuracy.update(self(images), labels)

    def on_validation_epoch_end(self) -> None:
        """Compute the accuracies over all processes."""
        calibrated = per_step(self.calibrated_accuracy) if self.calibrated else None
        uncalibrated = per_step(self.uncalibrated_accuracy)
        (ann,) = per_step(self.ann_accuracy)
        total = self.trainer.strategy.reduce(self.uncalibrated_accuracy.total.clone(), reduce_op="sum")
        images = int(total.item() if isinstance(total, Tensor) else total)
        self.accuracies = Accuracies(ann, uncalibrated, calibrated, images)
        # Computed over all processes already.
        shown = {"ann/accuracy": ann, "snn/final_accuracy": (calibrated or uncalibrated)[-1]}
        self.log_dict(shown, prog_bar=True, logger=False, sync_dist=True)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Class predicted at each step, (T, B), and the probability of the last one, (B,)."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        with self._full_precision():
            logits = self(images)
        predicted = logits.argmax(-1)
        probabilities = logits[-1].softmax(-1)
        return {
            "predicted": predicted,
            "probability": probabilities.gather(1, predicted[-1].unsqueeze(1)).squeeze(1),
        }

    def _full_precision(self) -> torch.autocast:
        # A spike is a comparison with a threshold: rounding to 16 bits would change what was calibrated.
        return torch.autocast(self.device.type, enabled=False)
