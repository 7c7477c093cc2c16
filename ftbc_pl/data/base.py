"""What all data sets for classification share: roles, loaders and their batches in several processes."""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from ftbc_pl.data.batches import Batch, Batches, Images, TensorImages, evaluation_batches, keep, process_share
from ftbc_pl.data.names import check_class_names, warn_of_seen_images
from ftbc_pl.data.on_device import DeviceImages
from ftbc_pl.data.parts import spread_over_classes, takes_part
from ftbc_pl.distributed import process_place
from ftbc_pl.models.images import CLASSES, SEEN, data_config, remember_images, remembered

Role = Literal["train", "calibration", "val", "test"]

_NETWORKS = ("network", "model", "backbone", "net")  # where a LightningModule may hold its network
WORKERS_PER_CORE = 4
"""Loading processes for each core, for each training process: more only wait, and hundreds exhaust the memory."""
FEW_STEPS = 5  # in an epoch

__all__ = ["ClassificationData", "Role", "available_cores"]


def available_cores() -> int:
    """Return how many cores this process may use, which a cluster or a container limits."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ClassificationData(LightningDataModule, ABC):
    """Images in three disjoint roles: training, validation (for selection) and test (for the final figures).

    Validation images are held out from the training images unless the data set has a split of its own for them, so that
    nothing is ever selected, measured or calibrated on test images. Batches are pairs of images `(B, C, H, W)` and
    classes `(B,)`.

    Where the trainer takes only a part of the validation or test images (`limit_val_batches`, `limit_test_batches`,
    `fast_dev_run`), the part has the same mixture of classes as the whole, and is the same at every call.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, int, int]
    trained_classes: list[str] | None = None
    """Names of the classes that the trainer's network was trained with; None where it doesn't know."""
    seen: Sequence[str] = ()
    """Names of the splits to train on and to choose the best epoch by, where they have names."""

    def __init__(
        self,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
        pin_memory: bool | None = None,
        seed: int = 0,
        val_split: int | float = 0.1,
    ) -> None:
        """Create the data module.

        Args:
            batch_size: Images in a training batch of each process.
            eval_batch_size: Images in a batch of each process when validating, testing and predicting; left out: twice
                `batch_size`.
            num_workers: Processes that load images, for each training process; 0 loads them in the training process
                itself; left out: one per core, up to 8, and none for images kept in memory; at most 4 per core are
                started.
            pin_memory: Load into page-locked memory, from which copies to the GPU are fast; left out: where there is a
                GPU.
            seed: Seed of the split into training and validation images and of the order of calibration images.
            val_split: Fraction (0.1) or number (5000) of training images to hold out for validation; 0 for no
                validation.
        """
        super().__init__()
        for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if size is not None and size < 1:
                raise ValueError(f"expected data.{name} of at least 1, got {size}")
        if num_workers is not None and num_workers < 0:
            raise ValueError(f"expected data.num_workers of at least 0, got {num_workers}")
        if not (math.isfinite(val_split) and val_split >= 0):
            raise ValueError(f"expected data.val_split as a fraction in 0..1 or a number of images, got {val_split}")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or 2 * batch_size
        self.num_workers = num_workers
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.seed = seed
        self.val_split = val_split
        self._images: dict[Role, Images] = {}
        self._warned: list[str] = []

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes; known before `setup`."""

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes by their numbers, where they are known."""
        return None

    @property
    def has_validation(self) -> bool:
        """Whether there are validation images; known before any are read."""
        return self.val_split > 0

    @abstractmethod
    def build(self, role: Role) -> Images:
        """Return the images of a role: `train` augmented, `calibration` the same images without augmentation."""

    def resolve_from(self, network: nn.Module) -> None:
        """Take what the user has not given (input size, mean, …) from what is known of the network's images."""
        self.warn_of_other_images(network, self.image_config)

    @property
    def image_config(self) -> dict[str, Any]:
        """Size, mean and standard deviation of the images that this hands out, in what JSON can hold."""
        return {"input_size": list(self.input_size), "mean": list(self.mean), "std": list(self.std)}

    def warn_of_other_images(self, network: nn.Module, given: Mapping[str, Any]) -> None:
        """Warn once of what is given otherwise than the network's weights were trained with."""
        known = remembered(network)
        differing = [
            f"data.{key} is {_listed(given[key])}, the weights were trained with {_listed(known[key])}"
            for key in known
            if given.get(key) is not None and _listed(given[key]) != _listed(known[key])
        ]
        if differing and differing != self._warned:
            self._warned = differing
            rank_zero_warn(f"{'; '.join(differing)}: left out, data takes what the weights were trained with.")

    def images(self, role: Role) -> Images:
        """Return the images of a role, read on first use."""
        if role not in self._images:
            self._images[role] = self.build(role)
        return self._images[role]

    def placed(self, images: Images) -> Images:
        """Return images as loaders read them: from a GPU's memory, say."""
        return images

    def images_to_predict(self) -> Images:
        """Return the images whose classes `predict` finds: the test images, or whatever images are in their place.

        Their labels may be −1, which is none, and `names` are the names of their files where they have any.
        """
        return self.images("test")

    def setup(self, stage: str | None = None) -> None:
        """Resolve the settings from the trainer's network and open the images that the stage needs.

        Raises:
            ValueError: The classes have other names, or another order, than those that the network was trained with.
        """
        module = getattr(self.trainer, "lightning_module", None)
        networks = (getattr(module, name, None) for name in _NETWORKS)
        network = next((network for network in networks if isinstance(network, nn.Module)), None)
        if network is not None:
            self.resolve_from(network)
            if stage == "fit":
                remember_images(network, data_config(self) | ({SEEN: list(self.seen)} if self.seen else {}))
            self.trained_classes = remembered(network).get(CLASSES)
            check_class_names(self.trained_classes, self.class_names, only_warn=stage == "predict")
            if stage == "test":
                warn_of_seen_images(remembered(network).get(SEEN), getattr(self, "test_split", None))
        if stage == "predict":
            self.images_to_predict()
            return
        roles: dict[str | None, tuple[Role, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
        for role in roles.get(stage, ("test",)):
            self.images(role)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled, augmented training images. Lightning shares them out between processes."""
        images = self.images("train")
        steps = max(1, len(images) // self.batch_size)
        if steps < FEW_STEPS:
            number = f"{steps} step{'s' * (steps > 1)} an epoch"
            rank_zero_info(
                f"{len(images):,} images in batches of {self.batch_size} make {number}: a smaller --data.batch_size "
                "makes more, and more epochs train longer."
            )
        return self._loader(
            images, batch_size=self.batch_size, shuffle=True, drop_last=len(images) >= self.batch_size, collate_fn=keep
        )

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Return the validation images, each once over all processes; an empty list where `val_split` is 0."""
        return self._evaluation_loader("val") if len(self.images("val")) else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the test images, each once over all processes."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return the images to predict; Lightning shares them out between processes and knows their indices."""
        return self._loader(self.images_to_predict(), batch_size=self.eval_batch_size, shuffle=False, collate_fn=keep)

    def calibration_dataloader(self, batch_size: int, num_batches: int) -> DataLoader[Batch]:
        """Return training images to calibrate with: not augmented, none twice, in an order fixed by the seed.

        Args:
            batch_size: Images in a batch, counted over all processes, which share each batch out.
            num_batches: Number of batches.

        Raises:
            ValueError: There are not enough training images, or a process would get no image of a batch.
        """
        images = self.images("calibration")
        rank, world_size = process_place()
        if min(batch_size, num_batches) < 1:
            raise ValueError(
                f"expected calibration batches of at least 1 image, got {num_batches} batches of {batch_size}"
            )
        if batch_size * num_batches > len(images):
            raise ValueError(
                f"expected a calibration set no larger than the {len(images)} training images that are not held out, "
                f"got {num_batches} batches of {batch_size} = {batch_size * num_batches} images; "
                f"lower ftbc.batch_size or ftbc.num_batches"
            )
        if batch_size < world_size:
            raise ValueError(
                f"expected a calibration batch with an image for each of {world_size} processes, got {batch_size}; "
                f"raise ftbc.batch_size or use fewer processes"
            )
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(images), generator=generator, device=generator.device)
        batches = [part.tolist() for part in order[: batch_size * num_batches].split(batch_size)]
        return self._batch_loader(images, [list(process_share(batch, rank, world_size)) for batch in batches])

    def held_out_dataloader(self, count: int) -> DataLoader[Batch]:
        """Return validation images in an order fixed by the seed, each once over all processes.

        Args:
            count: Number of images; all there are if there are fewer.
        """
        images = self.images("val")
        rank, world_size = process_place()
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(images), generator=generator)[:count].tolist()
        own = process_share(chosen, rank, world_size)
        size = self.eval_batch_size
        return self._batch_loader(images, [list(own[first : first + size]) for first in range(0, len(own), size)])

    def _evaluation_loader(self, role: Role) -> DataLoader[Batch]:
        images = self.images(role)
        batches = evaluation_batches(len(images), self.eval_batch_size, *process_place())
        limit = getattr(self.trainer, f"limit_{role}_batches", None)
        if takes_part(limit, len(batches)):
            # Files lie sorted by class: their first ones would be a part with one or two classes.
            order = spread_over_classes(images.labels).tolist()
            batches = [[order[place] for place in batch] for batch in batches]
        return self._batch_loader(images, batches)

    def _batch_loader(self, images: Images, batches: list[list[int]]) -> DataLoader[Batch]:
        # The batches are this process's own. Lightning would share them out once more, but for a DistributedSampler.
        own = Batches(self.placed(images), batches)
        return self._loader(
            own, batch_size=None, sampler=DistributedSampler(own, num_replicas=1, rank=0, shuffle=False)
        )

    def _loader(self, images: Images | Batches, **kwargs: Any) -> DataLoader[Batch]:
        images = images if isinstance(images, Batches) else self.placed(images)
        source = images.images if isinstance(images, Batches) else images
        # a batch of images in memory is cut out faster than a worker could hand it over
        automatic = 0 if isinstance(source, TensorImages) else min(available_cores(), 8)
        workers = automatic if self.num_workers is None else self._bounded_workers(self.num_workers)
        training = kwargs.get("shuffle", False)
        return DataLoader(
            images,
            num_workers=workers,
            pin_memory=self.pin_memory and not isinstance(source, DeviceImages),
            persistent_workers=workers > 0 and training,
            **kwargs,
        )

    @staticmethod
    def _bounded_workers(number: int) -> int:
        most = WORKERS_PER_CORE * available_cores()
        if number > most:
            rank_zero_warn(
                f"data.num_workers is {number}, but {available_cores()} cores are there: starting {most} instead"
            )
        return min(number, most)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
