"""Lightning callbacks: thin adapters between a Trainer and the package."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from ftbc_pl.calibration import CalibrationReport
from ftbc_pl.conversion.copies import copied
from ftbc_pl.options import RunOptions
from ftbc_pl.predictions import PredictionWriter
from ftbc_pl.run import Run, has_validation, network_of, validation_batches, warn_without_validation
from ftbc_pl.safety.checkpoints import use_atomic_checkpoints
from ftbc_pl.safety.launching import check_launcher
from ftbc_pl.safety.overruled import settings_of, warn_of_overruled
from ftbc_pl.safety.resume import carry_best_over
from ftbc_pl.simulation import SpikingNetwork
from ftbc_pl.trained import load_trained_weights_

__all__ = ["FTBC", "PredictionWriter"]


class FTBC(Callback):
    """Forward Temporal Bias Correction at the end of `fit`.

    Takes the weights of the best checkpoint (the last ones if there is none), converts the network, calibrates it in
    one forward per batch of training images, saves it, measures it on the validation images and writes the results.
    Afterwards `snn`, `report` and `folder` hold the network, what the calibration did, and where all
    was saved.

    Calibration images come from the datamodule's `calibration_dataloader(batch_size, num_batches)`, which those of
    `ftbc_pl.data` have, or else from the data set of the training loader.
    """

    def __init__(self, **options: Any) -> None:
        """Create the callback.

        Args:
            **options: Those of `ftbc_pl.options.RunOptions`.

        Raises:
            TypeError: A keyword is no option.
            ValueError: A value is out of range.
        """
        super().__init__()
        self.options = RunOptions(**options)
        self.run = Run(self.options)
        self._given: dict[str, Any] = {}

    @property
    def snn(self) -> SpikingNetwork | None:
        """The spiking network, after `fit`."""
        return self.run.snn

    @property
    def report(self) -> CalibrationReport | None:
        """What the calibration did, after `fit`."""
        return self.run.report

    @property
    def folder(self) -> Path | None:
        """Where the results are."""
        return self.run.folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out before the training what would go wrong after it."""
        if stage != "fit":
            return
        use_atomic_checkpoints(trainer)
        if self.options.enabled:
            check_launcher(trainer)
            self.run.check(trainer, network_of(pl_module, self.options.network))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the best checkpoint of the run that is resumed."""
        if trainer.state.fn == TrainerFn.FITTING:
            carry_best_over(trainer, checkpoint)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep in mind how to train, before a checkpoint is restored."""
        self._given = settings_of(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what takes no effect, and what will be missing at the end."""
        if trainer.ckpt_path is not None:
            warn_of_overruled(trainer, self._given)
        if self.options.enabled:
            self.run.check_training_images(trainer, network_of(pl_module, self.options.network))
            warn_without_validation(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make, measure and write; the last hook of fit, so weight averaging and checkpoints are done."""
        if not self.options.enabled:
            return
        ann = copied(network_of(pl_module, self.options.network))
        load_trained_weights_(ann, trainer, pl_module, self.options.network)
        snn = self.run.make(trainer, ann)
        if has_validation(trainer):
            accuracies = self.run.measure(trainer, snn, validation_batches(trainer))
            self.run.write(trainer, snn, accuracies, "validation")
        else:
            self.run.write_without_accuracies(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave an earlier run's results as they were."""
        self.run.abandon()
