"""CIFAR-10 for a machine that is reached by small files: packed without loss, unpacked on all cores, augmented there.

A folder of class folders becomes a few files of WebP images and, beside them in each, the classes and the validation
images that `trained` holds out.
"""

import hashlib
import io
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ftbc_pl.models.resnet import CIFAR_MEAN, CIFAR_STD

CHUNK = 1000
"""Images that a process decodes at a time."""


@dataclass(frozen=True)
class Cifar10Images:
    """CIFAR-10 in memory.

    Attributes:
        pixels: All images, (N, 3, 32, 32), `uint8`: first those to train with, then the test images.
        labels: Classes, (N,).
        held_out: Indices of the validation images.
        tested: Index of the first test image.
    """

    pixels: Tensor
    labels: Tensor
    held_out: Tensor
    tested: int

    def part(self, role: str, device: str) -> tuple[Tensor, Tensor]:
        """Images, `uint8` (N, 3, 32, 32), and classes of a role (train, val, test)."""
        kept = torch.ones(self.tested, dtype=torch.bool)
        kept[self.held_out] = False
        indices = {"train": kept.nonzero()[:, 0], "val": self.held_out}.get(role, torch.arange(len(self.labels)))
        indices = indices[self.tested :] if role == "test" else indices
        return self.pixels[indices].to(device), self.labels[indices].to(device)


def pack(images: Cifar10Images, folder: Path, parts: int = 2) -> list[Path]:
    """Write the images into `parts` files of about the same size.

    Returns:
        The files.
    """
    pixels = images.pixels.permute(0, 2, 3, 1).contiguous().numpy()
    encoded: list[bytes] = []
    for part in _on_all_cores(_encode, _chunks(pixels)):
        encoded += part
    lengths = np.array([len(image) for image in encoded])
    file_of = lengths.cumsum() * parts // (lengths.sum() + 1)
    about: dict[str, Any] = {"labels": images.labels.numpy(), "held_out": images.held_out.numpy()}
    about |= {"tested": images.tested, "digest": _digest(pixels)}
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for part in range(parts):
        own = np.flatnonzero(file_of == part)
        blob = np.frombuffer(b"".join(encoded[index] for index in own), np.uint8)
        paths.append(folder / f"cifar10.{part}.npz")
        np.savez(paths[-1], blob=blob, lengths=lengths[own], start=own[0], **about)
    return paths


def unpack(paths: Sequence[Path]) -> Cifar10Images:
    """Read the images from all files that `pack` wrote, in any order.

    Raises:
        ValueError: A file is missing, or what is decoded is not what was packed.
    """
    files = [dict(np.load(path)) for path in paths]
    encoded = []
    for file in sorted(files, key=lambda file: int(file["start"])):
        blob = file["blob"].tobytes()
        encoded += [blob[start:stop] for start, stop in pairwise([0, *accumulate(file["lengths"].tolist())])]
    if not files or len(encoded) != len(files[0]["labels"]):
        raise ValueError(f"expected all files of the packed images, got {len(encoded)} images in {len(files)} files")
    pixels = np.concatenate(list(_on_all_cores(_decode, _chunks(encoded))))
    if not np.array_equal(_digest(pixels), files[0]["digest"]):
        raise ValueError("expected the pixels that were packed, got others; this Pillow reads WebP in another way")
    labels, held_out = (torch.from_numpy(files[0][name]) for name in ("labels", "held_out"))
    return Cifar10Images(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels, held_out, int(files[0]["tested"])
    )


def _chunks(items: Any) -> list[Any]:
    return [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]


def _on_all_cores(function: Any, chunks: list[Any]) -> list[Any]:
    if len(chunks) < 2:
        return [function(chunk) for chunk in chunks]
    with ProcessPoolExecutor() as pool:
        return list(pool.map(function, chunks))


def _encode(pixels: "np.ndarray[Any, Any]") -> list[bytes]:
    encoded = []
    for image in pixels:
        file = io.BytesIO()
        # Method 3 is smaller than 4 to 6 on images of this size, and faster.
        Image.fromarray(image).save(file, "WEBP", lossless=True, method=3, quality=100)
        encoded.append(file.getvalue())
    return encoded


def _decode(encoded: list[bytes]) -> "np.ndarray[Any, Any]":
    return np.stack([np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in encoded])


def _digest(pixels: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    return np.frombuffer(hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).digest(), np.uint8)


def normalise(pixels: Tensor) -> Tensor:
    """Normalise images (N, 3, H, W) of `uint8` with the mean and deviation of CIFAR-10."""
    mean, std = (torch.tensor(values, device=pixels.device).view(-1, 1, 1) * 255 for values in (CIFAR_MEAN, CIFAR_STD))
    return (pixels.float() - mean) * (1 / std)


@dataclass(frozen=True)
class Augmentation:
    """How images are changed at random, each in its own way.

    Attributes:
        shift: Largest shift in pixels; every second image is mirrored besides.
        cutout: Side in pixels of a square of each image that becomes grey.
        changed: Fraction of images that are turned, sheared, zoomed and changed in colour.
    """

    shift: int = 4
    cutout: int = 8
    changed: float = 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """Augment normalised images, (N, 3, H, W) with H = W; where the frame leaves the image it is grey."""
        count, device = len(images), images.device
        changed = (torch.rand(count, device=device) < self.changed).float()

        def uniform(limit: float) -> Tensor:
            return (torch.rand(count, 1, 1, device=device) * 2 - 1) * limit * changed.view(-1, 1, 1)

        if self.changed:
            images = _recolour(images, uniform)
        images = F.grid_sample(images, self._grid(images, uniform), padding_mode="zeros", align_corners=False)
        return images * self._outside_cutout(images) if self.cutout else images

    def _grid(self, images: Tensor, uniform: Any) -> Tensor:
        """Where each pixel comes from, (N, H, W, 2), in -1..1."""
        count, size, device = len(images), images.shape[-1], images.device
        centre = (torch.arange(size, device=device) * 2 + 1) / size - 1
        x, y = centre.view(1, 1, -1), centre.view(1, -1, 1)
        angle, shear, zoom = uniform(math.pi / 12), uniform(0.2), 1 + uniform(0.15)
        mirror = torch.randint(0, 2, (count, 1, 1), device=device) * 2 - 1
        move = torch.randint(-self.shift, self.shift + 1, (2, count, 1, 1), device=device) * (2 / size)
        across = mirror * zoom * (angle.cos() * x + (shear - angle.sin()) * y) + move[0]
        down = zoom * (angle.sin() * x + angle.cos() * y) + move[1]
        return torch.stack([across, down], dim=-1)

    def _outside_cutout(self, images: Tensor) -> Tensor:
        """1 outside each image's square and 0 inside, (N, 1, H, W)."""
        size = images.shape[-1]
        position = torch.arange(size, device=images.device)
        start = torch.randint(0, size, (2, len(images), 1), device=images.device) - self.cutout // 2
        rows, columns = (position >= start) & (position < start + self.cutout)
        return ~(rows[:, :, None] & columns[:, None, :]).unsqueeze(1)


def _recolour(images: Tensor, uniform: Any) -> Tensor:
    """Change brightness, contrast and saturation of normalised images (N, 3, H, W)."""
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (1 + uniform(0.6).unsqueeze(1))
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (1 + uniform(0.4).unsqueeze(1)) + uniform(0.5).unsqueeze(1)
