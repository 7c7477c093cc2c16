"""Image data sets through timm: CIFAR, folders and tar files of classes, Hugging Face data sets, webdatasets."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from ftbc_pl.data.base import ClassificationData, Role
from ftbc_pl.data.batches import Batch, Images, TensorImages
from ftbc_pl.data.found import HELD_OUT, find_splits
from ftbc_pl.data.mixing import Mixing
from ftbc_pl.data.on_device import DeviceMemory
from ftbc_pl.data.parts import hold_out
from ftbc_pl.data.sources import Source
from ftbc_pl.data.splits import Splits
from ftbc_pl.data.streams import CACHE_BYTES, read_stream
from ftbc_pl.data.timm_sources import CLASSES, FOLDER_NAMES, STREAMS, open_named
from ftbc_pl.data.transforms import (
    SMALL,
    Augmentation,
    SourceImages,
    decode_all,
    height_and_width,
    memory_image,
    resolve_geometry,
    shift_padding,
)
from ftbc_pl.models.images import images_of
from ftbc_pl.models.resnet import CIFAR_MEAN, CIFAR_STD

__all__ = ["ImageData"]


class ImageData(ClassificationData):
    """Folders and tar files of class folders, and whatever else `timm.data.create_dataset` opens by name.

    The class of an image is the first folder below its split, however many folders lie between them; Tiny-ImageNet's
    own layout is understood. Every file that Pillow reads is an image; a warning counts what is left out. Hidden files
    and folders are no part of a data set.

    The three roles: training images are those of `train_split`, less the validation images; test images are those of
    `test_split`. Validation images are those of the split for validation where there is one, else held out from the
    training images. ImageNet's `val` folder is what results are reported on, so it is the test split in its configs
    (`test_split: val`), and validation images are held out from `train`. In folders, splits go by their usual names.

    Small images are decoded once, kept in memory as bytes and augmented a batch at a time. Size, mean, standard
    deviation, resampling and crop that are not given are those that the network's weights were trained with.
    """

    def __init__(
        self,
        root: str,
        name: str = "folder",
        train_split: str | None = None,
        test_split: str | None = None,
        val_split_name: str | None = None,
        val_split: int | float | None = None,
        num_classes: int | None = None,
        download: bool = False,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
        pin_memory: bool | None = None,
        seed: int = 0,
        input_size: int | tuple[int, int] | None = None,
        in_chans: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        interpolation: str | None = None,
        crop_pct: float | None = None,
        random_crop: Literal["auto", "pad", "resize", "none"] = "auto",
        padding: int | None = None,
        hflip: float = 0.5,
        auto_augment: str | None = None,
        color_jitter: float = 0.0,
        re_prob: float = 0.0,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        cache: bool | None = None,
        device: Literal["auto", "cpu"] = "auto",
    ) -> None:
        """Create the data module.

        Args:
            root: Folder of the data set. Downloads go there.
            name: What the data set is: `folder` for class folders or tar files of class folders in `root`,
                `torch/cifar10`, `torch/cifar100`, `hfds/<name>` (Hugging Face; needs the package `datasets`),
                `wds/<name>` (needs `webdataset`).
            train_split: Split with the training images, for `folder` a folder or tar file in `root`; left out: `train`,
                and all of `root` where it holds classes and no split.
            test_split: Split with the test images; `val` for ImageNet; left out: `test`. `predict` takes images without
                classes too.
            val_split_name: Split with validation images; left out: `val`, where there is one and neither `val_split`
                nor `test_split` says otherwise, else `val_split` of the training images. To calibrate without training,
                where nothing is selected, it may be the test split, so that no training image is held out.
            val_split: Fraction or number (5000) of training images to hold out for validation, every class alike; 0 for
                none; left out: 0.1 where there is no split for validation.
            num_classes: Number of classes, which the training images must have; left out: counted. Class folders
                without an image count only where this number says so.
            download: Download the data set if it isn't in `root` yet (`torch/…`).
            batch_size: Images in a training batch of each process.
            eval_batch_size: The same when validating, testing and predicting; left out: twice `batch_size`.
            num_workers: Processes that decode images, for each training process; left out: one per core, up to 8, and
                none for images kept in memory, where they would cost more than they bring; at most 4 per core are
                started.
            pin_memory: Load into page-locked memory, for fast copies to a GPU; left out: where there is one.
            seed: Seed of the split into training and validation images and of the order of calibration images.
            input_size: Side of the network's input in pixels, or its height and width (`[16, 64]`); left out: from the
                network.
            in_chans: Channels of the images: 3 for colour, 1 for grey; left out: those that the network takes.
            mean: Mean of each channel, for images in 0..1; left out: from the network.
            std: Standard deviation of each channel, for images in 0..1; left out: from the network.
            interpolation: Resampling: `nearest`, `bilinear`, `bicubic`, …; left out: from the network.
            crop_pct: Side of the centre crop as a fraction of the resized image; left out: 1 for small images, else
                from the network.
            random_crop: How training images are cropped: `pad` shifts them by up to `padding` pixels, `resize` cuts out
                a random part and resizes it, as for ImageNet, `none` does neither; `auto` pads up to 64 pixels and
                resizes above.
            padding: Largest shift in pixels; left out: an eighth of the input size (4 for CIFAR).
            hflip: Probability that a training image is mirrored.
            auto_augment: timm's augmentation policy, such as `rand-m9-mstd0.5`, `original` (AutoAugment), `augmix-m3`.
            color_jitter: Strength of random brightness, contrast and saturation; without effect by `auto_augment`.
            re_prob: Probability that a random rectangle of a training image is erased.
            mixup_alpha: Strength of Mixup, 0 for none; targets become probabilities `(B, num_classes)`.
            cutmix_alpha: Strength of CutMix, 0 for none; with both, each batch gets one of the two.
            cache: Keep decoded images in memory; left out: where they are small and take up to 1 GiB.
            device: Where images kept in memory live and are augmented: `auto` is the GPU that trains, where it has room
                and there are no `num_workers`; `cpu` never is.
        """
        amount = HELD_OUT if val_split is None else val_split
        super().__init__(batch_size, eval_batch_size, num_workers, pin_memory, seed, amount)
        folder = Path(root) if name in FOLDER_NAMES else None
        self.found = find_splits(folder, train_split, test_split, val_split_name, holds_out=val_split is not None)
        self.train_split, self.test_split, self.val_split_name = names = self.found.names
        self.seen = [split for split in (self.train_split, self.val_split_name) if split is not None]
        if self.train_split in names[1:]:
            raise ValueError(f"expected different splits for training and evaluation, got {self.train_split} for both")
        size = height_and_width(input_size)
        if in_chans not in (None, 1, 3):
            raise ValueError(f"expected data.in_chans of 3 (colour) or 1 (grey), got {in_chans}")
        self.root, self.dataset, self.download = root, name, download
        self.in_chans = in_chans or (1 if len(mean or ()) == 1 else 3)
        self.random_crop, self.padding, self.hflip = random_crop, padding, hflip
        self.auto_augment, self.color_jitter, self.re_prob = auto_augment, color_jitter, re_prob
        self.mixup_alpha, self.cutmix_alpha, self.cache = mixup_alpha, cutmix_alpha, cache
        self.device, self._device_memory, self._said = device, DeviceMemory(), False
        given = {"mean": mean, "std": std, "interpolation": interpolation, "crop_pct": crop_pct, "in_chans": in_chans}
        self._given: dict[str, Any] = given | {"input_size": None if size is None else (3, *size)}
        self._num_classes = expected = CLASSES.get(name) if num_classes is None else num_classes
        self._splits = Splits(name, root, self._mode, names[0], names[1:], expected)
        self._predicted: Images | None = None
        self._memory: dict[str, tuple[Tensor, Tensor]] = {}
        self._mixing = Mixing(mixup_alpha, cutmix_alpha)
        small = name.startswith("torch/") or (size is not None and max(size) <= SMALL)
        self._resolve({"input_size": (self.in_chans, 32, 32), "mean": CIFAR_MEAN, "std": CIFAR_STD} if small else {})

    def _resolve(self, config: dict[str, Any]) -> None:
        if self._given["in_chans"] is None and config.get("in_chans") in (1, 3):
            self.in_chans = config["in_chans"]
        if self._given["input_size"] is not None:
            self._given["input_size"] = (self.in_chans, *self._given["input_size"][1:])
        self._splits.use_mode(self._mode)
        geometry = resolve_geometry(config, self._given, self.in_chans)
        if geometry != getattr(self, "geometry", None):
            self.geometry = geometry
            self.input_size, self.mean, self.std = geometry.input_size, geometry.mean, geometry.std
            self._images.clear()
            self._memory.clear()
            self._device_memory.clear()

    def resolve_from(self, network: nn.Module) -> None:
        """Take what isn't given (size, mean, std, resampling, crop) from the network's timm configuration."""
        if config := images_of(network):
            self._resolve(config)
        self.warn_of_other_images(network, self._given)

    @property
    def image_config(self) -> dict[str, Any]:
        """Size, mean and standard deviation of the images, and how they are resized, in what JSON can hold."""
        return super().image_config | {"interpolation": self.geometry.interpolation, "crop_pct": self.geometry.crop_pct}

    @property
    def num_classes(self) -> int:
        """Number of classes: as given, as known from the data set's name, or counted in the training images."""
        if self._num_classes is None:
            if self.dataset.startswith(STREAMS):
                raise ValueError(f"expected data.num_classes to be given for {self.dataset}, which does not state it")
            self._num_classes = self._splits.training().num_classes
        return self._num_classes

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes by their numbers; None where they, or the training images, are missing."""
        return None if self.dataset.startswith(STREAMS) else self._splits.class_names()

    @property
    def has_validation(self) -> bool:
        """Whether there are validation images; known before any are read."""
        return self.val_split_name is not None or self.val_split > 0

    def setup(self, stage: str | None = None) -> None:
        """Resolve the settings from the trainer's network and open the images that the stage needs.

        Raises:
            ValueError: Training would select by the test images.
        """
        if stage == "fit" and self.val_split_name == self.test_split:
            why = f"expected different splits for validation and test when training, got {self.test_split} for both"
            raise ValueError(f"{why}; leave out data.val_split_name to hold out training images")
        super().setup(stage)
        if self._splits.in_files and stage not in ("test", "predict") and not self._said:
            self._said = True
            size = self.input_size if stage == "fit" and self._given["input_size"] is None else None
            kept = len(self.images("calibration"))
            rank_zero_info(self._splits.in_words(self.found, self.in_chans, kept, size, stage == "fit"))

    def prepare_data(self) -> None:
        """Download the data set where asked to; Lightning calls this in one process of each machine."""
        if self.download and not self._splits.in_files and not self.dataset.startswith(STREAMS):
            for split in (self.train_split, self.test_split):
                open_named(self.dataset, self.root, split, self._mode, download=True)

    def build(self, role: Role) -> Images:
        """Return the images of a role; see the class for what each is made of."""
        split = {"test": self.test_split, "val": self.val_split_name}.get(role) or self.train_split
        augmentation = self._augmentation()
        labels = self._stream(split)[1] if self.dataset.startswith(STREAMS) else self._source(split).labels
        indices = torch.arange(len(labels))
        if split == self.train_split and self.val_split_name is None:
            kept, held_out = hold_out(labels, self.val_split, self.seed)
            indices = held_out if role == "val" else kept
        if not self.dataset.startswith(STREAMS):
            self._splits.warn_of_cropping(split, self.input_size)
        in_memory = self._in_memory(split, augmentation)
        if in_memory is not None and (role != "train" or augmentation.batched):
            augment, erase = (augmentation.shift(), augmentation.erase()) if role == "train" else (None, None)
            return TensorImages(in_memory, labels, self.mean, self.std, augment=augment, erase=erase, indices=indices)
        image = self._source(split).image if in_memory is None else partial(memory_image, in_memory)
        cut = augmentation.single(self.geometry) if role == "train" else self.geometry.evaluation()
        return SourceImages(labels, image, cut, indices)

    def placed(self, images: Images) -> Images:
        """Return images as they come out of the memory of the trainer's GPU, where they may live there."""
        allowed = self.device == "auto" and not self.num_workers
        return self._device_memory.placed(images, self.trainer, self._augmentation()) if allowed else images

    def images_to_predict(self) -> Images:
        """Return the images of `test_split`, with their files' names; in folders and tar files they need no class."""
        if not self._splits.in_files:
            return self.images("test")
        if self._predicted is None:
            source = self._splits.unlabelled(self.test_split, self.trained_classes)
            indices = torch.arange(len(source))
            self._predicted = SourceImages(source.labels, source.image, self.geometry.evaluation(), indices)
            self._predicted.names = source.names
        return self._predicted

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Mix the images and labels of training batches, on the device, where Mixup or CutMix is asked for."""
        mixes = self._mixing.asked_for and self.trainer is not None and self.trainer.training
        return self._mixing(batch, self.num_classes) if mixes else batch

    @property
    def _mode(self) -> str:
        return "RGB" if self.in_chans == 3 else "L"

    def _augmentation(self) -> Augmentation:
        padding = shift_padding(self.random_crop, self.padding, max(self.input_size[1:]))
        return Augmentation(padding, self.hflip, self.auto_augment, self.color_jitter, self.re_prob)

    def _source(self, split: str) -> Source:
        self._splits.training()
        return self._splits.source(split)

    def _in_memory(self, split: str, augmentation: Augmentation) -> Tensor | None:
        if self.dataset.startswith(STREAMS):
            return self._stream(split)[0]
        if split in self._memory:
            return self._memory[split][0]
        source = self._source(split)
        if augmentation.padding is None:
            if self.cache:
                raise ValueError("data.cache keeps images too small for random_crop: resize; choose one of the two")
            return None
        small = max(self.input_size[1:]) <= SMALL and len(source) * torch.Size(self.input_size).numel() <= CACHE_BYTES
        if not (small if self.cache is None else self.cache):
            return None
        title = Path(split).stem if self._splits.in_files else f"{self.dataset} {split}"
        images = ((source.image(index), label) for index, label in enumerate(source.labels.tolist()))
        self._memory[split] = decode_all(images, len(source), self.geometry, title)
        return self._memory[split][0]

    def _stream(self, split: str) -> tuple[Tensor, Tensor]:
        if split not in self._memory:
            where = self.dataset, self.root, split, self._mode, self.geometry
            self._memory[split] = read_stream(*where, bool(self.cache))
        return self._memory[split]
