"""What follows a training, in one folder: make (convert → calibrate → save), measure, write (results, report, logs).

The trainer's subcommands and the callback both use a `Run`, so all of them leave the same files.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from ftbc_pl.calibration import CalibrationReport, calibrate_
from ftbc_pl.conversion import SpikingNetwork, convert
from ftbc_pl.conversion.batch import images_and_labels
from ftbc_pl.distributed import progress_bar
from ftbc_pl.evaluation import Accuracies, Comparison
from ftbc_pl.files import write_text_atomic
from ftbc_pl.functional.fused import check_compiler
from ftbc_pl.io import save_snn
from ftbc_pl.loaders import calibration_loader, offers_calibration_images
from ftbc_pl.options import CalibrationOptions, ConversionOptions, RunOptions
from ftbc_pl.reports import accuracy_table, log_results, write_report_html, write_results_json
from ftbc_pl.reports.collect import collect_results
from ftbc_pl.reports.tracking import logger_links
from ftbc_pl.safety.output import OutputFolder, check_unused
from ftbc_pl.safety.trial import check_convertible


class Settings(Callback):
    """Holds the whole configuration of a run, as YAML, to be written beside its results."""

    def __init__(self, text: str) -> None:
        """Hold `text`."""
        self.text = text

    @classmethod
    def of(cls, trainer: Trainer, options: RunOptions) -> str:
        """The configuration that the trainer was given, or where there is none the options."""
        given = next((c.text for c in trainer.callbacks if isinstance(c, cls)), None)  # type: ignore[attr-defined]
        return given or yaml.safe_dump({"ftbc": options.to_dict()}, sort_keys=False)


class Run:
    """One run's way from a trained network to its results.

    Attributes:
        options: What to do.
        folder: Where the results go, once claimed.
        snn: The spiking network, once made or loaded.
        report: What the calibration did; None before it, and for networks that were not calibrated.
    """

    def __init__(self, options: RunOptions) -> None:
        """Claim nothing yet."""
        self.options = options
        self.folder: Path | None = None
        self.snn: SpikingNetwork | None = None
        self.report: CalibrationReport | None = None
        self._output: OutputFolder | None = None  # in the process that writes

    def check(self, trainer: Trainer, network: nn.Module) -> None:
        """Find out before a training what would go wrong after it: claim the folder, try data, compiler and conversion.

        Raises:
            ConversionError: The network can't be converted.
            FileExistsError: The given folder holds another run's results.
            RuntimeError: The neurons are to be compiled and can't be.
            TypeError: There are no calibration images.
        """
        self.claim(trainer)
        if self.options.compile:
            check_compiler(run_device(trainer))
        if offers_calibration_images(getattr(trainer, "datamodule", None)):
            self._try(trainer, network)

    def check_training_images(self, trainer: Trainer, network: nn.Module) -> None:
        """The same for images of the training loader, which is there once the training begins.

        Raises:
            ConversionError: The network can't be converted.
            TypeError: The images can't serve to calibrate.
        """
        if not offers_calibration_images(getattr(trainer, "datamodule", None)):
            self._try(trainer, network)

    def _try(self, trainer: Trainer, network: nn.Module) -> None:
        loader = self._calibration_loader(trainer)
        check_convertible(network, loader, self.options.part(ConversionOptions))

    def check_folder(self) -> None:
        """Find out before anything is started whether the given folder can be written to.

        Raises:
            FileExistsError: It holds another run's results.
        """
        if self.folder is None and self.options.output_dir is not None:
            check_unused(self.options.output_dir, self.options.overwrite)

    def claim(self, trainer: Trainer) -> Path:
        """Choose, make and lock the output folder; the same one for all processes.

        Raises:
            FileExistsError: The given folder holds another run's results, or another run is writing to it.
            OSError: The folder can't be made.
        """
        if self.folder is None:
            chosen = self.options.output_dir or f"runs/{datetime.now():%Y%m%d-%H%M%S-%f}"
            folder = Path(trainer.strategy.broadcast(str(chosen)))
            problem: OSError | None = None
            if trainer.is_global_zero:
                try:
                    self._output = OutputFolder(folder, self.options.overwrite)
                except OSError as error:
                    problem = error
            said = trainer.strategy.broadcast("" if problem is None else str(problem))
            if said:
                raise FileExistsError(said) if problem is None or problem.errno is None else problem
            self.folder = folder
        return self.folder

    def abandon(self) -> None:
        """Give the folder back as it was, with the results of an earlier run that were to be overwritten."""
        if self._output is not None:
            self._output.abandon()
            self._output = self.folder = None

    def make(self, trainer: Trainer, ann: nn.Module) -> SpikingNetwork:
        """Convert and calibrate `ann` in 32 bits on the trainer's device, and save the result."""
        self.claim(trainer)
        options = self.options
        loader = self._calibration_loader(trainer)
        conversion = options.part(ConversionOptions).to_dict()
        ann = ann.float().to(run_device(trainer))
        snn = convert(ann, batches=loader, num_batches=options.num_batches, **conversion)
        rank_zero_info(f"Converted {snn.report.summary()}")
        self.place(trainer, snn)
        calibration = options.part(CalibrationOptions).to_dict()
        self.report = calibrate_(snn, loader, **calibration, progress=_shows_progress(trainer))
        rank_zero_info(str(self.report))
        if self._output is not None:
            save_snn(snn, self._output.place / "snn", report=self.report)
        self.snn = snn
        return snn

    def place(self, trainer: Trainer, snn: SpikingNetwork) -> SpikingNetwork:
        """Move the spiking network to where it runs, and let it run as the options say."""
        snn.to(run_device(trainer))
        if self.options.time_chunk is not None:
            snn.time_chunk = self.options.time_chunk
        if self.options.compile:
            snn.compile_neurons()
        return snn

    def measure(self, trainer: Trainer, snn: SpikingNetwork, loader: Iterable[Any]) -> Accuracies:
        """Measure the accuracy at every timestep in plain code, for hooks in which Lightning can run no loop."""
        comparison = Comparison(snn.num_steps).to(snn.device)
        for batch in progress_bar(loader, "Evaluating", _shows_progress(trainer)):
            comparison.update(snn, *images_and_labels(trainer.strategy.batch_to_device(batch, snn.device, 0)))
        return comparison.compute()

    def write(self, trainer: Trainer, snn: SpikingNetwork, accuracies: Accuracies, split: str) -> None:
        """Write, log and print the results; process 0 only, no-op in others."""
        folder = self.claim(trainer)
        settings = Settings.of(trainer, self.options)
        links = logger_links(trainer.loggers, folder)
        results = collect_results(snn, accuracies, self.report, split, yaml.safe_load(settings), links)
        if self._output is not None:
            write_text_atomic(self._output.place / "config.yaml", settings)
            write_results_json(results, self._output.place)
            write_report_html(results, self._output.place)
            names = self._commit()
            log_results(trainer.loggers, results, folder)
            rank_zero_info(f"\n{accuracy_table(results)}\nSaved to {folder}: {', '.join(names)}\n")

    def write_without_accuracies(self, trainer: Trainer) -> None:
        """Write and print what there is where nothing was measured; process 0 only, no-op in others."""
        folder = self.claim(trainer)
        settings = Settings.of(trainer, self.options)
        if self._output is not None:
            write_text_atomic(self._output.place / "config.yaml", settings)
            names = self._commit()
            rank_zero_info(
                f"\nNo accuracy was measured, since there are no validation images. Saved to {folder}: "
                f"{', '.join(names)}\n"
            )

    def _commit(self) -> list[str]:
        assert self._output is not None
        names = self._output.commit()
        self._output = None
        return names

    def _calibration_loader(self, trainer: Trainer) -> Any:
        return calibration_loader(trainer, self.options.batch_size, self.options.num_batches)


