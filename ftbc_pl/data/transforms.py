"""From decoded images to the network's input, by timm's and torchvision's transforms."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import str_to_interp_mode
from torch import Tensor
from torchvision import transforms
from tqdm import tqdm

from .batches import Batch, Images, random_shift

__all__ = ["Augmentation", "Geometry", "SourceImages", "decode_all", "memory_image"]


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
        return create_transform(**self._settings(), crop_pct=self.crop_pct, normalize=normalize)

    def _settings(self) -> dict[str, Any]:
        names = ("input_size", "mean", "std", "interpolation")
        return {name: getattr(self, name) for name in names}


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
            **geometry._settings(),
            is_training=True,
            separate=True,
            hflip=self.hflip,
            color_jitter=self.color_jitter or None,
            auto_augment=self.auto_augment,
            re_prob=self.re_prob,
            re_mode="pixel",
        )
        if self.padding is not None:
            height, width = geometry.input_size[1:]
            interpolation = str_to_interp_mode(geometry.interpolation)
            crop = transforms.Compose(
                [
                    transforms.Resize((height, width), interpolation=interpolation),
                    transforms.RandomCrop((height, width), padding=self.padding),
                    transforms.RandomHorizontalFlip(self.hflip),
                ]
            )
        return transforms.Compose([crop, jitter, final])


class SourceImages(Images):
    """Images decoded and transformed one by one, each time they are read.

    Args:
        labels: Classes `(N,)` of all images.
        image: Returns an image by its index.
        transform: From the decoded image to `(C, H, W)`.
        indices: Which images there are, in which order.
    """

    def __init__(
        self,
        labels: Tensor,
        image: Callable[[int], Image.Image],
        transform: Callable[[Image.Image], Tensor],
        indices: Tensor,
    ) -> None:
        self.labels, self.indices = labels[indices], indices
        self.image, self.transform = image, transform

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(indices)
        images = [self.transform(self.image(index)) for index in self.indices[chosen].tolist()]
        return torch.stack(images), self.labels[chosen]


def decode_all(images: Iterable[Image.Image], count: int, geometry: Geometry, title: str) -> Tensor:
    """Decode images once, at the size of the network's input, into a tensor `(N, C, H, W)` of `uint8`."""
    transform = geometry.evaluation(normalize=False)
    decoded = torch.empty((count, *geometry.input_size), dtype=torch.uint8)
    for index, image in enumerate(tqdm(images, total=count, desc=f"Decoding {title}", unit=" images", mininterval=0.5)):
        decoded[index] = transform(image)
    return decoded


def memory_image(images: Tensor, index: int) -> Image.Image:
    """Return one of the images `(N, C, H, W)` of `uint8` as a Pillow image."""
    return transforms.functional.to_pil_image(images[index])
