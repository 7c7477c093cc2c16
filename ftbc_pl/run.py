"""What follows a training, in one folder: make (convert → calibrate → save), measure, write (results, report, logs).

The trainer's subcommands and the callback both use a :class:`Run`, so all of them leave the same files.
"""

import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from ftbc_pl.calibration import CalibrationReport, calibrate_
from ftbc_pl.conversion import SpikingNetwork, convert
from ftbc_pl.distributed import progress_bar
from ftbc_pl.evaluation import Accuracies, Comparison
from ftbc_pl.files import write_text_atomic
from ftbc_pl.functional.fused import check_compiler
from ftbc_pl.io import save_snn
from ftbc_pl.models import read_checkpoint_state
from ftbc_pl.options import CalibrationOptions, ConversionOptions, RunOptions
from ftbc_pl.reports import accuracy_table, log_results, write_report_html, write_results_json
from ftbc_pl.reports.collect import collect_results
from ftbc_pl.reports.tracking import logger_links

_RESULTS = ("results.json", "snn.json", "snn.safetensors")


class Settings(Callback):
    """Holds the whole configuration of a run, as YAML, to be written beside its results."""

    def __init__(self, text: str) -> None:
        """Hold ``text``."""
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

    def check(self, trainer: Trainer) -> None:
        """Find out before a training what would go wrong after it: claim the folder, look at data and compiler.

        Raises:
            FileExistsError: The given folder holds another run's results.
            RuntimeError: The neurons are to be compiled and can't be.
            TypeError: There are no calibration images.
        """
        self.claim(trainer)
        self._calibration_loader(trainer)
        if self.options.compile:
            check_compiler(run_device(trainer))

    def claim(self, trainer: Trainer) -> Path:
        """Choose and make the output folder; the same one for all processes.

        Raises:
            FileExistsError: The given folder holds another run's results.
        """
        if self.folder is None:
            chosen = self.options.output_dir or f"runs/{datetime.now():%Y%m%d-%H%M%S-%f}"
            folder = Path(trainer.strategy.broadcast(str(chosen)))
            earlier = [name for name in _RESULTS if (folder / name).exists()]
            if earlier and not self.options.overwrite:
                raise FileExistsError(
                    f"{folder} holds {earlier[0]} of another run: choose another ftbc.output_dir, leave it out to get "
                    "a new one, or pass --ftbc.overwrite true."
                )
            trainer.strategy.barrier()
            if trainer.is_global_zero:
                folder.mkdir(parents=True, exist_ok=True)
            self.folder = folder
        return self.folder

    def make(self, trainer: Trainer, ann: nn.Module) -> SpikingNetwork:
        """Convert and calibrate ``ann`` in 32 bits on the trainer's device, and save the result."""
        folder, options = self.claim(trainer), self.options
        loader = self._calibration_loader(trainer)
        conversion = options.part(ConversionOptions).to_dict()
        ann = ann.float().to(run_device(trainer))
        snn = convert(ann, batches=loader, num_batches=options.num_batches, **conversion)
        rank_zero_info(f"Converted {snn.report.summary()}")
        self.place(trainer, snn)
        calibration = options.part(CalibrationOptions).to_dict()
        self.report = calibrate_(snn, loader, **calibration, progress=_shows_progress(trainer))
        rank_zero_info(str(self.report))
        if trainer.is_global_zero:
            save_snn(snn, folder / "snn", report=self.report)
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
            images, labels = trainer.strategy.batch_to_device(batch, snn.device, 0)
            comparison.update(snn, images, labels)
        return comparison.compute()

    def write(self, trainer: Trainer, snn: SpikingNetwork, accuracies: Accuracies, split: str) -> None:
        """Write, log and print the results; process 0 only, no-op in others."""
        folder = self.claim(trainer)
        settings = Settings.of(trainer, self.options)
        links = logger_links(trainer.loggers, folder)
        results = collect_results(snn, accuracies, self.report, split, yaml.safe_load(settings), links)
        if trainer.is_global_zero:
            write_text_atomic(folder / "config.yaml", settings)
            write_results_json(results, folder)
            write_report_html(results, folder)
            log_results(trainer.loggers, results, folder)
        rank_zero_info(f"\n{accuracy_table(results)}\nSaved to {folder}: {', '.join(sorted(os.listdir(folder)))}\n")

    def _calibration_loader(self, trainer: Trainer) -> Any:
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "calibration_dataloader"):
            raise TypeError(
                "FTBC takes calibration images from the datamodule's calibration_dataloader(batch_size, num_batches), "
                f"which {type(data).__name__} has not: use a ftbc_pl.data module or add the method."
            )
        return data.calibration_dataloader(self.options.batch_size, self.options.num_batches)


def run_device(trainer: Trainer) -> torch.device:
    """Where the spiking network runs: the trainer's device, but no MPS."""
    device: torch.device = trainer.strategy.root_device
    # MPS has no float64, in which means are summed.
    return torch.device("cpu") if device.type == "mps" else device


def validation_batches(trainer: Trainer) -> Iterator[Any]:
    """The batches of a fit's validation loaders, each as far as the trainer's limits go."""
    loaders = trainer.val_dataloaders
    given = [] if loaders is None else [loaders] if hasattr(loaders, "dataset") else list(loaders)
    for loader, limit in zip(given, trainer.num_val_batches, strict=False):
        yield from islice(loader, int(min(limit, len(loader))))


def load_best_weights_(network: nn.Module, trainer: Trainer, attribute: str) -> None:
    """Load the weights of the best checkpoint into the network; the last ones stay where none was kept.

    Args:
        network: A copy of the LightningModule's network.
        trainer: The trainer that has fitted it.
        attribute: Where the LightningModule holds it.
    """
    path = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if not path or not Path(path).is_file():
        rank_zero_info("FTBC converts the last weights: no best checkpoint was kept.")
        return
    prefix = f"{attribute}."
    state = read_checkpoint_state(path)
    network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    rank_zero_info(f"FTBC converts the weights of the best checkpoint, {path}.")


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
