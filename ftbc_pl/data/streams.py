"""Data sets that can only be read from beginning to end: they are kept in memory."""

import torch
from torch import Tensor

from ftbc_pl.data.timm_sources import converted, open_stream
from ftbc_pl.data.transforms import Geometry, decode_all

CACHE_BYTES = 2**30

__all__ = ["CACHE_BYTES", "read_stream"]


def read_stream(
    name: str, root: str, split: str, mode: str, geometry: Geometry, cache: bool = False
) -> tuple[Tensor, Tensor]:
    """Read all images of a split once, at the size of the network's input.

    Args:
        name: timm's name of the data set.
        root: Its folder.
        split: Name of the split.
        mode: Pillow's mode for the images, `RGB` or `L`.
        geometry: What the images become.
        cache: Whether they may take more than 1 GiB.

    Returns:
        The images as `uint8` `(N, C, H, W)` and their classes `(N,)`.

    Raises:
        ValueError: They would take more.
    """
    stream = open_stream(name, root, split, mode)
    size = len(stream) * torch.Size(geometry.input_size).numel()
    if size > CACHE_BYTES and not cache:
        raise ValueError(
            f"{name} can only be read from beginning to end, so they are kept in memory, "
            f"{size / 2**30:.1f} GiB for split {split}; set data.cache to true to do so, or unpack it"
        )
    return decode_all(converted(stream, mode, name), len(stream), geometry, f"{name} {split}")
