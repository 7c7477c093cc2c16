"""From decoded images to the network's input, by timm's and torchvision's transforms."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision import transforms
from tqdm import tqdm

from ftbc_pl.data.batches import Batch, Images, random_shift

SMALL = 64
"""Up to this size in pixels, images are augmented by shifting and may be kept in memory."""

__all__ = [
    "SMALL",
    "Augmentation",
    "Geometry",
    "SourceImages",
    "decode_all",
    "height_and_width",
    "lost_to_cropping",
    "memory_image",
    "resolve_geometry",
    "shift_padding",
]


@dataclass(frozen=True)
class Geometry:
    """Size, resampling and normalisation of a network's input, as in timm's configuration of it."""

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float

    def evaluation(self, normalize: bool = True) -> Callable[[Image.Image], Tensor]:
        """Return timm's transform without augmentation: resize, centre crop, and normalise (else: `uint8`)."""
        transform: Callable[[Image.Image], Tensor] = create_transform(
            **self.settings(), crop_pct=self.crop_pct, normalize=normalize
        )
        return transform

    def settings(self) -> dict[str, Any]:
        """Return what timm's transforms for training and evaluation have in common."""
        names = ("input_size", "mean", "std", "interpolation")
        return {name: getattr(self, name) for name in names}


def resolve_geometry(config: dict[str, Any], given: dict[str, Any], in_chans: int) -> Geometry:
    """Return what is given (not None), else what timm's `config` of a network says, else timm's defaults for ImageNet.

    Raises:
        ValueError: There are not as many means and standard deviations as channels, or they can't normalise; or the
            crop takes no part of an image.
    """
    given = {key: value for key, value in given.items() if value is not None}
    resolved = resolve_data_config({}, pretrained_cfg={"input_size": (in_chans, 224, 224), **config}) | given
    # timm's configuration describes colour images also where the network was built for grey ones
    resolved["input_size"] = (in_chans, *resolved["input_size"][1:])
    for key in ("mean", "std"):
        values = tuple(map(float, resolved[key]))
        resolved[key] = (sum(values) / len(values),) if in_chans == 1 and key not in given else values
        if len(resolved[key]) != in_chans:
            raise ValueError(f"expected data.{key} of {in_chans} numbers, one per channel, got {len(resolved[key])}")
        if not all(math.isfinite(value) and (value > 0 or key == "mean") for value in resolved[key]):
            kind = "finite numbers" if key == "mean" else "numbers above 0"
            raise ValueError(f"expected data.{key} of {kind}, got {list(resolved[key])}")
    if not 0 < (crop := given.get("crop_pct", 1)) <= 1:
        raise ValueError(f"expected data.crop_pct above 0 and up to 1, the part of an image to keep, got {crop}")
    if max(resolved["input_size"]) <= SMALL and "crop_pct" not in given:
        # enlarging small images to cut off their border blurs those that have the right size
        resolved["crop_pct"] = 1.0
    return Geometry(**{field.name: resolved[field.name] for field in fields(Geometry)})


