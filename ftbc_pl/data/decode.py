"""From an image file's own mode to eight bits, grey or colour."""

from typing import BinaryIO

import numpy as np
from PIL import Image

_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0

__all__ = ["decode", "to_mode"]


def decode(file: BinaryIO, mode: str) -> Image.Image:
    """Read an image in Pillow's `mode`, `RGB` or `L`; of several frames the first.

    Raises:
        ValueError: Its values have no known range.
    """
    return to_mode(Image.open(file), mode)


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image to Pillow's `mode`, `RGB` or `L`, of eight bits.

    Grey images of 16 bits are scaled, where Pillow alone would clip them to white. Transparency is dropped, as timm and
    torchvision do.

    Raises:
        ValueError: Its values have no known range: whole numbers of 32 bits and floating point.
    """
    image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image = _scaled(image)
    elif image.mode in ("I", "F"):
        kind = "whole numbers of 32 bits" if image.mode == "I" else "floating point numbers"
        raise ValueError(
            f"expected an image of 8 or 16 bits, got {kind} (Pillow's mode {image.mode}), "
            f"whose black and white are not known; scale it and save it with 8 bits"
        )
    elif "transparency" in image.info:
        # Pillow would warn that these colours can be told apart only with their transparency
        image.info.pop("transparency")
    return image if image.mode == mode else image.convert(mode)


def _scaled(image: Image.Image) -> Image.Image:
    """Scale a grey image of 16 bits, 0..65535 (12 bits: 0..4095), to 0..255."""
    tags = getattr(image, "tag_v2", {})
    largest = 4095 if tags.get(_TIFF_BITS, (16,)) in ((12,), 12) else 65535
    values = np.asarray(image).astype(np.uint32)
    scaled = ((values * 255 + largest // 2) // largest).clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - scaled if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO else scaled)
