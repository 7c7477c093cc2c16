"""Write predictions to a CSV file."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info

from ftbc_pl.distributed import is_distributed
from ftbc_pl.files import atomic_path


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
