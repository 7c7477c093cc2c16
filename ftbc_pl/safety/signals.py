"""Runs that are told to stop: SIGTERM of a cluster or container, Ctrl-C at a terminal."""

import os
import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
CHECKPOINT = "interrupted.ckpt"


class Terminated(SystemExit):
    """SIGTERM arrived where nothing needs to be finished first."""


class Stopping(Callback):
    """Ends a run that is told to stop, so that it can go on later.

    In a training SIGTERM waits for the end of the batch, and what is needed to go on from there is written to a
    checkpoint. Everywhere else the work is dropped at once: files are whole or not there at any time.

    Attributes:
        terminated: Whether SIGTERM has arrived.
        interrupted: Whether Ctrl-C was pressed.
        checkpoint: Newest checkpoint of a training that was stopped, or is over.
    """

    def __init__(self) -> None:
        """Nothing has arrived yet."""
        self.terminated = False
        self.interrupted = False
        self.checkpoint: Path | None = None
        self._training = self._trained = False
        self._process = os.getpid()
        self._trainer: Trainer | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle SIGTERM inside the block; in threads other than the main one signals stay as they are."""
        try:
            before = signal.signal(signal.SIGTERM, self._on_sigterm)
        except ValueError:
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def sentence(self, arguments: Sequence[str], goes_on: bool = False) -> str:
        """Say what has happened, and which command goes on.

        Args:
            arguments: Those of the command line.
            goes_on: Whether the same ones go on with what is there already.
        """
        what = "stopped by SIGTERM" if self.terminated else "interrupted"
        if self.checkpoint is None:
            then = "goes on from there" if goes_on else "starts again"
            return f"ftbc-pl: {what}; no file is half-written. The same command {then}."
        command = shlex.join(["python", "-m", "ftbc_pl", *resuming(arguments, self.checkpoint)])
        over = "the training is over; for the conversion and what follows " if self._trained else ""
        return f"ftbc-pl: {what}; {over}go on with: {command}"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on wait for the end of a batch."""
        self._training, self._trainer = True, trainer
        if threading.current_thread() is threading.main_thread():
            # In the place of Lightning's, which talks to the other processes inside the handler, whatever they are at.
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Agree with the other processes on whether to stop after this batch."""
        self._agree(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Agree with the other processes on whether to stop after this batch."""
        if self._training:
            self._agree(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait no longer; keep the newest checkpoint in mind, from which the rest can be done again."""
        self._training, self._trained = False, True
        self.checkpoint = newest_checkpoint(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what is needed to go on."""
        self.interrupted |= isinstance(exception, KeyboardInterrupt)
        if trainer.state.fn != TrainerFn.FITTING or not (self.terminated or self.interrupted):
            return
        self.checkpoint = newest_checkpoint(trainer) or self.checkpoint
        if self._training and self.terminated and self._can_go_on_from_here(trainer):
            self.checkpoint = self._save(trainer, pl_module)
        self._training = False

    def _on_sigterm(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # a worker process that has inherited this
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self.terminated:
            return
        self.terminated = True
        if not self._training or self._trainer is None:
            raise Terminated(EXIT_TERMINATED)
        # Workers that load images may have been told to stop too: their end is no accident.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        launcher: Any = self._trainer.strategy.launcher
        if hasattr(launcher, "kill"):
            launcher.kill(number)
        if self._trainer.world_size == 1:
            self._tell(self._trainer)

    def _agree(self, trainer: Trainer) -> None:
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self.terminated, all=False):
            self._tell(trainer)

    def _tell(self, trainer: Trainer) -> None:
        """Let Lightning's loops end after the batch."""
        self.terminated = True
        trainer._signal_connector.received_sigterm = True

    def _can_go_on_from_here(self, trainer: Trainer) -> bool:
        """Whether this is between two batches of a training."""
        progress = trainer.fit_loop.epoch_loop.batch_progress.total
        between = progress.ready == progress.completed
        return between and not trainer.sanity_checking and trainer.global_step > 0

    def _save(self, trainer: Trainer, module: LightningModule) -> Path:
        """Write a checkpoint from which a training goes on at this step, and return its path."""
        saved = newest_checkpoint(trainer, step=trainer.global_step)
        if saved is not None:
            return saved
        if trainer.validating:
            _forget_validation(trainer, module)
        epochs = trainer.fit_loop.epoch_progress
        if epochs.total.completed == epochs.total.ready:
            # Lightning goes on from where it saves itself, which is before it counts the epoch as completed.
            epochs.total.completed -= 1
            epochs.current.completed -= 1
        folders = [c.dirpath for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.dirpath]
        path = Path(folders[0] if folders else Path(trainer.default_root_dir) / "checkpoints") / CHECKPOINT
        trainer.save_checkpoint(path, weights_only=False)
        return path


def newest_checkpoint(trainer: Trainer, step: int | None = None) -> Path | None:
    """The last checkpoint that the trainer's callbacks have written, or the one of `step`; None if there is none."""
    written = [
        (callback._last_global_step_saved, Path(callback._last_checkpoint_saved))
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and not callback.save_weights_only and callback._last_checkpoint_saved
    ]
    there = [(at, path) for at, path in written if path.is_file() and (step is None or at == step)]
    return max(there, key=lambda item: item[0])[1] if there else None


def resuming(arguments: Sequence[str], checkpoint: Path) -> list[str]:
    """The arguments of a command line that goes on from a checkpoint: the same ones, but for the checkpoint."""
    kept, skips = [], False
    for argument in arguments:
        if skips:
            skips = False
        elif argument == "--ckpt_path":
            skips = True
        elif not argument.startswith("--ckpt_path="):
            kept.append(argument)
    return [*kept, f"--ckpt_path={checkpoint}"]


def _forget_validation(trainer: Trainer, module: LightningModule) -> None:
    """Make the state of a validation that was broken off that of one which has not begun."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging) and callback._average_model is not None:
            callback._swap_models(module)  # the module has the averaged weights while it is validated
    progress: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    progress.current.reset()
    progress.total.reset()
    progress.total.ready = progress.total.started = 1  # Lightning's mark of a validation that is to be done again
