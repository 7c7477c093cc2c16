"""What `predict` writes: one row for each image."""

import csv
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ftbc_pl.distributed import is_distributed
from ftbc_pl.files import atomic_path
from ftbc_pl.sites import waiting

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class PredictionWriter(BasePredictionWriter):
    """Writes one row for each image: which image, its class and probability, and the class at each timestep.

    The columns `file`, `class_name` and `true_class` are there where the data know them. `decided_at` is the
    timestep from which on the class stays the same. A network with early exit has the column `exit_step`, the
    timestep at which it stops for the image; class and probability are those of that step.
    """

    def __init__(self, path: str, overwrite: bool = False) -> None:
        """Write to `path`.

        Args:
            path: The CSV file.
            overwrite: Whether it may exist already.
        """
        super().__init__(write_interval="epoch")
        self.path = Path(path)
        self.overwrite = overwrite

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check before the work that the file can be written.

        Raises:
            FileExistsError: There is a file, and it may not be overwritten.
            IsADirectoryError: The path is that of a folder.
        """
        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path} is a folder: give output the path of a file, as in predictions.csv.")
        if self.path.exists() and not self.overwrite:
            raise FileExistsError(f"{self.path} exists: choose another output, or pass --overwrite true.")
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Gather the rows of all processes and write them in the order of the data."""
        rows: list[tuple[int, list[Any]]] = []
        timesteps = self._timesteps(pl_module, predictions)
        for batch, indices in zip(predictions, batch_indices[0], strict=True):
            steps = batch["predicted"].T.tolist()
            exits = batch["exit_step"].tolist() if "exit_step" in batch else [None] * len(steps)
            for index, probability, exit_step, classes in zip(
                indices, batch["probability"].tolist(), exits, steps, strict=True
            ):
                decided = timesteps[decided_at(classes) - 1]
                rows.append((index, [exit_step, f"{probability:.6f}", decided, *classes]))
        if is_distributed():
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
        if not trainer.is_global_zero:
            return
        # Lightning pads the last batches of a distributed run: an index that comes twice is the same image.
        unique = dict(rows)
        known = KnownImages(getattr(trainer, "datamodule", None))
        has_exit = next(iter(unique.values()))[0] is not None
        with atomic_path(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            named = ["file"] * known.has_files + ["class"] + ["class_name"] * known.has_classes
            true = ["true_class"] * known.has_labels
            writer.writerow(
                ["index", *named, "probability", *true, *["exit_step"] * has_exit, "decided_at"]
                + [f"class_T{t}" for t in timesteps]
            )
            for index in sorted(unique):
                exit_step, probability, decided, *classes = unique[index]
                first, last = known.columns(index, classes[(exit_step or len(timesteps)) - 1])
                writer.writerow([index, *first, probability, *last, *[exit_step] * has_exit, decided, *classes])
        rank_zero_info(f"Wrote {len(unique)} predictions to {self.path}{_waits(pl_module)}.")

    def _timesteps(self, module: LightningModule, predictions: Sequence[Any]) -> Sequence[int]:
        """The timesteps of the predictions: those of a spiking network, or of an ANN, which has one."""
        snn = getattr(module, "snn", None)
        if snn is not None:
            return snn.prediction_steps  # type: ignore[no-any-return]
        return range(1, max((len(batch["predicted"]) for batch in predictions), default=0) + 1)


def _waits(module: LightningModule) -> str:
    """What the schedule `accumulate` costs, where the network runs by it."""
    report = getattr(getattr(module, "snn", None), "report", None)
    return "" if report is None or report.latency is None else f" ({waiting(report.latency)})"


class KnownImages:
    """What a datamodule knows of the images that are predicted: their files and true classes, and names of classes."""

    def __init__(self, data: Any) -> None:
        """Ask the datamodule, which need not be one of this package."""
        images = data.images_to_predict() if hasattr(data, "images_to_predict") else None
        self._files = getattr(images, "names", None)
        self._classes = getattr(data, "trained_classes", None) or getattr(data, "class_names", None)
        labels = getattr(images, "labels", None)
        known = isinstance(labels, Tensor) and labels.ndim == 1 and bool((labels >= 0).any())
        self._labels: list[int] = labels.tolist() if known and labels is not None else []
        self.has_files = self._files is not None
        self.has_classes = self._classes is not None
        self.has_labels = bool(self._labels)

    def columns(self, index: int, predicted: int) -> tuple[list[Any], list[Any]]:
        """The columns before and after the probability."""
        first: list[Any] = [] if self._files is None else [harmless(str(self._files[index]))]
        first.append(predicted)
        if self._classes is not None:
            first.append(harmless(self._name(predicted)))
        if not self._labels:
            return first, []
        label = self._labels[index]
        return first, ["" if label < 0 else harmless(self._name(label)) if self._classes is not None else label]

    def _name(self, number: int) -> str:
        names = self._classes or []
        return str(names[number]) if number < len(names) else str(number)


def decided_at(classes: Sequence[int]) -> int:
    """The timestep (1 … T) from which on the class is the last one."""
    return len(classes) - sum(1 for _ in takewhile(lambda c: c == classes[-1], reversed(classes))) + 1


def harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula: one that begins like a formula gets an apostrophe before it."""
    return f"'{text}" if text.startswith(_FORMULA) else text