def height_and_width(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return the height and width that a side, or both, stand for.

    Raises:
        ValueError: They are not positive.
    """
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"expected data.input_size of at least 1 pixel, got {size}")
    return height, width


def lost_to_cropping(sizes: Sequence[tuple[int, int]], input_size: tuple[int, int, int]) -> float:
    """Return the fraction of their area that images lose when they are cut to the proportions of the input.

    Args:
        sizes: Width and height of each image, in pixels.
        input_size: Channels, height and width of the network's input.
    """
    _, height, width = input_size
    proportions = [(image_width * height) / (image_height * width) for image_width, image_height in sizes]
    return 1 - sum(min(value, 1 / value) for value in proportions) / len(proportions)


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed at random; `padding` is None for the random crop and resize of ImageNet."""

    padding: int | None
    hflip: float
    auto_augment: str | None
    color_jitter: float
    re_prob: float

    @property
    def batched(self) -> bool:
        """Whether shift, mirror and erase are all there is, which is fast on whole batches."""
        return self.padding is not None and not self.auto_augment and not self.color_jitter

    def shift(self) -> Callable[[Tensor], Tensor]:
        """Return the augmentation of a batch `(B, C, H, W)` before it is normalised."""
        return partial(random_shift, padding=self.padding or 0, flip=self.hflip)

    def erase(self) -> Callable[[Tensor], Tensor] | None:
        """Return the erasing of random rectangles in a normalised batch `(B, C, H, W)`."""
        return RandomErasing(self.re_prob, mode="pixel", device="cpu") if self.re_prob else None

    def single(self, geometry: Geometry) -> Callable[[Image.Image], Tensor]:
        """Return the transform of a single image, augmented and normalised."""
        crop, jitter, final = create_transform(
            **geometry.settings(),
            is_training=True,
            separate=True,
            hflip=self.hflip,
            color_jitter=self.color_jitter,
            auto_augment=self.auto_augment,
            re_prob=self.re_prob,
            re_mode="pixel",
        )
        if self.padding is not None:
            height, width = geometry.input_size[1:]
            # cut to the proportions of the input, as when evaluating: squeezed images would be other images
            crop = transforms.Compose(
                [
                    ResizeKeepRatio((height, width), interpolation=geometry.interpolation),
                    CenterCropOrPad([height, width]),
                    transforms.RandomCrop((height, width), padding=self.padding),
                    transforms.RandomHorizontalFlip(self.hflip),
                ]
            )
        transform: Callable[[Image.Image], Tensor] = transforms.Compose([crop, jitter, final])
        return transform


def shift_padding(random_crop: str, padding: int | None, size: int) -> int | None:
    """Largest shift of a training image in pixels; None where a random part is cut out and resized instead.

    Args:
        random_crop: `pad`, `resize`, `none`, or `auto`, which is `pad` for small images and `resize` for others.
        padding: The shift of `pad`; None: an eighth of the size.
        size: Side of the network's input in pixels.
    """
    crop = random_crop if random_crop != "auto" else "pad" if size <= SMALL else "resize"
    shift = size // 8 if padding is None else padding
    return None if crop == "resize" else 0 if crop == "none" else shift


class SourceImages(Images):
    """Images decoded and transformed one by one, each time they are read."""

    def __init__(
        self,
        labels: Tensor,
        image: Callable[[int], Image.Image],
        transform: Callable[[Image.Image], Tensor],
        indices: Tensor,
    ) -> None:
        """Name the images.

        Args:
            labels: Classes `(N,)` of all images.
            image: Returns an image by its index.
            transform: From the decoded image to `(C, H, W)`.
            indices: Which images there are, in which order.
        """
        self.labels, self.indices = labels[indices], indices
        self.image, self.transform = image, transform

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(indices)
        images = [self.transform(self.image(index)) for index in self.indices[chosen].tolist()]
        return torch.stack(images), self.labels[chosen]


def decode_all(
    images: Iterable[tuple[Image.Image, int]], count: int, geometry: Geometry, title: str
) -> tuple[Tensor, Tensor]:
    """Decode `count` images once, at the size of the network's input.

    Returns:
        The images as `uint8` `(N, C, H, W)` and their classes `(N,)`.

    Raises:
        ValueError: There are more or fewer images than `count`.
    """
    transform = geometry.evaluation(normalize=False)
    decoded = torch.empty((count, *geometry.input_size), dtype=torch.uint8)
    labels: list[int] = []
    silent = int(os.environ.get("LOCAL_RANK", "0")) > 0
    for image, label in tqdm(images, f"Decoding {title}", count, leave=False, unit=" images", disable=silent or None):
        if len(labels) < count:
            decoded[len(labels)] = transform(image)
        labels.append(label)
    if len(labels) != count:
        raise ValueError(f"expected {count} images in {title}, as its index says, got {len(labels)}; correct the index")
    return decoded, torch.tensor(labels)


def memory_image(images: Tensor, index: int) -> Image.Image:
    """Return one of the images `(N, C, H, W)` of `uint8` as a Pillow image."""
    image: Image.Image = transforms.functional.to_pil_image(images[index])
    return image
