"""Which weights a training has ended with, for the conversion: the best checkpoint's, averaged ones, or the last."""

from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from ftbc_pl.models import read_checkpoint_state
from ftbc_pl.models.contents import read_contents
from ftbc_pl.models.images import IMAGES, checked, remember_images
from ftbc_pl.task import ImageClassifier


def load_trained_weights_(network: nn.Module, trainer: Trainer, module: LightningModule, prefix: str | None) -> None:
    """Load the weights that the training was for into the network, and say which they are.

    These are the averaged ones where Lightning's StochasticWeightAveraging has run to its end: it hands them to the
    module when the training ends, and no checkpoint holds them. Otherwise they are those of the best checkpoint, where
    one was kept; WeightAveraging and EMAWeightAveraging write averaged weights to checkpoints.

    Args:
        network: A copy of the LightningModule's network, with the weights at the end of the training.
        trainer: The trainer that has fitted it.
        module: The LightningModule.
        prefix: What the names of the network's tensors begin with in its checkpoints; None: they don't hold them.

    Raises:
        ValueError: The best checkpoint can't be read.
    """
    if any(isinstance(c, StochasticWeightAveraging) and holds_average(c, module) for c in _callbacks(trainer)):
        rank_zero_info("FTBC converts the averaged weights of StochasticWeightAveraging, not those of a checkpoint.")
        return
    averaged = "averaged " if any(isinstance(c, WeightAveraging) for c in _callbacks(trainer)) else ""
    callback = _callback_of_checkpoint(trainer)
    path = getattr(callback, "best_model_path", "")
    watches = getattr(callback, "monitor", None) is not None
    why = _why_not(path, 0 if watches else getattr(callback, "_last_global_step_saved", 0), trainer)
    if why:
        rank_zero_info(f"FTBC converts the last {averaged}weights: {why}.")
        return
    if prefix is None:
        rank_zero_warn("FTBC converts the last weights: the network is no part of the module, so no checkpoint has it.")
        return
    state = read_checkpoint_state(path)
    network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    rank_zero_info(f"FTBC converts the {averaged}weights of the {'best' if watches else 'last'} checkpoint, {path}.")


def know_images(module: LightningModule | None, path: str | None) -> None:
    """Let the network of this package's task know, before the data are set up, how a checkpoint's images looked.

    Args:
        module: The task; others know their images themselves.
        path: The checkpoint, if it is a file.
    """
    if isinstance(module, ImageClassifier) and path is not None and Path(path).is_file():
        content = read_contents(Path(path))
        remember_images(module.network, checked(content.get(IMAGES)) if isinstance(content, dict) else {})


def holds_average(callback: StochasticWeightAveraging, module: LightningModule) -> bool:
    """Whether the module has the averaged weights: not where the training ended before the averaging did."""
    average = callback._average_model
    if average is None:
        return False
    pairs = zip(average.parameters(), module.parameters(), strict=True)
    return all(torch.equal(one.detach().cpu(), other.detach().cpu()) for one, other in pairs)


def _callback_of_checkpoint(trainer: Trainer) -> object:
    """The callback that kept the best checkpoint: the first that watches a metric; where none does, the first of all.

    Others keep checkpoints of every few steps beside it, to resume from.
    """
    kept = [c for c in trainer.checkpoint_callbacks if getattr(c, "best_model_path", "")]
    return next((c for c in kept if getattr(c, "monitor", None) is not None), kept[0] if kept else None)


def _why_not(path: str, step: int, trainer: Trainer) -> str:
    """Why no checkpoint is converted, or an empty string.

    Args:
        path: The checkpoint, if there is one.
        step: The training step of a checkpoint that is none but the last; 0 for the best one, or if it is not known.
        trainer: The trainer, at the end of its training.
    """
    if not path or not Path(path).exists():
        return f"{path} is gone" if path else "no best checkpoint was kept"
    if not Path(path).is_file():
        return f"{path} is no single file"
    return f"{path} is of step {step}, before the last" if 0 < step < trainer.global_step else ""


def _callbacks(trainer: Trainer) -> list[object]:
    return list(trainer.callbacks)  # type: ignore[attr-defined]
