"""The LightningModule that runs a spiking network in Lightning's validation, test and predict loops."""

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from ftbc_pl.conversion.batch import finite_images, images_and_labels
from ftbc_pl.evaluation.comparison import Comparison
from ftbc_pl.evaluation.measurement import Measured, Measurement
from ftbc_pl.evaluation.predictions import predicted_classes, single_output, with_classes
from ftbc_pl.functional.exit import confidence, exit_steps
from ftbc_pl.simulation import SpikingNetwork

# What Lightning does to each batch between its loader and a step.
TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class SpikingClassifier(LightningModule):
    """Evaluates a spiking network beside its ANN: accuracy at every timestep, before and after calibration.

    Attributes:
        snn: The spiking network.
        measured: What the last evaluation measured.
    """

    snn: SpikingNetwork

    def __init__(
        self,
        snn: SpikingNetwork | None = None,
        calibrated: bool = True,
        *,
        ann: nn.Module | None = None,
        predictions: int | None = None,
        make: Callable[[Trainer, nn.Module], SpikingNetwork] | None = None,
        analysis: bool = True,
        task: LightningModule | None = None,
    ) -> None:
        """Create the module.

        Args:
            snn: The spiking network; left out: made of `ann` when processes and data are ready.
            calibrated: Whether it has a temporal bias; if not, only the uncalibrated accuracy is measured.
            ann: The network to make it of.
            predictions: How many predictions it will make for an image: T, or 1 by the schedule `accumulate`.
            make: Makes it, once.
            analysis: Whether to count spikes and to compare the sites with the ANN as well.
            task: The LightningModule that the network was trained in, whose hooks prepare batches.
        """
        super().__init__()
        if snn is not None:
            self.snn, predictions = snn, len(snn.prediction_steps)
        assert predictions is not None
        self.comparison = Comparison(predictions, calibrated)
        self._ann, self._make, self._task = [ann], make, [task]  # in lists: no part of this module
        self._analysis = analysis
        self._measurement: Measurement | None = None
        self.measured: Measured | None = None

    @property
    def network(self) -> nn.Module:
        """The ANN, whose configuration tells data modules the size and normalisation of the images."""
        (ann,) = self._ann
        return self.snn.network if ann is None else ann

    def setup(self, stage: str) -> None:
        """Make the spiking network, if there is none: Lightning calls this when processes and data are ready."""
        self._check_classes()
        self._take_hooks()
        (ann,) = self._ann
        if self._make is not None and ann is not None and not hasattr(self, "snn"):
            self.snn = self._make(self.trainer, ann)

    def _take_hooks(self) -> None:
        """Let batches go through the hooks of the task, which hear that it is not trained."""
        (task,) = self._task
        if task is None:
            return
        hooks = [hook for hook in TRANSFER_HOOKS if is_overridden(hook, task)]
        if hooks:
            task.trainer = self.trainer
            task.to(self.trainer.strategy.root_device).eval()
        for hook in hooks:
            setattr(self, hook, getattr(task, hook))

    def _check_classes(self) -> None:
        """Check that network and data have the same classes, where both say how many; one output decides between two.

        Raises:
            ValueError: They have not.
        """
        own = getattr(self.network, "num_classes", None)
        found = getattr(getattr(self.trainer, "datamodule", None), "num_classes", None)
        if own and found and found != max(own, 2):
            raise ValueError(f"The network has {own} classes, the data {found}: give the data that it was trained for.")

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the prediction at each step, (T, B, num_classes)."""
        return self.snn.readout(self.snn(images))

    def on_validation_epoch_start(self) -> None:
        """Start counting anew."""
        batches = sum(self.trainer.num_test_batches if self.trainer.testing else self.trainer.num_val_batches)
        self._measurement = self._measure(int(batches) if math.isfinite(batches) else None)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Measure the ANN and the spiking network on a batch."""
        self._measurement = self._measurement or self._measure(None)
        self._measurement.update(*images_and_labels(batch))

    def on_validation_epoch_end(self) -> None:
        """Put together what all processes have measured."""
        assert self._measurement is not None
        self.measured = self._measurement.compute()
        found = self.measured.accuracies
        # Computed over all processes already.
        shown = {"ann/accuracy": found.ann, "snn/final_accuracy": (found.calibrated or found.uncalibrated)[-1]}
        self.log_dict(shown, prog_bar=True, logger=False, sync_dist=True)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Class predicted at each step, (T, B), and the probability of the last one, (B,).

        With early exit also the step at which each image stops, (B,); the probability is that of the class there.
        """
        images = finite_images(batch)
        # As in the comparison: full precision.
        with torch.autocast(self.device.type, enabled=False):
            logits = self(images)
        logits = with_classes(single_output(logits, self.snn))
        predicted = predicted_classes(logits)
        stops = logits.ndim == 3 and bool(self.snn.exit_thresholds.isfinite().any())
        steps = exit_steps(confidence(logits), self.snn.exit_thresholds) if stops else None
        if logits.shape[2] == 1:  # a network of one output: the logit of class 1 against 0
            logits = torch.cat([torch.zeros_like(logits), logits], 2)
        if steps is not None:
            at, images_of = steps - 1, torch.arange(logits.shape[1], device=logits.device)
            probabilities = logits[at, images_of].softmax(1).gather(1, predicted[at, images_of].unsqueeze(1))
            return {"predicted": predicted, "probability": probabilities.squeeze(1), "exit_step": steps}
        probabilities = logits[-1].softmax(1).gather(1, predicted[-1].unsqueeze(1))
        return {"predicted": predicted, "probability": probabilities.squeeze(1)}

    def _measure(self, batches: int | None) -> Measurement:
        return Measurement(self.snn, self.comparison, self._analysis, batches)
