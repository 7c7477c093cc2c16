"""Lightning callbacks: thin adapters between a Trainer and the package."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from ftbc_pl.calibration import CalibrationReport
from ftbc_pl.conversion.copies import copied
from ftbc_pl.distributed import in_any_process
from ftbc_pl.finding import network_name, network_of, place_in_state
from ftbc_pl.loaders import check_batches, check_exit_images
from ftbc_pl.options import RunOptions
from ftbc_pl.predictions import PredictionWriter
from ftbc_pl.run import Run
from ftbc_pl.safety.checkpoints import use_atomic_checkpoints
from ftbc_pl.safety.launching import check_launcher
from ftbc_pl.safety.overruled import settings_of, warn_of_overruled
from ftbc_pl.safety.resume import carry_best_over
from ftbc_pl.safety.trial import why_not_measured
from ftbc_pl.simulation import SpikingNetwork
from ftbc_pl.trained import load_trained_weights_
from ftbc_pl.transfer import transferred
from ftbc_pl.validation import has_validation, validation_batches, warn_without_validation

__all__ = ["FTBC", "PredictionWriter"]


class FTBC(Callback):
    """Forward Temporal Bias Correction at the end of `fit`.

    Takes the weights of the best checkpoint (the last ones if there is none), converts the network, calibrates it in
    one forward per batch of training images, saves it, measures it on the validation images and writes the results.
    Afterwards `snn`, `report` and `folder` hold the network, what the calibration did, and where all
    was saved.

    The network is the LightningModule's `network`, else its `model`, `backbone` or `net`, else its only module with
    weights; `network` names another one.

    Calibration images are those of `calibration`, else of the datamodule's `calibration_dataloader(batch_size,
    num_batches)`, which those of `ftbc_pl.data` have, else of the data set of the training loader.
    """

    def __init__(self, calibration: Iterable[Any] | None = None, **options: Any) -> None:
        """Create the callback.

        Args:
            calibration: Batches of training images without augmentation to calibrate with: a loader, or a list.
            **options: Those of `ftbc_pl.options.RunOptions`.

        Raises:
            TypeError: A keyword is no option, or `calibration` can be gone through only once.
            ValueError: A value is out of range, or `batch_size` is given beside `calibration`, which has its own.
        """
        super().__init__()
        if calibration is not None:
            check_batches(calibration)
            if "batch_size" in options:
                raise ValueError("calibration brings batches of its own: leave batch_size out, or make them so large.")
        RunOptions.of(options, "FTBC")  # names a wrong keyword and a similar one
        self.options = RunOptions(**options)  # by which jsonargparse knows the options of a YAML
        self.run = Run(self.options, calibration, given=options)
        self._measures = True
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
            network = network_of(pl_module, self.options.network)
            if self.options.network is None and network_name(pl_module) != "network":
                rank_zero_info(
                    f"FTBC converts {network_name(pl_module)} ({type(network).__name__}) of {type(pl_module).__name__}."
                )
            self.run.check(trainer, network)

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
            network = network_of(pl_module, self.options.network)
            self.run.check_training_images(trainer, network)
            warn_without_validation(trainer)
            check_exit_images(trainer, self.options.exit_loss)
            self._measures = not has_validation(trainer) or self._can_measure(trainer, network)

    def _can_measure(self, trainer: Trainer, network: nn.Module) -> bool:
        """Whether an accuracy can be measured on the first validation images, in all processes."""
        if not self.options.trial:
            return True
        with isolate_rng():
            device = trainer.strategy.root_device
            first = (transferred(trainer, batch, device) for batch in validation_batches(trainer))
            why = why_not_measured(network, next(first, None))
        if in_any_process(bool(why), trainer.strategy.root_device):
            rank_zero_warn(
                "The network will be converted, calibrated and saved, but no accuracy measured, since the validation "
                f"images can't tell it: {why}"
            )
            return False
        return True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make, measure and write; the last hook of fit, so weight averaging and checkpoints are done."""
        if not self.options.enabled:
            return
        network = network_of(pl_module, self.options.network)
        ann = copied(network)
        load_trained_weights_(ann, trainer, pl_module, place_in_state(pl_module, network))
        snn = self.run.make(trainer, ann)
        if self._measures and has_validation(trainer):
            accuracies = self.run.measure(trainer, snn, validation_batches(trainer))
            self.run.write(trainer, snn, accuracies, "validation")
        elif self._measures:
            self.run.write_without_accuracies(trainer)
        else:
            self.run.write_without_accuracies(trainer, "the validation images can't tell it")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave an earlier run's results as they were."""
        self.run.abandon()
