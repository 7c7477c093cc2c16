"""Lightning's Trainer with the subcommands of this package, as the command line runs them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.plugins import Precision
from torch import nn

from ftbc_pl.callbacks import FTBC, PredictionWriter
from ftbc_pl.comparisons import ComparisonTable
from ftbc_pl.comparisons.plan import listed
from ftbc_pl.comparisons.run import ComparisonRun, Split
from ftbc_pl.evaluation.module import SpikingClassifier
from ftbc_pl.finding import network_of
from ftbc_pl.io import load_calibration, load_snn
from ftbc_pl.loaders import check_exit_images
from ftbc_pl.models import load_weights
from ftbc_pl.run import Run
from ftbc_pl.simulation import SpikingNetwork
from ftbc_pl.task import ImageClassifier
from ftbc_pl.trained import know_images
from ftbc_pl.validation import why_none


class _Claim(Callback):
    """Claims a run's folder when processes and data are ready, before the work."""

    def __init__(self, run: Run) -> None:
        """Claim the folder of `run`."""
        self.run = run

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Claim it."""
        self.run.claim(trainer)


class FTBCTrainer(Trainer):
    """Lightning's Trainer with the subcommands of this package."""

    callbacks: list[Callback]

    @property
    def run(self) -> Run:
        """What follows training, as the callback `FTBC` among the callbacks says, or as is the default."""
        ftbc = next((callback for callback in self.callbacks if isinstance(callback, FTBC)), None)
        if ftbc is None:
            ftbc = FTBC()
            self.callbacks.append(ftbc)
        return ftbc.run

    def calibrate(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        dataloaders: Any = None,
    ) -> None:
        """Convert and calibrate trained or pretrained weights without training, then evaluate.

        Args:
            model: The task with the network.
            datamodule: The data.
            ckpt_path: Checkpoint of an earlier fit; left out: the weights of the section model.
            dataloaders: Loaders of validation images instead of a datamodule; FTBC(calibration=...) then brings the
                images to calibrate with, which a datamodule has in its training loader.
        """
        run = self.run
        run.check_folder()
        network = network_of(model, run.options.network)
        if ckpt_path is not None:
            load_weights(network, ckpt_path)

        def make(trainer: Trainer, ann: nn.Module) -> SpikingNetwork:
            if isinstance(model, ImageClassifier):
                model.check_classes(trainer)
            check_exit_images(trainer, run.options.exit_loss)
            return run.make(trainer, ann)

        options = run.options
        predictions = len(options.prediction_steps)
        module = SpikingClassifier(
            ann=network, predictions=predictions, make=make, analysis=options.analysis, task=model
        )
        self._evaluate(run, module, datamodule, "validation", dataloaders)

    def compare(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        num_steps: str | int | list[int] | None = None,
        solvers: str | list[str] | None = None,
        weights: str | list[str] | None = None,
        draws: int = 3,
        split: Split = "validation",
    ) -> ComparisonTable:
        """Compare ways of calibrating one trained network in a table: solvers, readouts, weights, T.

        What all have in common is said by the section ftbc. A comparison that was stopped goes on where it was when the
        same command is given again, and one with more timesteps, solvers or draws adds to it.

        Args:
            model: The task with the network.
            datamodule: The data.
            ckpt_path: Checkpoint of an earlier fit; left out: the weights of the section model.
            num_steps: Timesteps T, as 1,2,4,8; left out: the powers of two up to ftbc.num_steps.
            solvers: Solvers, as heuristic,exact,balanced; left out: these three, and ftbc.solver.
            weights: keep, ridge or keep,ridge; left out: ftbc.weights.
            draws: How often calibration images are drawn; each draw takes others.
            split: Images to measure on, validation or test.
        """
        run = self.run
        network = network_of(model, run.options.network)
        if ckpt_path is not None:
            load_weights(network, ckpt_path)
        steps = listed(num_steps, int, "num_steps as whole numbers, such as 1,2,4,8")
        rules, kinds = listed(solvers, str, "names"), listed(weights, str, "names")
        comparison = ComparisonRun(self, model, network, datamodule, run.options, steps, rules, kinds, draws, split)
        loop = super().validate if split == "validation" else super().test
        try:
            with self._bare_callbacks(), self._full_precision(), self._own_weights():
                loop(comparison.module, datamodule=datamodule, verbose=False)
            return comparison.finish(self)
        finally:
            comparison.close()

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
            check_one_network(snn_path, ckpt_path)
            return self._evaluate_saved(snn_path, datamodule, "validation", dataloaders)
        know_images(model, ckpt_path)
        with self._own_weights(ckpt_path or ("best" if model is None else None)):
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
            check_one_network(snn_path, ckpt_path)
            return self._evaluate_saved(snn_path, datamodule, "test", dataloaders)
        know_images(model, ckpt_path)
        with self._own_weights(ckpt_path or ("best" if model is None else None)):
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
        overwrite: bool = False,
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
            overwrite: Whether it may exist already.
        """
        check_one_network(snn_path, ckpt_path)
        self.callbacks.append(PredictionWriter(output, overwrite))
        if snn_path is None:
            know_images(model, ckpt_path)
            with self._own_weights(ckpt_path or ("best" if model is None else None)):
                return super().predict(model, dataloaders, datamodule, return_predictions, ckpt_path)
        snn = load_snn(snn_path)
        self.run.adapt(snn, load_calibration(snn_path))
        module = SpikingClassifier(self.run.place(self, snn))
        with self._full_precision(), self._own_weights():
            return super().predict(module, dataloaders, datamodule, return_predictions)

    def _evaluate_saved(
        self, path: str, datamodule: LightningDataModule | None, split: str, dataloaders: Any = None
    ) -> None:
        run = self.run
        run.check_folder()
        snn = load_snn(path)
        run.report = run.adapt(snn, load_calibration(path))
        run.place(self, snn)
        module = SpikingClassifier(snn, calibrated=run.report is not None, analysis=run.options.analysis)
        self._evaluate(run, module, datamodule, split, dataloaders)

    def _evaluate(
        self,
        run: Run,
        module: SpikingClassifier,
        datamodule: LightningDataModule | None,
        split: str,
        dataloaders: Any = None,
    ) -> None:
        """Run Lightning's loop over a spiking network, and write the results."""
        loop = super().validate if split == "validation" else super().test
        try:
            bare = self._bare_callbacks(_Claim(run))
            with bare, self._full_precision(), self._own_weights(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Total length of .* across ranks is zero")  # said below
                loop(module, dataloaders, datamodule=datamodule, verbose=False)
            if module.measured is not None:
                run.write(self, module.snn, module.measured, split)
            elif run.snn is module.snn:  # it was made here: not lost
                run.write_without_accuracies(self, f"there are no validation images ({why_none(self)})")
            else:
                why = why_none(self) if split == "validation" else "the loader is empty, or limit_test_batches is 0"
                raise ValueError(f"There are no {split} images to evaluate on ({why}).")
        except BaseException:
            run.abandon()
            raise

    @contextmanager
    def _bare_callbacks(self, *own: Callback) -> Iterator[None]:
        """Leave only progress bars, and `own`: the others (weight averaging, say) belong to the ANN."""
        bars: list[Callback] = [c for c in self.callbacks if isinstance(c, ProgressBar)]
        self.callbacks, before = [*bars, *own], self.callbacks
        try:
            yield
        finally:
            self.callbacks = before

    @contextmanager
    def _own_weights(self, ckpt_path: str | None = None) -> Iterator[None]:
        """Evaluate a module's own weights: on SLURM Lightning would take those of a training that was requeued."""
        connector = self._checkpoint_connector
        before = connector._user_managed, connector._ckpt_path
        if ckpt_path is None:
            connector._user_managed, connector._ckpt_path = True, None
        try:
            yield
        finally:
            connector._user_managed, connector._ckpt_path = before

    @contextmanager
    def _full_precision(self) -> Iterator[None]:
        """Run in 32 bits whatever the trainer's precision is: what is measured is the network as it is saved."""
        before = self.strategy.precision_plugin
        self.strategy.precision_plugin = Precision()
        try:
            yield
        finally:
            self.strategy.precision_plugin = before


def check_one_network(snn_path: str | None, ckpt_path: str | None) -> None:
    """Check that not two networks are given.

    Raises:
        ValueError: They are.
    """
    if snn_path is not None and ckpt_path is not None:
        raise ValueError(
            f"Two networks are given, the spiking one in {snn_path} (snn_path) and the ANN in {ckpt_path} (ckpt_path): "
            "leave one out."
        )
