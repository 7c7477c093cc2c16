"""A comparison as the trainer runs it: options of the section ftbc, one folder, its files and logs."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Literal

import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from ftbc_pl.comparisons.module import ComparingClassifier
from ftbc_pl.comparisons.plan import BUILT_IN, Plan
from ftbc_pl.comparisons.store import Store, comparison_key
from ftbc_pl.comparisons.table import ComparisonTable
from ftbc_pl.comparisons.tracking import log_comparison
from ftbc_pl.loaders import calibration_loader, size_that_fits
from ftbc_pl.options import CalibrationOptions, ConversionOptions, RunOptions, SimulationOptions
from ftbc_pl.reports import RunResults
from ftbc_pl.reports.wording import facts, table_steps
from ftbc_pl.run import Settings
from ftbc_pl.task import ImageClassifier

Split = Literal["validation", "test"]
_PLAIN = (str, int, float, bool, tuple)
_VARIED = ("num_steps", "solver", "weights", "readout")
# Sections and options on which no accuracy depends, but for rounding.
_DATA_FREE = ("num_workers", "pin_memory", "batch_size", "download", "cache")


class ComparisonRun:
    """One comparison, from options to files.

    Attributes:
        table: What is measured.
        module: What the trainer's loop runs.
    """

    def __init__(
        self,
        trainer: Trainer,
        model: LightningModule,
        network: nn.Module,
        datamodule: LightningDataModule | None,
        options: RunOptions,
        num_steps: Iterable[int] | None,
        solvers: Iterable[str] | None,
        weights: Iterable[str] | None,
        draws: int,
        split: Split,
    ) -> None:
        """Check everything that can be checked without data.

        Raises:
            FileExistsError: The folder holds another comparison.
            ValueError: An option or a combination is out of range.
        """
        parts = (ConversionOptions, CalibrationOptions, SimulationOptions)
        common = {name: value for part in parts for name, value in options.part(part).to_dict().items()}
        self._options = options
        plan = Plan.of(
            table_steps(options.num_steps) if num_steps is None else num_steps,
            dict.fromkeys([*BUILT_IN, options.solver]) if solvers is None else solvers,
            [options.weights] if weights is None else weights,
            draws,
            {name: value for name, value in common.items() if name not in _VARIED},
        )
        settings = yaml.safe_load(Settings.of(trainer, options))
        others = {
            "data": _data(settings, datamodule),
            "limits": _limits(trainer),
            "batch_size": options.batch_size,
            "split": split,
        }
        key = comparison_key(network, plan, **others)
        self.table = ComparisonTable(plan, split=split, facts=_facts(settings))
        self._store = Store(options.output_dir or f"runs/compare-{key}", key, options.overwrite)

        def check(trainer: Trainer) -> None:
            if isinstance(model, ImageClassifier):
                model.check_classes(trainer)

        self.module = ComparingClassifier(network, self.table, self._store, _batches(split), self._calibration, check)

    def finish(self, trainer: Trainer) -> ComparisonTable:
        """Write, log and print the table."""
        names = self._store.finish(self.table)
        log_comparison(trainer.loggers, self.table, self._store)
        rank_zero_info(f"\n{self.table}\nSaved to {self._store.folder}: {', '.join(names)}\n")
        return self.table

    def close(self) -> None:
        """Let others write to the folder."""
        self._store.close()

    def _calibration(self, trainer: Trainer) -> Any:
        plan = self.table.plan
        number = plan.num_batches * plan.draws
        try:
            return calibration_loader(trainer, size_that_fits(trainer, self._options.batch_size, number), number)
        except ValueError as error:
            raise ValueError(f"{plan.draws} draws of calibration images: {error}, or draws") from error


def _batches(split: Split) -> Callable[[Trainer], Iterator[Any]]:
    """The batches of the loop that runs, each loader as far as the trainer's limit goes."""

    def batches(trainer: Trainer) -> Iterator[Any]:
        loop = trainer.validate_loop if split == "validation" else trainer.test_loop
        loaders = loop._combined_loader.flattened if loop._combined_loader is not None else []
        for loader, limit in zip(loaders, loop.max_batches, strict=True):
            yield from islice(loader, None if limit == float("inf") else int(limit))

    return batches


def _data(settings: dict[str, Any], datamodule: LightningDataModule | None) -> Any:
    """Which images these are: as the command line says, or else what the data module holds of plain values."""
    data = settings.get("data")
    if not data:
        plain = {name: v for name, v in getattr(datamodule, "__dict__", {}).items() if isinstance(v, _PLAIN)}
        data = {"class_path": type(datamodule).__qualname__, "init_args": {k: plain[k] for k in plain if k[0] != "_"}}
    arguments = data.get("init_args") or {}
    return {**data, "init_args": {name: value for name, value in arguments.items() if name not in _DATA_FREE}}


def _limits(trainer: Trainer) -> list[Any]:
    return [trainer.limit_val_batches, trainer.limit_test_batches]


def _facts(settings: dict[str, Any]) -> dict[str, str]:
    """Network, activation, data and checkpoint, as the reports of runs say them."""
    known = facts(RunResults(0.0, 1, "validation", 1, [0.0], settings=settings))
    return {name: known[name] for name in ("network", "activation", "data", "checkpoint") if name in known}
