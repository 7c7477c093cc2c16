"""Says after an epoch when the data, not the network, set the pace."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils._pytree import tree_leaves

_SHARE = 0.25  # of the time spent waiting for batches, from which they are the limit
_FEWEST = 20  # batches, without which an epoch tells little

__all__ = ["DataRate"]


class DataRate(Callback):
    """Measures how long a training waits for its batches, but for the first of an epoch, which starts workers.

    On a GPU a step returns before it is done: waiting counts where there was nothing left to do, which is when the time
    of an epoch goes into waiting.

    Attributes:
        sentence: What was said after the last epoch; empty: nothing.
    """

    def __init__(self) -> None:
        """Start with nothing measured."""
        self.sentence = ""
        self._clear()

    def _clear(self) -> None:
        self._waited = self._worked = 0.0
        self._images = self._batches = 0
        self._since: float | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew."""
        self._clear()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A batch is there."""
        now = time.perf_counter()
        if self._since is not None:
            self._waited += now - self._since
        self._began = now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step is done, or on its way."""
        now = time.perf_counter()
        if self._since is not None:
            self._worked += now - self._began
            self._images += next((len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)), 0)
            self._batches += 1
        self._since = now

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if the data were the limit."""
        self.sentence = self._said(self._waited, self._worked)
        if self.sentence:
            rank_zero_info(self.sentence)

    def _said(self, waited: float, worked: float) -> str:
        """One line on seconds waited for data and seconds worked; empty where data were not the limit."""
        total = waited + worked
        if self._batches < _FEWEST or waited < _SHARE * total:
            return ""
        return (
            f"Data set the pace of this epoch: {self._images / total:,.0f} images/s came to each process, its network "
            f"takes {self._images / worked:,.0f}; {waited / total:.0%} of the time went into waiting. Raise "
            "data.num_workers, or choose a cheaper augmentation."
        )
