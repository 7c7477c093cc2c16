"""What a run says: what concerns it, and the answer last. With `--verbose` or FTBC_DEBUG it says the rest too."""

import logging
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary, ProgressBar, RichProgressBar
from lightning.pytorch.utilities import rank_zero_info
from rich import get_console

from ftbc_pl.data import ClassificationData

# Where Lightning logs what it tells the user.
_LOG = logging.getLogger("lightning.pytorch.utilities.rank_zero")
# Where each of a dozen tries to reach the hub of weights is told; the error at the end says what could not be fetched.
_HUB = logging.getLogger("huggingface_hub")
# Advertisements, what is not there, and what nobody can act on.
_NOISE = ("💡 Tip:", "TPU available: False", "Loading `train_dataloader` to estimate")
# Their deprecations are for those who write them; those of the user's own modules are shown.
_OTHERS = (
    r"(lightning|lightning_utilities|pytorch_lightning|jsonargparse|torch|torchvision|torchmetrics|timm|wandb)(\.|$)"
)


def _concerns_the_run(record: logging.LogRecord) -> bool:
    return _LOG.isEnabledFor(logging.DEBUG) or not record.getMessage().startswith(_NOISE)


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what other packages say of themselves. Warnings of the user's own run are shown as ever."""
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
    before, hub = _LOG.level, _HUB.level
    if os.environ.get("FTBC_DEBUG"):
        yield
        return
    _LOG.addFilter(_concerns_the_run)
    _HUB.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
                warnings.filterwarnings("ignore", category=category, module=_OTHERS)
            # The number of workers is chosen by the data module, by the cores that there are.
            warnings.filterwarnings("ignore", message=".*does not have many workers")
            # The best checkpoint is carried over all the same, by `ftbc_pl.safety.resume`.
            warnings.filterwarnings("ignore", message="The dirpath has changed")
            yield
    finally:
        _LOG.removeFilter(_concerns_the_run)
        _LOG.setLevel(before)
        _HUB.setLevel(hub)


def say_all() -> None:
    """Let the rest of this command say what Lightning says, and the details of the network."""
    _LOG.setLevel(logging.DEBUG)


def shows_bars() -> bool:
    """Whether the output is where a progress bar can move: a terminal or a notebook."""
    console = get_console()
    return console.is_interactive or console.is_jupyter


def has_bar(callbacks: Any) -> bool:
    """Whether one of the callbacks, if there are any, is a progress bar."""
    return any(isinstance(callback, ProgressBar) for callback in callbacks or [])


class Size(ModelSummary):
    """Says in one line what is trained; Lightning's table has a row for each metric and counts no operations."""

    @staticmethod
    def summarize(
        summary_data: Any,
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        total_flops: int,
        **summarize_kwargs: Any,
    ) -> None:
        """Log the line."""
        kinds = dict(summary_data).get("Type") or ["The network"]
        frozen = total_parameters - trainable_parameters
        rank_zero_info(
            f"{kinds[0]}: {trainable_parameters:,} parameters to train{f', {frozen:,} frozen' if frozen else ''}."
        )


class Epochs(Callback):
    """Says at the end of each epoch how far a training is, where there is no progress bar."""

    def __init__(self) -> None:
        """The training has not begun."""
        self._began = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock."""
        self._began = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was logged."""
        values = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if not re.search(r"_(step|epoch)$", name)
        }
        shown = "".join(f", {name} {value:.4g}" for name, value in values.items())
        last = f" of {trainer.max_epochs}" if trainer.max_epochs not in (None, -1) else ""
        seconds = time.monotonic() - self._began
        rank_zero_info(f"Epoch {trainer.current_epoch + 1}{last}: {seconds:.0f} s{shown}")


class LogEachEpoch(Callback):
    """Lets every epoch log its training loss, also one of fewer batches than Lightning lets pass between two values."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log at least once an epoch, where the length of an epoch is known."""
        data = getattr(trainer, "datamodule", None)
        if stage != "fit" or not isinstance(data, ClassificationData):
            return
        batches = len(data.train_dataloader()) // trainer.world_size
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        trainer.log_every_n_steps = max(1, min(trainer.log_every_n_steps, batches))  # type: ignore[attr-defined]


class EndBar(Callback):
    """Ends rich's progress bar with the training: else it is drawn once more, below the results."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End it."""
        bar = trainer.progress_bar_callback
        if isinstance(bar, RichProgressBar):
            bar.teardown(trainer, pl_module, "fit")
