"""The commands that Lightning's trainer runs: fit, validate, test, predict, calibrate and compare."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.loggers import WandbLogger

from ftbc_pl.command.allowed import check_classes
from ftbc_pl.command.given import (
    check_beside_checkpoint,
    check_beside_saved,
    check_path,
    check_weights,
    count_classes,
    hyper_parameters,
)
from ftbc_pl.command.offline import choose_offline
from ftbc_pl.command.parser import Parser
from ftbc_pl.command.quiet import EndBar, Epochs, LogEachEpoch, Size, has_bar, say_all, shows_bars
from ftbc_pl.command.section import ftbc_section
from ftbc_pl.command.table import COMMANDS
from ftbc_pl.command.unsaid import with_found
from ftbc_pl.data import ClassificationData
from ftbc_pl.data.found import has_training
from ftbc_pl.data.rate import DataRate
from ftbc_pl.data.timm_sources import FOLDER_NAMES
from ftbc_pl.run import Settings
from ftbc_pl.safety.checkpoints import use_atomic_checkpoints
from ftbc_pl.safety.launching import check_launcher
from ftbc_pl.safety.resume import EpochSeed
from ftbc_pl.safety.signals import Stopping
from ftbc_pl.task import ImageClassifier
from ftbc_pl.trainer import FTBCTrainer

_CSV_LOGGER = "lightning.pytorch.loggers.CSVLogger"


class FTBCCLI(LightningCLI):
    """Sections model, data, trainer, optimizer, lr_scheduler, checkpoint and ftbc."""

    trainer: FTBCTrainer

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Subcommands and the arguments that don't come from the command line."""
        skipped = {"model", "dataloaders", "datamodule"}
        return {
            # weights_only: a configuration from elsewhere could ask for a checkpoint's code to be run.
            "fit": skipped | {"train_dataloaders", "val_dataloaders", "weights_only"},
            # verbose: Lightning's own, for its table of metrics.
            "validate": skipped | {"verbose"},
            "test": skipped | {"verbose"},
            "predict": skipped | {"return_predictions"},
            "calibrate": skipped,
            "compare": skipped,
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what Lightning doesn't know."""
        parser.add_argument(
            "--verbose", action="store_true", help="Say more: the table of sites, and all that Lightning says."
        )
        parser.add_lightning_class_args(ftbc_section, "ftbc")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.monitor": "val/accuracy", "checkpoint.mode": "max"})
        parser.set_defaults({"trainer.logger": {"class_path": _CSV_LOGGER, "init_args": {"save_dir": "runs"}}})
        parser.add_argument(
            "--optimizer",
            type=OptimizerCallable,
            default={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}},
            help="The optimizer, any of torch.optim; thresholds get no weight decay.",
        )
        parser.add_argument(
            "--lr_scheduler",
            type=LRSchedulerCallable | None,
            default={"class_path": "ftbc_pl.schedules.Cosine"},
            help="The schedule: ftbc_pl.schedules.Cosine and OneCycle span the training, others are torch's.",
        )
        parser.link_arguments("optimizer", "model.optimizer")
        parser.link_arguments("lr_scheduler", "model.lr_scheduler")
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse them; a section must hold options, which the parser doesn't look at."""
        super().parse_arguments(parser, args)
        for section in ("trainer", "ftbc", "checkpoint"):
            value = self.config[self.config.subcommand].get(section)
            if not isinstance(value, Namespace):
                self._parser(self.config.subcommand).error(f"{section}: expected options, got {value!r}")

    def _parse_ckpt_path(self) -> None:
        """Take the network of a given checkpoint or saved network; options that say otherwise are an error."""
        config = self.config[self.config.subcommand]
        snn_path, ckpt_path = config.get("snn_path"), config.get("ckpt_path")
        if snn_path is not None:
            taken = check_beside_saved(self._given(), snn_path)
        elif ckpt_path is not None and check_path(ckpt_path):
            recorded = hyper_parameters(ckpt_path, whole=self.config.subcommand not in ("calibrate", "compare"))
            taken = {"model": check_beside_checkpoint(self._given().get("model") or {}, recorded, ckpt_path)}
        else:
            return
        if self.config.subcommand == "predict":
            _count_classes_of(config.get("data"), snn_path or ckpt_path)
        known = {name: {key: v for key, v in part.items() if key in config[name]} for name, part in taken.items()}
        self.config = self.parser.parse_object({self.config.subcommand: known}, self.config)

    def _given(self) -> dict[str, Any]:
        """What was given in files and on the command line, without the defaults."""
        required = ["--optimizer=torch.optim.SGD", "--lr_scheduler=null"]  # the model is linked to them
        given = self.parser.parse_args([*sys.argv[1:], *required], defaults=False)
        linked = ("optimizer", "lr_scheduler")
        return {
            name: {k: v for k, v in vars(given[given.subcommand].get(name, Namespace())).items() if k not in linked}
            for name in ("model", "ftbc")
        }

    def before_instantiate_classes(self) -> None:
        """Look at what the configuration names before anything of it is made."""
        config = self.config[self.subcommand]
        check_classes(config)
        check_weights(str(self.subcommand), config)
        if config.verbose:
            say_all()
        choose_offline(config.trainer.logger)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Hand the configuration on to the trainer, which writes it beside the results."""
        config = self.config[self.subcommand]
        shown: list[Callback] = [EndBar()]
        if config.trainer.enable_model_summary is None and not config.verbose:
            kwargs["enable_model_summary"] = False
            shown.append(Size())
        given = self._get(self.config_init, "trainer").callbacks
        if config.trainer.enable_progress_bar is None and not (shows_bars() or has_bar(given)):
            kwargs["enable_progress_bar"] = False
            shown.append(Epochs())
        trainer: FTBCTrainer = super().instantiate_trainer(**kwargs)  # type: ignore[assignment]
        trainer.callbacks.extend(shown)
        use_atomic_checkpoints(trainer)
        settings = self._parser(self.subcommand).dump(config, skip_link_targets=True)
        trainer.callbacks.append(Settings(settings))
        if config.seed_everything is not False:
            trainer.callbacks.append(EpochSeed(config.seed_everything))
        if self.subcommand == "fit":
            trainer.callbacks.append(DataRate())
            if config.trainer.log_every_n_steps is None:
                trainer.callbacks.append(LogEachEpoch())
        if self.subcommand == "fit" and config.ftbc.enabled:
            check_launcher(trainer)
        if not config.checkpoint.save_last:
            trainer.callbacks.append(_last_checkpoint(config.checkpoint.dirpath))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(yaml.safe_load(settings))
        return trainer


def run(arguments: list[str], stopping: Stopping) -> None:
    """Run one of the trainer's commands.

    Args:
        arguments: The command's name and options.
        stopping: What the process was told from outside.
    """
    with _arguments(with_found(arguments)):
        FTBCCLI(
            ImageClassifier,
            ClassificationData,
            trainer_class=FTBCTrainer,
            trainer_defaults={"callbacks": stopping},
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=None,
            parser_class=Parser,
            # Abbreviations change their meaning with every option that is added.
            parser_kwargs={"prog": "ftbc-pl", "allow_abbrev": False}
            | {name: {"description": COMMANDS[name].summary} for name in FTBCCLI.subcommands()},
        )


def _count_classes_of(data: Any, path: str) -> None:
    """Let images to predict without a split for training, where classes would be counted, have those of a network."""
    options = data.get("init_args") if isinstance(data, Namespace) else None
    if options is None or str(data.get("class_path")).rpartition(".")[2] != "ImageData":
        return
    root, train, test = Path(str(options.get("root"))), options.get("train_split"), options.get("test_split")
    in_files = options.get("name") in FOLDER_NAMES and root.is_dir()
    if options.get("num_classes") is None and in_files and not has_training(root, train, test):
        options["num_classes"] = count_classes(path)


def _last_checkpoint(folder: str | None) -> ModelCheckpoint:
    """Keep last.ckpt up to date. With `save_last` Lightning renews it only when the best checkpoint changes."""
    return ModelCheckpoint(folder, filename="last", enable_version_counter=False)


@contextmanager
def _arguments(arguments: list[str]) -> Iterator[None]:
    """Let these be the arguments of the process: LightningCLI warns of arguments that are handed to it."""
    before, sys.argv = sys.argv, [sys.argv[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before
