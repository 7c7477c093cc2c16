"""Lightning's Trainer with the subcommands of this package, as the command line runs them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities import rank_zero_info

from ftbc_pl.callbacks_package import FTBC, PredictionWriter
from ftbc_pl.conversion import SpikingNetwork
from ftbc_pl.evaluation import SpikingClassifier
from ftbc_pl.files import write_text_atomic
from ftbc_pl.io import load_calibration, load_snn
from ftbc_pl.models import load_weights
from ftbc_pl.reports import accuracy_table, log_results, write_report_html, write_results_json
from ftbc_pl.reports.collect import collect_results
from ftbc_pl.task import ImageClassifier


class _CalibratingClassifier(SpikingClassifier):
    """Converts and calibrates in ``setup``, when processes and data are ready, and is evaluated after that."""

    def __init__(self, ann: ImageClassifier, ftbc: FTBC) -> None:
        super().__init__(None, num_steps=ftbc.num_steps)
        self._ann, self._ftbc = [ann], ftbc

    @property
    def network(self) -> torch.nn.Module:
        return self._ann[0].network

    def setup(self, stage: str) -> None:
        self._ann[0].check_classes(self.trainer)
        self.snn = self._ftbc.calibrate(self.trainer, self._ann[0].network)


class FTBCTrainer(Trainer):
    """Lightning's Trainer with the subcommands of this package.

    Attributes:
        settings: The configuration of the run as YAML, written beside its results.
        ftbc: The callback that converts and calibrates.
    """

    callbacks: list[Callback]
    settings: str
    ftbc: FTBC

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
        with self.bare_callbacks():
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
        self.callbacks.append(PredictionWriter(output))
        if snn_path is not None:
            model, ckpt_path = SpikingClassifier(self._saved(snn_path)), None
        return super().predict(model, dataloaders, datamodule, return_predictions, ckpt_path)

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
        snn = self._saved(path)
        snn_report = load_calibration(path)
        with self.bare_callbacks():
            module = SpikingClassifier(snn, calibrated=snn_report is not None)
            self.evaluate_spiking(module, datamodule, split, report=lambda: snn_report)

    def _saved(self, path: str) -> SpikingNetwork:
        snn = load_snn(path)
        if self.ftbc.compile:
            snn.to(self.ftbc.device(self)).compile()
        return snn

    @contextmanager
    def bare_callbacks(self) -> Iterator[None]:
        """Leave only progress bars: the others (weight averaging, say) belong to the ANN."""
        self.callbacks, before = [c for c in self.callbacks if isinstance(c, ProgressBar)], self.callbacks
        try:
            yield
        finally:
            self.callbacks = before
