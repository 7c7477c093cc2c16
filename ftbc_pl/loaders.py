"""Calibration images of a run: those that were handed in, the datamodule's own, or those of the training loader."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any
from weakref import WeakSet

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from ftbc_pl.conversion.batch import number_of_batches, to_images
from ftbc_pl.data import ClassificationData
from ftbc_pl.distributed import process_place
from ftbc_pl.evaluation.exit import fewest_images
from ftbc_pl.options import RunOptions
from ftbc_pl.transfer import through_hooks

_HOW = "FTBC(calibration=loader), or add calibration_dataloader(batch_size, num_batches) to the datamodule"
_HAVE_SAID: WeakSet[Trainer] = WeakSet()


def offers_calibration_images(data: Any) -> bool:
    """Whether a datamodule hands out images to calibrate with."""
    return hasattr(data, "calibration_dataloader")


def held_out_loader(trainer: Trainer, count: int) -> Any:
    """Loader of this process's share of some validation images, None where there are none.

    Args:
        trainer: The trainer, with its data.
        count: Number of images, over all processes.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if hasattr(data, "held_out_dataloader"):
        return through_hooks(trainer, data.held_out_dataloader(count)) if data.has_validation else None
    loader = _validation_loader(trainer)
    if loader is None:
        return None
    images = loader.dataset
    rank, processes = process_place()
    own = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count][rank::processes]
    batches = [batch.tolist() for batch in own.split(loader.batch_size)]
    return through_hooks(trainer, DataLoader(images, batch_sampler=batches, collate_fn=loader.collate_fn))


def _validation_loader(trainer: Trainer) -> Any:
    """The first validation loader, None where single images can't be taken from it."""
    loaders: Any = trainer.val_dataloaders
    if loaders is None and trainer.state.fn == TrainerFn.VALIDATING:  # asked before the loop has made them
        source = trainer.validate_loop._data_source
        loaders = source.dataloader() if source.is_defined() else None
    loader = loaders[0] if isinstance(loaders, list | tuple) and loaders else loaders
    images: Any = getattr(loader, "dataset", None)
    known = hasattr(images, "__getitem__") and hasattr(images, "__len__") and loader.batch_size is not None
    return loader if known else None


def check_exit_images(trainer: Trainer, loss: float | None) -> None:
    """Find out before the work whether there are validation images enough to set early exit on.

    Args:
        trainer: The trainer, with its data; their number is not known of every data module.
        loss: The option `exit_loss`.

    Raises:
        ValueError: There are too few.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if isinstance(data, ClassificationData):
        count = len(data.images("val")) if data.has_validation else 0
    else:
        loader = None if hasattr(data, "held_out_dataloader") else _validation_loader(trainer)
        count = 0 if loader is None else len(loader.dataset)
    # Without any, training images serve.
    if loss is not None and 0 < count < fewest_images(loss):
        raise ValueError(
            f"expected at least {fewest_images(loss)} validation images to keep to an exit_loss of {loss:g}, got "
            f"{count}: take more (data.val_split), raise exit_loss, or leave it out"
        )


def calibration_loader(trainer: Trainer, batch_size: int, num_batches: int, given: Any = None) -> Any:
    """Loader of this process's share of the calibration images.

    Args:
        trainer: The trainer, in a fit that has begun, or with a datamodule, where `given` is left out.
        batch_size: Images in a batch, counted over all processes.
        num_batches: Number of batches.
        given: Batches to take instead, checked by `check_batches`; their size is their own.

    Raises:
        TypeError: There are no images: nothing was handed in, the datamodule has no such method, and the training
            loader has no data set to choose from.
        ValueError: `given` has fewer batches.
    """
    if given is not None:
        return _given_batches(trainer, given, num_batches)
    data: Any = getattr(trainer, "datamodule", None)
    if offers_calibration_images(data):
        own = data.calibration_dataloader(batch_size, num_batches)
        _check_count(own, num_batches, "calibration_dataloader of the datamodule")
        return through_hooks(trainer, own)
    loader = _training_loader(trainer)
    images: Any = getattr(loader, "dataset", None)
    if not (hasattr(images, "__getitem__") and hasattr(images, "__len__")):
        found = "there is none" if loader is None else f"that {type(loader).__name__} has none of known length"
        raise TypeError(
            f"FTBC takes calibration images from the data set of the training loader, but {found}: hand images in by "
            f"{_HOW}."
        )
    count = len(images)
    size = min(batch_size, count // num_batches)
    if not size:
        raise ValueError(
            f"expected at most {count} calibration batches, one for each training image, got {num_batches}"
        )
    _say_once(
        trainer,
        f"FTBC calibrates with {size * num_batches} of the {count} images of the training loader, as its data set "
        f"gives them: with augmentation, where it has some. To take others, hand them in by {_HOW}.",
    )
    rank, processes = process_place()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: size * num_batches]
    batches = [batch[rank::processes].tolist() for batch in order.split(size)]
    return through_hooks(trainer, DataLoader(images, batch_sampler=batches, collate_fn=loader.collate_fn))


def _training_loader(trainer: Trainer) -> Any:
    """The training loader: that of a fit, else the datamodule's own, which is set up for training first."""
    data: Any = getattr(trainer, "datamodule", None)
    if trainer.state.fn == TrainerFn.FITTING or not is_overridden("train_dataloader", data, LightningDataModule):
        return trainer.train_dataloader
    data.setup("fit")  # the loop that runs has set up its own stage alone
    return data.train_dataloader()


