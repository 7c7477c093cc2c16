"""Calibration images of a run: the datamodule's own, or those of the training loader's data set."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from ftbc_pl.distributed import process_place


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
        return data.held_out_dataloader(count) if data.has_validation else None
    loaders: Any = trainer.val_dataloaders
    loader = loaders[0] if isinstance(loaders, list | tuple) and loaders else loaders
    images: Any = getattr(loader, "dataset", None)
    if not (hasattr(images, "__getitem__") and hasattr(images, "__len__")) or loader.batch_size is None:
        return None
    rank, processes = process_place()
    own = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count][rank::processes]
    batches = [batch.tolist() for batch in own.split(loader.batch_size)]
    return DataLoader(images, batch_sampler=batches, collate_fn=loader.collate_fn)


def calibration_loader(trainer: Trainer, batch_size: int, num_batches: int) -> Any:
    """Loader of this process's share of the calibration images.

    Args:
        trainer: The trainer, whose fit has begun where the datamodule offers no images.
        batch_size: Images in a batch, counted over all processes.
        num_batches: Number of batches.

    Raises:
        TypeError: There is neither a method of the datamodule nor a training loader with a data set to choose from.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if offers_calibration_images(data):
        return data.calibration_dataloader(batch_size, num_batches)
    loader: Any = trainer.train_dataloader
    images: Any = getattr(loader, "dataset", None)
    if not (hasattr(images, "__getitem__") and hasattr(images, "__len__")):
        raise TypeError(
            "FTBC takes calibration images from the datamodule's calibration_dataloader(batch_size, num_batches), or "
            f"from the data set of the training loader; {type(data).__name__} has no such method, and the training "
            f"loader is a {type(loader).__name__} without a data set of known length: add the method."
        )
    count = len(images)
    size = min(batch_size, count // num_batches)
    rank_zero_info(
        f"FTBC calibrates with {size * num_batches} of the {count} images of the training loader, as its data set "
        "gives them: with augmentation, where it has some. A calibration_dataloader(batch_size, num_batches) of the "
        "datamodule hands out others."
    )
    rank, processes = process_place()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: size * num_batches]
    batches = [batch[rank::processes].tolist() for batch in order.split(size)]
    return DataLoader(images, batch_sampler=batches, collate_fn=loader.collate_fn)
