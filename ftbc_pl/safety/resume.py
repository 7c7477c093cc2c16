"""Runs that go on where another stopped: the best checkpoint over all epochs, and the images in the same order."""

import os
import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn


def carry_best_over(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Let the trainer's checkpoint callbacks go on with the best checkpoints that a resumed one has recorded.

    Lightning forgets them where the folder of checkpoints is another one, as in every resumed run of a logger that
    numbers its folders.

    Args:
        trainer: A trainer that restores `checkpoint`, with the callbacks set up.
        checkpoint: The content of the checkpoint; what it records of the callbacks is changed in place.
    """
    states = checkpoint.get("callbacks") or {}
    resumed = Path(str(trainer.ckpt_path))
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint):
            continue
        state = states.get(callback.state_key)
        if state is not None:
            states[callback.state_key] = carried_over(state, callback, resumed)
        elif callback.monitor is not None and states:
            rank_zero_info(
                f"{resumed} does not say which epoch was the best by {callback.monitor} ({callback.mode}): the best of "
                "the epochs from here on is kept."
            )


def carried_over(state: Mapping[str, Any], callback: ModelCheckpoint, resumed: Path) -> dict[str, Any]:
    """What a checkpoint callback has recorded, with paths that exist, for the callback that goes on with it.

    Args:
        state: What was recorded.
        callback: The callback that goes on, which may keep more or fewer checkpoints in another folder.
        resumed: The checkpoint that holds the record.
    """
    best, score = state.get("best_model_path") or "", state.get("best_model_score")
    recorded = dict(state.get("best_k_models") or {})
    if best and score is not None:
        recorded.setdefault(best, score)
    places = {path: find_recorded(path, state.get("dirpath"), resumed) for path in [*recorded, best] if path}
    kept = {places[path]: value for path, value in recorded.items() if places[path]}
    order = sorted(kept, key=lambda path: float(kept[path]), reverse=callback.mode == "max")
    if callback.save_top_k >= 0:
        order = order[: callback.save_top_k]
    if best and not places[best]:
        _say_that_best_is_gone(best, score, callback, order)
    full = bool(order) and len(order) == callback.save_top_k
    return dict(state) | {
        "dirpath": callback.dirpath,  # Lightning takes the rest of the record only where the folder is the same
        "best_model_path": order[0] if order else places.get(best) or "",
        "best_model_score": kept[order[0]] if order else None,
        "best_k_models": {path: kept[path] for path in kept if path in order},
        "kth_best_model_path": order[-1] if full else "",
        "kth_value": kept[order[-1]] if full else callback.kth_value,
        "last_model_path": "",
    }


def find_recorded(path: str, folder: str | None, resumed: Path) -> str:
    """Where a recorded checkpoint lies now, or an empty string if it is gone.

    Args:
        path: Its path as recorded, perhaps seen from another working directory.
        folder: Folder of checkpoints at that time.
        resumed: The checkpoint that holds the record.
    """
    beside = resumed.absolute().parent
    # The way from the folder of that time is right where the whole tree was moved or is seen from elsewhere.
    moved = [] if folder is None else [beside / os.path.relpath(path, folder)]
    as_recorded = [Path(path)]
    places = [*as_recorded, *moved] if os.path.isabs(path) else [*moved, *as_recorded]
    found = next((place for place in [*places, beside / Path(path).name] if place.exists()), None)
    return "" if found is None else os.path.abspath(found)


def _say_that_best_is_gone(best: str, score: Any, callback: ModelCheckpoint, left: list[str]) -> None:
    measured = f" ({callback.monitor} {float(score):.4g})" if score is not None and callback.monitor else ""
    after = f"of what is left, {left[0]} is the best" if left else "the best of the epochs from here on is kept"
    rank_zero_warn(f"The best checkpoint so far, {best}{measured}, is gone; {after}.")


class EpochSeed(Callback):
    """Seeds every epoch by the run's seed and the number of the epoch.

    So a run that goes on from the end of an epoch draws the same order of the data, the same augmentation and the same
    dropout as one that was never stopped. Within an epoch the batches that were trained on are drawn and left out; in
    one process the random numbers go on as well, in several only the order of the data does.
    """

    def __init__(self, seed: int) -> None:
        """Seed by `seed`."""
        self.seed = seed
        self._numbers: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the place in the data at which the run was stopped, if that was within an epoch."""
        loop = trainer.fit_loop
        progress: Any = loop.epoch_loop.batch_progress.current
        if loop.restarted_mid_epoch and 0 < progress.processed < trainer.num_training_batches:
            rank_zero_info(f"Leaving out the {progress.processed} batches that epoch {trainer.current_epoch} has had.")
            # Lightning warns of a place in the data that it can't find itself.
            warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
            fetcher = self._draw_anew(trainer)
            for _ in range(progress.processed):
                next(fetcher)
            fetcher.fetched = 0  # the loop adds those that it has had
            if self._numbers is not None and trainer.world_size == 1:
                set_random_numbers(self._numbers)
        self._numbers = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed, and draw the order of the data after that."""
        loop = trainer.fit_loop
        if trainer.current_epoch == 0 or loop.restarting or loop.is_resuming:
            self._draw_anew(trainer)
        else:  # the loop is about to draw it
            self._seed(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The state of the random numbers."""
        return {"numbers": random_numbers()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of the random numbers until training goes on."""
        self._numbers = state_dict["numbers"]

    def _seed(self, trainer: Trainer) -> None:
        words = np.random.SeedSequence([self.seed, trainer.current_epoch]).generate_state(3)
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))
        torch.manual_seed(int(words[2]))

    def _draw_anew(self, trainer: Trainer) -> Any:
        self._seed(trainer)
        fetcher: Any = trainer.fit_loop._data_fetcher
        return iter(fetcher)


def random_numbers() -> dict[str, Any]:
    """The states of all generators of random numbers of this process, in what a checkpoint can hold."""
    numpy_state: Any = np.random.get_state(legacy=False)
    return {
        "python": random.getstate(),
        "numpy": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
        "numpy_position": int(numpy_state["state"]["pos"]),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_numbers(states: Mapping[str, Any]) -> None:
    """The inverse of `random_numbers`."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    key = states["numpy"].cpu().numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, states["numpy_position"], 0, 0.0))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["cuda"].cpu())
