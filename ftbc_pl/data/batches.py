"""Data sets that hand out whole batches, and the shares of a batch between processes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

Batch = tuple[Tensor, Tensor]

__all__ = ["Batch", "Batches", "Images", "TensorImages", "evaluation_batches", "process_share", "random_shift"]


class Images(Dataset[Batch]):
    """Labelled images that are read a batch at a time, as `(B, C, H, W)` images and `(B,)` labels."""

    labels: Tensor
    names: Sequence[str] | None = None
    """Names of the images' files, in the order of the images, where they are known."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        raise NotImplementedError


class TensorImages(Images):
    """Images kept in memory; a batch is cut out, augmented and normalised with a handful of tensor operations.

    Raises:
        ValueError: An image holds NaN or infinity.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        augment: Callable[[Tensor], Tensor] | None = None,
        erase: Callable[[Tensor], Tensor] | None = None,
        indices: Tensor | None = None,
    ) -> None:
        """Keep the images.

        Args:
            images: Images `(N, C, H, W)`, `uint8` in 0..255 or floating point in 0..1.
            labels: Classes `(N,)`.
            mean: Mean of each channel, for images in 0..1.
            std: Standard deviation of each channel, for images in 0..1.
            augment: Applied to a batch before it is normalised.
            erase: Applied to a batch after it is normalised.
            indices: Which images there are, in which order; left out: all.
        """
        if images.is_floating_point() and not (finite := images.isfinite().flatten(1).all(1)).all():
            raise ValueError(
                f"expected images of finite numbers, got NaN or infinity in {int((~finite).sum())} of {len(images)} "
                f"(the first is image {int((~finite).nonzero()[0])}); take them out of the data set"
            )
        self.images = images
        self.indices = torch.arange(len(labels)) if indices is None else indices
        self.labels = labels[self.indices]
        scale = 1.0 if images.is_floating_point() else 255.0
        self._shift = torch.tensor(mean).view(-1, 1, 1) * scale
        self._factor = 1.0 / (torch.tensor(std).view(-1, 1, 1) * scale)
        self.augment, self.erase = augment, erase

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(indices)
        return self._finished(self.images[self.indices[chosen]]), self.labels[chosen]

    def _finished(self, images: Tensor) -> Tensor:
        """Augment and normalise a batch."""
        if self.augment is not None:
            images = self.augment(images)
        images = images.float().sub_(self._shift).mul_(self._factor)
        return images if self.erase is None else self.erase(images)


class Batches(Dataset[Batch]):
    """The batches of `images` named by lists of indices, for a loader with `batch_size=None`."""

    def __init__(self, images: Images, batches: Sequence[Sequence[int]]) -> None:
        self.images, self.batches = images, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.images.__getitems__(self.batches[index])


def random_shift(images: Tensor, padding: int, flip: float) -> Tensor:
    """Shift each image by up to `padding` pixels, filled with zeros, and mirror it with probability `flip`.

    The same as padding, a random crop and a random horizontal flip of each of the images `(B, C, H, W)`.
    """
    count, _, height, width = images.shape
    if flip > 0:
        images = torch.where((torch.rand(count) < flip).view(-1, 1, 1, 1), images.flip(-1), images)
    if padding == 0:
        return images
    padded = F.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    top, left = torch.randint(0, 2 * padding + 1, (2, count))
    return windows[torch.arange(count), :, top, left]


def process_share(batch: Sequence[int], rank: int, world_size: int) -> Sequence[int]:
    """Return what process `rank` of `world_size` takes of a batch: every `world_size`-th image."""
    return batch[rank::world_size]


def evaluation_batches(count: int, batch_size: int, rank: int, world_size: int) -> list[list[int]]:
    """Split the images 0..count-1 between processes: each image once, the same number of batches in every process.

    Batches hold `batch_size` images per process or a few less, one more where the images don't divide evenly: DDP
    exchanges buffers in every forward, so that a process with a batch more than the others would wait for ever.

    Raises:
        ValueError: There are fewer images than processes.
    """
    if count < world_size:
        raise ValueError(
            f"expected at least one image for each of {world_size} processes, got {count}; use fewer processes"
        )
    number = -(-(count // world_size) // batch_size)
    own = torch.arange(rank, count, world_size)
    if world_size == 1:
        return [part.tolist() for part in own.split(batch_size)]
    return [part.tolist() for part in own.tensor_split(number)]


def keep(batch: Any) -> Any:
    """Return the batch as it is: `__getitems__` has already put it together."""
    return batch
