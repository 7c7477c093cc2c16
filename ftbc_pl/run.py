"""What follows a training, in one folder: make (convert → calibrate → save), measure, write (results, report, logs).

The trainer's subcommands and the callback both use a `Run`, so all of them leave the same files.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.rank_zero import rank_zero_debug  # type: ignore[attr-defined]
from torch import nn

from ftbc_pl.calibration import CalibrationReport, calibrate_, uncalibrated_readout
from ftbc_pl.conversion import SpikingNetwork, convert
from ftbc_pl.conversion.batch import images_and_labels
from ftbc_pl.distributed import progress_bar
from ftbc_pl.evaluation import Comparison, Measured, Measurement, choose_exit_
from ftbc_pl.files import write_text_atomic
from ftbc_pl.functional.fused import check_compiler
from ftbc_pl.io import save_snn
from ftbc_pl.loaders import calibration_loader, held_out_loader, offers_calibration_images, size_that_fits
from ftbc_pl.models.images import data_config, remember_images, remembered
from ftbc_pl.options import CalibrationOptions, ConversionOptions, RunOptions
from ftbc_pl.reports import accuracy_table, log_results, site_table, write_report_html, write_results_json
from ftbc_pl.reports.collect import collect_results
from ftbc_pl.reports.tracking import logger_links
from ftbc_pl.safety.output import OutputFolder, check_unused
from ftbc_pl.safety.trial import check_convertible
from ftbc_pl.simulation.shorten import knows_mean_alone, shorten_, use_mean_readout_
from ftbc_pl.transfer import transferred
from ftbc_pl.validation import validation_loaders

EXIT_IMAGES = 20  # times 1 / exit_loss: among so many images 20 decisions may differ


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
        snn: The spiking network that this run has made; None before it, and where one was loaded.
        report: What the calibration did; None before it, and for networks that were not calibrated.
    """

    def __init__(self, options: RunOptions, calibration: Any = None, given: Iterable[str] = ()) -> None:
        """Claim nothing yet.

        Args:
            options: What to do.
            calibration: Batches of training images to calibrate with; left out: from the data.
            given: Names of the options that were given.
        """
        self.options, self.calibration, self.given = options, calibration, frozenset(given)
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
        if self._has_images(trainer):
            self._try(trainer, network)

    def check_training_images(self, trainer: Trainer, network: nn.Module) -> None:
        """The same for images of the training loader, which is there once the training begins.

        Raises:
            ConversionError: The network can't be converted.
            TypeError: The images can't serve to calibrate.
        """
        if not self._has_images(trainer):
            self._try(trainer, network)

    def _has_images(self, trainer: Trainer) -> bool:
        """Whether there are calibration images before the training loader is made."""
        return self.calibration is not None or offers_calibration_images(getattr(trainer, "datamodule", None))

    def _try(self, trainer: Trainer, network: nn.Module) -> None:
        if not self.options.trial:
            return
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
        if not remembered(ann):
            remember_images(ann, data_config(getattr(trainer, "datamodule", None)))
        conversion = options.part(ConversionOptions).to_dict()
        ann = ann.float().to(run_device(trainer))
        snn = convert(ann, batches=loader, num_batches=options.num_batches, **conversion)
        rank_zero_info(f"Converted {snn.report.summary()}")
        self.place(trainer, snn)
        calibration = options.part(CalibrationOptions).to_dict()
        self.report = calibrate_(snn, loader, **calibration, progress=_shows_progress(trainer))
        if options.readout != "mean":  # else no readout by least squares is this network's
            snn.uncalibrated_readout = uncalibrated_readout(snn, loader, options.num_batches)
        rank_zero_info(str(self.report))
        if options.exit_loss is not None:
            self.report = replace(self.report, early_exit=self._set_exit(trainer, snn, options.exit_loss))
        if self._output is not None:
            save_snn(snn, self._output.place / "snn", report=self.report)
        self.snn = snn
        return snn

    def adapt(self, snn: SpikingNetwork, report: CalibrationReport | None) -> CalibrationReport | None:
        """Let a saved network have the timesteps and the readout that were asked for, and return its report for them.

        Raises:
            ValueError: It was not calibrated for these.
        """
        if "readout" in self.given and self.options.readout == "mean":
            use_mean_readout_(snn)
        elif "readout" in self.given and report is not None and knows_mean_alone(snn):
            raise ValueError(
                "expected readout mean, with which the saved network was calibrated, got least_squares: calibrate it "
                "again for another readout"
            )
        if "num_steps" in self.given:
            shorten_(snn, self.options.num_steps)
        return None if report is None else report.first_steps(snn.num_steps, snn.readout_weights[-1].tolist())

    def place(self, trainer: Trainer, snn: SpikingNetwork) -> SpikingNetwork:
        """Move the spiking network to where it runs, and let it run as the options say."""
        snn.to(run_device(trainer))
        if self.options.time_chunk is not None:
            snn.time_chunk = self.options.time_chunk
        snn.memory_limit, snn.precision = self.options.memory_limit, self.options.precision
        if self.options.compile:
            snn.compile_neurons()
        return snn

    def measure(self, trainer: Trainer, snn: SpikingNetwork, loader: Iterable[Any]) -> Measured:
        """Measure the network on a fit's validation images in plain code, for hooks in which Lightning runs no loop."""
        limits = sum(limit for _, limit in validation_loaders(trainer))
        batches = int(limits) if math.isfinite(limits) else None
        comparison = Comparison(len(snn.prediction_steps)).to(snn.device)
        measurement = Measurement(snn, comparison, self.options.analysis, batches)
        for batch in progress_bar(loader, "Evaluating", _shows_progress(trainer)):
            measurement.update(*images_and_labels(transferred(trainer, batch, snn.device)))
        return measurement.compute()

    def write(self, trainer: Trainer, snn: SpikingNetwork, measured: Measured, split: str) -> None:
        """Write, log and print the results; process 0 only, no-op in others."""
        folder = self.claim(trainer)
        settings = Settings.of(trainer, self.options)
        results = collect_results(
            snn,
            measured.accuracies,
            self.report,
            split,
            yaml.safe_load(settings),
            logger_links(trainer.loggers, folder),
            energy=measured.energy,
            energy_uncalibrated=measured.energy_uncalibrated,
            early_exit=measured.early_exit,
            diagnosis=measured.diagnosis,
            calibrated_earlier=snn is not self.snn,
        )
        if self._output is not None:
            write_text_atomic(self._output.place / "config.yaml", settings)
            write_results_json(results, self._output.place)
            write_report_html(results, self._output.place)
            names = self._commit()
            log_results(trainer.loggers, results, folder)
            rank_zero_debug(f"\n{site_table(results)}")  # shown by --verbose
            rank_zero_info(f"\n{accuracy_table(results)}\nSaved to {folder}: {', '.join(names)}\n")

    def write_without_accuracies(self, trainer: Trainer, why: str = "there are no validation images") -> None:
        """Write and print what there is where nothing was measured; process 0 only, no-op in others."""
        folder = self.claim(trainer)
        settings = Settings.of(trainer, self.options)
        if self._output is not None:
            write_text_atomic(self._output.place / "config.yaml", settings)
            names = self._commit()
            rank_zero_info(f"\nNo accuracy was measured, since {why}. Saved to {folder}: {', '.join(names)}\n")

    def _commit(self) -> list[str]:
        assert self._output is not None
        names = self._output.commit()
        self._output = None
        return names

    def _set_exit(self, trainer: Trainer, snn: SpikingNetwork, loss: float) -> dict[str, Any] | None:
        """Choose the thresholds of early exit on validation images, or where there are none on training images.

        None where they can't be chosen: the network is saved all the same.
        """
        count = math.ceil(EXIT_IMAGES / loss)
        loader, which = held_out_loader(trainer, count), "validation"
        if loader is None:
            rank_zero_warn(
                "There are no validation images to set early exit on. Training images serve, of which the network is "
                "surer than of others: more decisions may change than exit_loss allows."
            )
            loader, which = self._further_images(trainer, count), "training"
        try:
            choice = choose_exit_(snn, loader, loss, progress=_shows_progress(trainer))
        except ValueError as error:
            rank_zero_warn(f"The network is saved without early exit: {error}")
            return None
        rank_zero_info(str(choice))
        return choice.to_dict() | {"split": which}

    def _further_images(self, trainer: Trainer, count: int) -> Any:
        """Batches of training images other than those that calibrate; where there are no others, of these."""
        size, used = self.options.batch_size, self.options.num_batches
        try:
            return islice(calibration_loader(trainer, size, used - (-count // size), self.calibration), used, None)
        except ValueError:
            return self._calibration_loader(trainer)

    def _calibration_loader(self, trainer: Trainer) -> Any:
        size, number = self.options.batch_size, self.options.num_batches
        if self.calibration is None:
            size = size_that_fits(trainer, size, number)
        return calibration_loader(trainer, size, number, self.calibration)


def run_device(trainer: Trainer) -> torch.device:
    """Where the spiking network runs: the trainer's device, but no MPS."""
    device: torch.device = trainer.strategy.root_device
    # MPS has no float64, in which means are summed.
    return torch.device("cpu") if device.type == "mps" else device


def _shows_progress(trainer: Trainer) -> bool:
    return trainer.progress_bar_callback is not None