def size_that_fits(trainer: Trainer, size: int, num_batches: int) -> int:
    """A batch size for which there are images enough: `size`, or where that is the default and a data module of the
    package has fewer, less.

    Args:
        trainer: The trainer, with its data.
        size: Images in a batch, counted over all processes, if there are enough.
        num_batches: Number of batches.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if size != RunOptions.batch_size or not isinstance(data, ClassificationData):
        return size
    count = len(data.images("calibration"))
    fitting = min(size, count // num_batches) or size
    if fitting < size:
        _say_once(
            trainer,
            f"FTBC calibrates with {fitting * num_batches} of the {count} training images that are not held out: "
            f"there are fewer than {num_batches} × {size}.",
        )
    return fitting


def _say_once(trainer: Trainer, text: str) -> None:
    """Print a line in the trial before a training, and not again after it."""
    if trainer not in _HAVE_SAID:
        _HAVE_SAID.add(trainer)
        rank_zero_info(text)


def check_batches(given: Any) -> None:
    """Check that batches that are handed in can be gone through several times.

    Raises:
        TypeError: They can't: this is an iterator, or a single batch.
    """
    if isinstance(given, Tensor | dict) or not isinstance(given, Iterable) or isinstance(given, Iterator):
        raise TypeError(
            "expected calibration as a loader or a list of batches, which can be gone through more than once, got "
            f"{type(given).__name__}: put batches into a list"
        )


def _given_batches(trainer: Trainer, given: Any, num_batches: int) -> Any:
    _check_count(given, num_batches, "calibration")
    rank, processes = process_place()
    shared_out = isinstance(getattr(given, "sampler", None), DistributedSampler)
    batches = through_hooks(trainer, given)
    return batches if processes == 1 or shared_out else _Share(batches, num_batches, rank, processes)


def _check_count(batches: Any, num_batches: int, source: str) -> None:
    count = number_of_batches(batches)
    if count < num_batches:
        raise ValueError(
            f"expected at least {num_batches} batches (num_batches) of {source}, got {count}: lower num_batches, or "
            "hand in more"
        )


class _Share:
    """This process's share of every batch."""

    def __init__(self, batches: Iterable[Any], count: int, rank: int, processes: int) -> None:
        self.batches, self.count, self.rank, self.processes = batches, count, rank, processes

    def __iter__(self) -> Iterator[Tensor]:
        return (to_images(batch)[self.rank :: self.processes] for batch in islice(self.batches, self.count))
