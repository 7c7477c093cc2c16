"""The command line: the only place where everything is put together."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import callbacks
from ftbc_pl.data import ClassificationData
from ftbc_pl.evaluation import SpikingClassifier
from ftbc_pl.files import write_text_atomic
from ftbc_pl.io import load_calibration, load_snn
from ftbc_pl.models import load_weights
from ftbc_pl.reports import accuracy_table, log_results, write_report_html, write_results_json
from ftbc_pl.reports.collect import collect_results
from ftbc_pl.task import ImageClassifier

if not hasattr(callbacks, "FTBC"):
    raise ImportError(
        f"The package `callbacks` of ftbc_pl is shadowed by {getattr(callbacks, '__file__', None) or callbacks}: rename "
        "that file or folder, or run from another directory."
    )

DESCRIPTION = """Train an image classifier, convert it to a spiking network, calibrate it with FTBC in one forward pass
and measure its accuracy at every timestep."""


class _CalibratingClassifier(SpikingClassifier):
    """Converts and calibrates in ``setup``, when processes and data are ready, and is evaluated after that."""

    def __init__(self, ann: ImageClassifier, ftbc: callbacks.FTBC) -> None:
        super().__init__(None, num_steps=ftbc.num_steps)
        self._ann, self._ftbc = [ann], ftbc

    @property
    def network(self) -> torch.nn.Module:
        return self._ann[0].network

    def setup(self, stage: str) -> None:
        self._ann[0].check_classes(self.trainer)
        self.snn = self._ftbc.calibrate(self.trainer, self._ann[0].network)


class FTBCTrainer(Trainer):
    """Lightning's Trainer with the subcommands of this package."""

    def calibrate(
        self, model: LightningModule, datamodule: LightningDataModule | None = None, ckpt_path: str | None = None
    ) -> None:
        """Convert and calibrate trained or pretrained weights without training, then evaluate.

        Args:
            model: The task with the network.
            datamodule: The data.
            ckpt_path: Checkpoint of an earlier fit; left out: the weights of the section model.
        """
        assert isinstance(model, ImageClassifier)
        if ckpt_path is not None:
            load_weights(model.network, ckpt_path)
        with self._bare_callbacks():
            module = _CalibratingClassifier(model, self.ftbc)
            self.evaluate_spiking(module, datamodule, "validation", report=lambda: self.ftbc.report)

    def validate(  # type: ignore[override]
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        snn_path: str | None = None,
    ) -> Any:
        """Measure the accuracy on the validation images.

        Args:
            model: The task with the network.
            dataloaders: Loaders instead of a datamodule.
            ckpt_path: Checkpoint of the ANN.
            verbose: Whether to print the results.
            datamodule: The data.
            snn_path: Folder or file of a saved spiking network, to measure it instead of the ANN.
        """
        if snn_path is not None:
            return self._evaluate_saved(snn_path, datamodule, "validation")
        return super().validate(model, dataloaders, ckpt_path, verbose, datamodule)

    def test(  # type: ignore[override]
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        snn_path: str | None = None,
    ) -> Any:
        """Measure the accuracy on the test images.

        Args:
            model: The task with the network.
            dataloaders: Loaders instead of a datamodule.
            ckpt_path: Checkpoint of the ANN.
            verbose: Whether to print the results.
            datamodule: The data.
            snn_path: Folder or file of a saved spiking network, to measure it instead of the ANN.
        """
        if snn_path is not None:
            return self._evaluate_saved(snn_path, datamodule, "test")
        return super().test(model, dataloaders, ckpt_path, verbose, datamodule)

    def predict(  # type: ignore[override]
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        return_predictions: bool | None = None,
        ckpt_path: str | None = None,
        snn_path: str | None = None,
        output: str = "predictions.csv",
    ) -> Any:
        """Write class, probability and the prediction at each timestep of every test image to a CSV file.

        Args:
            model: The task with the network.
            dataloaders: Loaders instead of a datamodule.
            datamodule: The data.
            return_predictions: Whether to return the predictions as well.
            ckpt_path: Checkpoint of the ANN.
            snn_path: Folder or file of a saved spiking network, to use it instead of the ANN.
            output: The CSV file.
        """
        self.callbacks.append(callbacks.PredictionWriter(output))
        if snn_path is not None:
            model, ckpt_path = SpikingClassifier(load_snn(snn_path)), None
        return super().predict(model, dataloaders, datamodule, return_predictions, ckpt_path)

    @property
    def ftbc(self) -> callbacks.FTBC:
        """The callback that converts and calibrates."""
        return next(c for c in self._all_callbacks if isinstance(c, callbacks.FTBC))

    def evaluate_spiking(
        self, module: SpikingClassifier, datamodule: LightningDataModule | None, split: str, report: Any
    ) -> None:
        """Run Lightning's loop over a spiking network and write, log and print the results."""
        run = super().validate if split == "validation" else super().test
        run(module, datamodule=datamodule, verbose=False)
        if module.accuracies is None:
            raise ValueError(f"There are no {split} images to evaluate on: set data.val_split above 0.")
        settings = yaml.safe_load(self.settings)
        results = collect_results(module.snn, module.accuracies, report(), split, settings)
        folder = self.ftbc.claim_folder(self)
        if self.is_global_zero:
            write_text_atomic(folder / "config.yaml", self.settings)
            write_results_json(results, folder)
            write_report_html(results, folder)
            log_results(self.loggers, results, folder)
        rank_zero_info(f"\n{accuracy_table(results)}\nSaved to {folder}: {', '.join(sorted(os.listdir(folder)))}\n")

    def _evaluate_saved(self, path: str, datamodule: LightningDataModule | None, split: str) -> None:
        snn = load_snn(path)
        snn_report = load_calibration(path)
        with self._bare_callbacks():
            module = SpikingClassifier(snn, calibrated=snn_report is not None)
            self.evaluate_spiking(module, datamodule, split, report=lambda: snn_report)

    @contextmanager
    def _bare_callbacks(self) -> Iterator[None]:
        """Leave only progress bars: the others (weight averaging, say) belong to the ANN."""
        self.callbacks, before = [c for c in self.callbacks if isinstance(c, ProgressBar)], self.callbacks
        try:
            yield
        finally:
            self.callbacks = before


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
        parser.add_lightning_class_args(callbacks.FTBC, "ftbc")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {"checkpoint.monitor": "val/accuracy", "checkpoint.mode": "max", "checkpoint.save_last": True}
        )
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
        if "WandbLogger" in str(self.config[self.subcommand].trainer.logger) and "WANDB_MODE" not in os.environ:
            import wandb

            if wandb.api.api_key is None:
                os.environ["WANDB_MODE"] = "offline"
                rank_zero_info("W&B: no login found, so this run is kept offline; `wandb sync` uploads it later.")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Hand the configuration on to the trainer, which writes it beside the results."""
        trainer = super().instantiate_trainer(**kwargs)
        config = self.config[self.subcommand]
        trainer.settings = self._parser(self.subcommand).dump(config, skip_link_targets=True)  # type: ignore[attr-defined]
        trainer._all_callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(yaml.safe_load(trainer.settings))  # type: ignore[attr-defined]
        return trainer

    def after_fit(self) -> None:
        """Evaluate the spiking network that the callback made."""
        ftbc = self.trainer.ftbc
        if not ftbc.enabled:
            return
        assert ftbc.snn is not None
        with self.trainer._bare_callbacks():
            self.trainer.evaluate_spiking(
                SpikingClassifier(ftbc.snn), self.datamodule, "validation", report=lambda: ftbc.report
            )


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
            f"ftbc-pl: error: {wrapped and error.__cause__ or error}\n(FTBC_DEBUG=1 shows where it happened.)",
            file=sys.stderr,
        )
        raise SystemExit(1) from error


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