def run_device(trainer: Trainer) -> torch.device:
    """Where the spiking network runs: the trainer's device, but no MPS."""
    device: torch.device = trainer.strategy.root_device
    # MPS has no float64, in which means are summed.
    return torch.device("cpu") if device.type == "mps" else device


def validation_batches(trainer: Trainer) -> Iterator[Any]:
    """The batches of a fit's validation loaders, each as far as the trainer's limits go."""
    for loader, limit in _validation_loaders(trainer):
        yield from islice(loader, limit)


def has_validation(trainer: Trainer) -> bool:
    """Whether a fit has validation images; to be asked once it has begun."""
    return any(limit for _, limit in _validation_loaders(trainer))


def _validation_loaders(trainer: Trainer) -> list[tuple[Any, int]]:
    """The validation loaders of a fit, with the number of batches to take of each."""
    if trainer.val_dataloaders is None and trainer.enable_validation:
        trainer.fit_loop.epoch_loop.val_loop.setup_data()  # a training that goes on at its end has not needed them
    loaders, limits = trainer.val_dataloaders, trainer.num_val_batches
    data: Any = getattr(trainer, "datamodule", None)
    if loaders is None and trainer.limit_val_batches and is_overridden("val_dataloader", data, LightningDataModule):
        loaders = data.val_dataloader()  # the task has no validation of its own
        limits = []
    given = [] if loaders is None else [loaders] if hasattr(loaders, "dataset") else list(loaders)
    limits = limits or [_limit(trainer.limit_val_batches, len(loader)) for loader in given]
    return [(loader, int(min(limit, len(loader)))) for loader, limit in zip(given, limits, strict=False)]


def _limit(limit: int | float, batches: int) -> int:
    return limit if isinstance(limit, int) else int(limit * batches)


def warn_without_validation(trainer: Trainer) -> None:
    """Say before the training what a run without validation images lacks."""
    if not has_validation(trainer):
        rank_zero_warn(
            "There are no validation images (data.val_split or trainer.limit_val_batches is 0): the last weights will "
            "be converted and saved, without a best checkpoint, accuracies or a report."
        )


def network_of(module: LightningModule, attribute: str = "network") -> nn.Module:
    """The ANN inside a LightningModule.

    Raises:
        AttributeError: It has no such attribute.
    """
    network = getattr(module, attribute, None)
    if not isinstance(network, nn.Module):
        raise AttributeError(f"{type(module).__name__} has no network in its attribute {attribute!r}; name it.")
    return network


def _shows_progress(trainer: Trainer) -> bool:
    return trainer.progress_bar_callback is not None
