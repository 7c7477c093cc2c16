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
from jsonargparse import Namespace, auto_cli, get_loader, set_loader
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.loggers import WandbLogger

from ftbc_pl.command.allowed import bounded, check_classes
from ftbc_pl.command.endings import say_how_it_ended
from ftbc_pl.command.given import check_beside_checkpoint, check_beside_saved, check_path, hyper_parameters
from ftbc_pl.command.offline import choose_offline
from ftbc_pl.command.section import ftbc_section
from ftbc_pl.command.unsaid import with_found
from ftbc_pl.data import ClassificationData
from ftbc_pl.data.rate import DataRate
from ftbc_pl.export import export
from ftbc_pl.run import Settings
from ftbc_pl.safety.checkpoints import use_atomic_checkpoints
from ftbc_pl.safety.launching import check_launcher
from ftbc_pl.safety.resume import EpochSeed
from ftbc_pl.safety.signals import Stopping
from ftbc_pl.sweeps import sweep
from ftbc_pl.task import ImageClassifier
from ftbc_pl.trainer import FTBCTrainer

DESCRIPTION = """Train an image classifier, convert it to a spiking network, calibrate it with FTBC in one forward pass
and measure its accuracy at every timestep. Two further subcommands: export writes a saved spiking network for other
software, sweep runs a sweep file of W&B on this machine; see ftbc-pl export --help and ftbc-pl sweep --help."""


_CSV_LOGGER = "lightning.pytorch.loggers.CSVLogger"
_read_yaml = get_loader("yaml")


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
            "validate": skipped,
            "test": skipped,
            "predict": skipped | {"return_predictions"},
            "calibrate": skipped,
            "compare": skipped,
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the sections that Lightning doesn't know."""
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
        choose_offline(config.trainer.logger)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Hand the configuration on to the trainer, which writes it beside the results."""
        trainer: FTBCTrainer = super().instantiate_trainer(**kwargs)  # type: ignore[assignment]
        use_atomic_checkpoints(trainer)
        config = self.config[self.subcommand]
        settings = self._parser(self.subcommand).dump(config, skip_link_targets=True)
        trainer.callbacks.append(Settings(settings))
        if config.seed_everything is not False:
            trainer.callbacks.append(EpochSeed(config.seed_everything))
        if self.subcommand == "fit":
            trainer.callbacks.append(DataRate())
        if self.subcommand == "fit" and config.ftbc.enabled:
            check_launcher(trainer)
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
    set_loader("yaml", bounded(_read_yaml), (yaml.YAMLError,))
    given = sys.argv[1:] if args is None else list(args)
    arguments = [_shipped_config(a, before) for before, a in zip(["", *given], given, strict=False)]
    stopping = Stopping()
    try:
        if arguments[:1] == ["export"]:
            # It takes neither model nor data nor trainer.
            auto_cli(export, as_positional=False, args=arguments[1:], prog="ftbc-pl export")
            return
        if arguments[:1] == ["sweep"]:
            with stopping.handled():
                auto_cli(sweep, args=arguments[1:], prog="ftbc-pl sweep")
            return
        with _arguments(data_first(with_found(arguments))), stopping.handled():
            FTBCCLI(
                ImageClassifier,
                ClassificationData,
                trainer_class=FTBCTrainer,
                trainer_defaults={"callbacks": stopping},
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                seed_everything_default=0,
                save_config_callback=None,
                parser_kwargs={"prog": "ftbc-pl", "description": DESCRIPTION},
            )
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if os.environ.get("FTBC_DEBUG"):
            raise
        raise SystemExit(say_how_it_ended(error, stopping, arguments)) from error


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


def data_first(arguments: Sequence[str]) -> list[str]:
    """Put `--data` before options of the section data, of which the parser knows nothing until then."""
    own = [i for i, argument in enumerate(arguments) if argument == "--data" or argument.startswith("--data=")]
    options = [i for i, argument in enumerate(arguments) if argument.startswith("--data.")]
    if len(own) != 1 or not options or options[0] > own[0]:
        return list(arguments)
    length = 2 if arguments[own[0]] == "--data" else 1
    moved = arguments[own[0] : own[0] + length]
    rest = [*arguments[: own[0]], *arguments[own[0] + length :]]
    return [*rest[: options[0]], *moved, *rest[options[0] :]]
