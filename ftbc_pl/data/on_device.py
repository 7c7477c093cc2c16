"""Small data sets in a GPU's memory: bytes there, cut out, augmented and normalised there a batch at a time.

The same distribution as the images that a CPU makes, from the GPU's own random numbers. Every process keeps the whole
set on its GPU, and reads its share of it.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ftbc_pl.data.batches import Batch, Images, TensorImages

_SHARE = 4  # a set may take a fourth of the memory that is free
_ATTEMPTS = 10  # as timm: how often a rectangle is drawn until one fits
_AREA, _LOG_ASPECT = (0.02, 1 / 3), math.log(0.3)

__all__ = ["DeviceImages", "DeviceMemory", "erase_rectangles", "shift_and_mirror"]


def shift_and_mirror(images: Tensor, padding: int, flip: float) -> Tensor:
    """Shift each image (B, C, H, W) by up to `padding` pixels, filled with zeros; mirror it with probability `flip`.

    As `ftbc_pl.data.batches.random_shift`, in one look-up on the images' device.
    """
    count, channels, height, width = images.shape
    device = images.device
    top, left = torch.randint(0, 2 * padding + 1, (2, count, 1, 1, 1), device=device)
    across, down = torch.arange(width, device=device), torch.arange(height, device=device)
    mirrored = torch.rand(count, 1, 1, 1, device=device) < flip
    columns = left + torch.where(mirrored, across.flip(0), across)
    rows = top + down.view(-1, 1)
    each, channel = torch.arange(count, device=device), torch.arange(channels, device=device)
    return F.pad(images, (padding,) * 4)[each.view(-1, 1, 1, 1), channel.view(-1, 1, 1), rows, columns]


def erase_rectangles(images: Tensor, probability: float) -> Tensor:
    """Fill a rectangle of each normalised image (B, C, H, W) with noise, with a probability.

    Zhong et al., "Random erasing data augmentation" (AAAI 2020), with the sizes, proportions and attempts of timm's
    `RandomErasing` in the mode `pixel`, all images at once.
    """
    count, _, height, width = images.shape
    device = images.device
    area = torch.empty(count, _ATTEMPTS, device=device).uniform_(*_AREA) * (height * width)
    aspect = torch.empty(count, _ATTEMPTS, device=device).uniform_(_LOG_ASPECT, -_LOG_ASPECT).exp()
    high, wide = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (high < height) & (wide < width)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    high, wide = high.gather(1, first), wide.gather(1, first)
    erased = fits.any(1, keepdim=True) & (torch.rand(count, 1, device=device) <= probability)
    top, left = (
        (torch.rand(count, 1, device=device) * (room + 1)).floor().minimum(room)
        for room in (height - high, width - wide)
    )
    row, column = torch.arange(height, device=device), torch.arange(width, device=device)
    rows, columns = (row >= top) & (row < top + high), (column >= left) & (column < left + wide)
    inside = (erased & rows).unsqueeze(2) & columns.unsqueeze(1)
    return torch.where(inside.unsqueeze(1), torch.randn_like(images), images)


class DeviceImages(TensorImages):
    """Images of a `TensorImages` on a device; batches come out there."""

    def __init__(
        self,
        source: TensorImages,
        images: Tensor,
        augment: Callable[[Tensor], Tensor] | None = None,
        erase: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Take over which images there are, and their normalisation.

        Args:
            source: The images in the memory of the CPU.
            images: The same pixels on the device.
            augment: Applied to a batch before it is normalised.
            erase: Applied to a batch after it is normalised.
        """
        device = images.device
        self.images, self.labels = images, source.labels
        self.indices, self._labels = source.indices.to(device), source.labels.to(device)
        self._shift, self._factor = source._shift.to(device), source._factor.to(device)
        self.augment, self.erase = augment, erase

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(indices).to(self.images.device)
        images = self.images[self.indices[chosen]]
        return self._finished(images), self._labels[chosen]


class DeviceMemory:
    """Copies of image sets on the GPU of a process."""

    def __init__(self) -> None:
        """Start without copies."""
        self._copies: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def clear(self) -> None:
        """Forget all copies."""
        self._copies.clear()

    def placed(self, images: Images, trainer: Any, augmentation: Any) -> Images:
        """Images as they come out of the memory of the trainer's GPU; as they are where they don't fit in there.

        Args:
            images: Those of a role.
            trainer: Lightning's trainer, or None.
            augmentation: How those to train with are changed; see `ftbc_pl.data.transforms.Augmentation`.
        """
        device = getattr(getattr(trainer, "strategy", None), "root_device", None)
        if device is None or device.type != "cuda":
            return images
        return self.take(images, device, augmentation.padding or 0, augmentation.hflip, augmentation.re_prob)

    def take(self, images: Images, device: torch.device, padding: int, flip: float, erased: float) -> Images:
        """Images as they come out of a device's memory; as they are where they don't fit in there.

        Args:
            images: Those of a role.
            device: The GPU.
            padding: Largest shift of those that are augmented.
            flip: Probability that one of those is mirrored.
            erased: Probability that a rectangle of one of those is erased.
        """
        if not isinstance(images, TensorImages):
            return images
        copy = self._copy(images.images, device)
        if copy is None:
            return images
        augment = partial(shift_and_mirror, padding=padding, flip=flip) if images.augment is not None else None
        erase = partial(erase_rectangles, probability=erased) if images.erase is not None else None
        return DeviceImages(images, copy, augment, erase)

    def _copy(self, images: Tensor, device: torch.device) -> Tensor | None:
        key = id(images), device
        if key not in self._copies:
            if device.type == "cuda" and images.nbytes > torch.cuda.mem_get_info(device)[0] // _SHARE:
                return None
            self._copies[key] = images, images.to(device)  # the original as well, so that no other gets its id
        return self._copies[key][1]
