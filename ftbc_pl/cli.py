"""The command line: parses, and leaves the work to the trainer."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info

from ftbc_pl.callbacks import FTBC
from ftbc_pl.data import ClassificationData
from ftbc_pl.run import Settings
from ftbc_pl.task import ImageClassifier
from ftbc_pl.trainer import FTBCTrainer

DESCRIPTION = """Train an image classifier, convert it to a spiking network, calibrate it with FTBC in one forward pass
and measure its accuracy at every timestep."""


_CSV_LOGGER = "lightning.pytorch.loggers.CSVLogger"


class FTBCCLI(LightningCLI):
    """Sections model, data, trainer, optimizer, lr_scheduler, checkpoint and ftbc."""

    trainer: FTBCTrainer

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Subcommands and the arguments that don't come from the command line."""
        skipped = {"model", "dataloaders", "datamodule"}
        return {
            "fit": skipped | {"train_dataloaders", "val_dataloaders"},
            "validate": skipped,
            "test": skipped,
            "predict": skipped | {"return_predictions"},
            "calibrate": skipped,
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the sections that Lightning doesn't know."""
        parser.add_lightning_class_args(FTBC, "ftbc")
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

    def before_instantiate_classes(self) -> None:
        """Choose W&B's offline mode where nobody is logged in."""
        if "WANDB_MODE" in os.environ:
            return
        loggers = self.config[self.subcommand].trainer.logger
        online = [
            logger.init_args
            for logger in (loggers if isinstance(loggers, list) else [loggers])
            if getattr(logger, "class_path", "").endswith("WandbLogger") and not logger.init_args.offline
        ]
        if online and not _logged_in_to_wandb():
            for arguments in online:
                arguments.offline = True
            rank_zero_info("W&B: no login found, so this run is kept offline; `wandb sync` uploads it later.")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Hand the configuration on to the trainer, which writes it beside the results."""
        trainer: FTBCTrainer = super().instantiate_trainer(**kwargs)  # type: ignore[assignment]
        config = self.config[self.subcommand]
        settings = self._parser(self.subcommand).dump(config, skip_link_targets=True)
        trainer.callbacks.append(Settings(settings))
        if not config.checkpoint.save_last:
            trainer.callbacks.append(_last_checkpoint(config.checkpoint.dirpath))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(yaml.safe_load(settings))
        return trainer


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Arguments; left out: those of the process.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
    given = sys.argv[1:] if args is None else list(args)
    arguments = [_shipped_config(a, before) for before, a in zip(["", *given], given, strict=False)]
    try:
        with _arguments(arguments):
            FTBCCLI(
                ImageClassifier,
                ClassificationData,
                trainer_class=FTBCTrainer,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                seed_everything_default=0,
                save_config_callback=None,
                parser_kwargs={"prog": "ftbc-pl", "description": DESCRIPTION},
            )
    except (ValueError, OSError, TypeError, RuntimeError, AttributeError, MisconfigurationException) as error:
        if os.environ.get("FTBC_DEBUG"):
            raise
        # what a data module raises is wrapped by jsonargparse
        wrapped = str(error).startswith("Does not validate against any of the Union subtypes")
        print(
            f"ftbc-pl: error: {(wrapped and error.__cause__) or error}\n(FTBC_DEBUG=1 shows where it happened.)",
            file=sys.stderr,
        )
        raise SystemExit(1) from error


def _last_checkpoint(folder: str | None) -> ModelCheckpoint:
    """Keep last.ckpt up to date. With `save_last` Lightning renews it only when the best checkpoint changes."""
    return ModelCheckpoint(folder, filename="last", enable_version_counter=False)


def _logged_in_to_wandb() -> bool:
    import wandb  # here, because a run without W&B should not wait for it

    try:
        return bool(wandb.login(prompt=False))
    finally:
        wandb.teardown()  # else wandb keeps the mode that it has read now


@contextmanager
def _arguments(arguments: list[str]) -> Iterator[None]:
    """Let these be the arguments of the process: LightningCLI warns of arguments that are handed to it."""
    before, sys.argv = sys.argv, [sys.argv[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before


def _shipped_config(argument: str, previous: str) -> str:
    """Replace the path of a config that is not there by the one that ships with the package."""
    prefix, _, path = argument.rpartition("=") if argument.startswith(("--config=", "-c=")) else ("", "", argument)
    if (prefix or previous in ("--config", "-c")) and not Path(path).exists():
        package = Path(str(files("ftbc_pl")))
        # in the wheel the configs lie in the package, in a checkout beside it
        for shipped in (package / "configs" / Path(path).name, package.parent / "configs" / Path(path).name):
            if shipped.is_file():
                return f"{prefix}={shipped}" if prefix else str(shipped)
    return argument
