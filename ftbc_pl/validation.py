"""The validation images of a fit: whether there are any, and their batches."""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils._pytree import tree_leaves

from ftbc_pl.conversion.batch import number_of_batches
from ftbc_pl.data import ClassificationData


def validation_batches(trainer: Trainer) -> Iterator[Any]:
    """The batches of a fit's validation loaders, each as far as the trainer's limits go."""
    for loader, limit in validation_loaders(trainer):
        yield from islice(loader, None if math.isinf(limit) else int(limit))


def has_validation(trainer: Trainer) -> bool:
    """Whether a fit has validation images; to be asked once it has begun."""
    return any(limit for _, limit in validation_loaders(trainer))


def validation_loaders(trainer: Trainer) -> list[tuple[Any, float]]:
    """The validation loaders of a fit, with the number of batches to take of each; infinite: all of a stream."""
    if trainer.val_dataloaders is None and trainer.enable_validation:
        trainer.fit_loop.epoch_loop.val_loop.setup_data()  # a training that goes on at its end has not needed them
    loaders, limits = trainer.val_dataloaders, trainer.num_val_batches
    source = trainer.fit_loop.epoch_loop.val_loop._data_source
    if loaders is None and trainer.limit_val_batches and source.is_defined():
        loaders = source.dataloader()  # the task has no validation of its own, so Lightning leaves them aside
        limits = []
    given = [] if loaders is None else tree_leaves(loaders)  # one loader, or lists and dicts of them
    limits = limits or [_limit(trainer.limit_val_batches, number_of_batches(loader)) for loader in given]
    return [(loader, min(limit, number_of_batches(loader))) for loader, limit in zip(given, limits, strict=False)]


def _limit(limit: int | float, batches: float) -> float:
    return limit if isinstance(limit, int) or math.isinf(batches) else int(limit * batches)


def warn_without_validation(trainer: Trainer) -> None:
    """Say before the training what a run without validation images lacks."""
    if not has_validation(trainer):
        rank_zero_warn(
            f"There are no validation images ({why_none(trainer)}): the last weights will be converted and saved, "
            "without a best checkpoint, accuracies or a report."
        )


def why_none(trainer: Trainer) -> str:
    """What the reader would change to have validation images."""
    if trainer.limit_val_batches == 0:
        return "limit_val_batches of the trainer is 0"
    if isinstance(getattr(trainer, "datamodule", None), ClassificationData):
        return "data.val_split is 0, and data.val_split_name names no split of the data"
    return "no loader was given"
