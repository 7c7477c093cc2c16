"""Lightning callbacks: thin adapters between a Trainer and the package."""

import copy
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info

from ftbc_pl.calibration import CalibrationReport
from ftbc_pl.distributed import is_distributed
from ftbc_pl.files import atomic_path
from ftbc_pl.options import RunOptions
from ftbc_pl.run import Run, load_best_weights_, network_of, validation_batches
from ftbc_pl.simulation import SpikingNetwork


class FTBC(Callback):
    """Forward Temporal Bias Correction at the end of ``fit``.

    Takes the weights of the best checkpoint (the last ones if there is none), converts the network, calibrates it in
    one forward per batch of training images, saves it, measures it on the validation images and writes the results.
    Afterwards :attr:`snn`, :attr:`report` and :attr:`folder` hold the network, what the calibration did, and where all
    was saved.

    The datamodule must have ``calibration_dataloader(batch_size, num_batches)``, as those of :mod:`ftbc_pl.data` do.
    """

    def __init__(self, **options: Any) -> None:
        """Create the callback.

        Args:
            **options: Those of :class:`ftbc_pl.options.RunOptions`.

        Raises:
            TypeError: A keyword is no option.
            ValueError: A value is out of range.
        """
        super().__init__()
        self.options = RunOptions(**options)
        self.run = Run(self.options)

    @property
    def snn(self) -> SpikingNetwork | None:
        """The spiking network, after ``fit``."""
        return self.run.snn

    @property
    def report(self) -> CalibrationReport | None:
        """What the calibration did, after ``fit``."""
        return self.run.report

    @property
    def folder(self) -> Path | None:
        """Where the results are."""
        return self.run.folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out before the training what would go wrong after it."""
        if self.options.enabled and stage == "fit":
            self.run.check(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make, measure and write; the last hook of fit, so weight averaging and checkpoints are done."""
        if not self.options.enabled:
            return
        ann = copy.deepcopy(network_of(pl_module, self.options.network))
        load_best_weights_(ann, trainer, self.options.network)
        snn = self.run.make(trainer, ann)
        accuracies = self.run.measure(trainer, snn, validation_batches(trainer))
        self.run.write(trainer, snn, accuracies, "validation")


class PredictionWriter(BasePredictionWriter):
    """Writes one row an image: index, class, probability, and the class predicted at each timestep."""

    def __init__(self, path: str) -> None:
        """Write to ``path``."""
        super().__init__(write_interval="epoch")
        self.path = Path(path)

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Gather the rows of all processes and write them in the order of the data."""
        rows: list[tuple[int, list[Any]]] = []
        for batch, indices in zip(predictions, batch_indices[0], strict=True):
            steps = batch["predicted"].T.tolist()
            for index, probability, classes in zip(indices, batch["probability"].tolist(), steps, strict=True):
                rows.append((index, [classes[-1], f"{probability:.6f}", *classes]))
        if is_distributed():
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
        if not trainer.is_global_zero:
            return
        # Lightning pads the last batches of a distributed run: an index that comes twice is the same image.
        unique = dict(rows)
        steps = len(next(iter(unique.values()))) - 2
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["index", "class", "probability", *(f"class_T{t}" for t in range(1, steps + 1))])
            writer.writerows([index, *unique[index]] for index in sorted(unique))
        rank_zero_info(f"Wrote {len(unique)} predictions to {self.path}.")
