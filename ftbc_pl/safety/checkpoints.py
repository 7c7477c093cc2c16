"""Lightning's checkpoints as files that are whole or not there, on any file system."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

from ftbc_pl.files import atomic_path


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, flushes it to the disk and renames it.

    Lightning writes to the folder for temporary files first and moves that; where this is another file system, as in
    containers and on clusters, a move is a copy, and a kill or a full disk leaves half of one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            OSError: The disk is full; names the path, which keeps its former content.
        """
        if "://" in str(path):  # a bucket, which knows no half objects
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(os.fspath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Read the checkpoint at `path`, by default without running code in it: Lightning would, for addresses."""
        return super().load_checkpoint(path, map_location, weights_only=weights_only is not False)


def use_atomic_checkpoints(trainer: Trainer) -> None:
    """Let the trainer write and read checkpoints by `AtomicCheckpointIO`, unless it was given another way."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
