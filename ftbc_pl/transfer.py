"""Batches as the hooks of a module and a datamodule make them in evaluation, where no loop of Lightning's does."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.model_helpers import is_overridden

from ftbc_pl.data import ClassificationData
from ftbc_pl.evaluation.module import TRANSFER_HOOKS


def transferred(trainer: Trainer, batch: Any, device: torch.device) -> Any:
    """A batch on a device, as the network takes it in evaluation: normalised by a hook, say, but not augmented.

    Args:
        trainer: The trainer, with module and data.
        batch: The batch, as its loader gives it.
        device: Where the network runs.
    """
    module: Any = trainer.lightning_module
    with _in_evaluation(trainer, module):
        return trainer.strategy.batch_to_device(module._on_before_batch_transfer(batch, 0), device, 0)


class Transferred:
    """Batches that go through the hooks each time."""

    def __init__(self, trainer: Trainer, batches: Iterable[Any]) -> None:
        """Take batches of a loader.

        Args:
            trainer: The trainer, with module and data.
            batches: The loader.
        """
        self._trainer, self._batches = trainer, batches

    def __iter__(self) -> Iterator[Any]:
        device = self._trainer.strategy.root_device
        return (transferred(self._trainer, batch, device) for batch in self._batches)


def through_hooks(trainer: Trainer, batches: Any) -> Any:
    """The batches of a loader through the hooks, or the loader itself where there are none that change them."""
    module, data = trainer.lightning_module, getattr(trainer, "datamodule", None)
    own = data is not None and not isinstance(data, ClassificationData)  # those of the package mix in training only
    changed = any(is_overridden(hook, module) or (own and is_overridden(hook, data)) for hook in TRANSFER_HOOKS)
    return Transferred(trainer, batches) if changed else batches


@contextmanager
def _in_evaluation(trainer: Trainer, module: Any) -> Iterator[None]:
    """Let hooks that ask whether the network is trained hear that it is not, also at the end of a training."""
    stage, training = trainer.state.stage, module.training
    trainer.state.stage, module.training = RunningStage.VALIDATING, False
    try:
        yield
    finally:
        trainer.state.stage, module.training = stage, training
