"""How the images of a network look, which its weights were trained with: size, mean, deviation, names of classes.

timm keeps this of its pretrained weights as `pretrained_cfg`. A network that was trained here has it as `image_config`,
which goes beside saved weights and is in force when they are loaded.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

IMAGES = "images"  # where a checkpoint and a saved network say this
CLASSES = "classes"  # names of the classes by their numbers, where they are known
SEEN = "seen"  # names of the splits that the network was trained on, and whose images chose the best epoch
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "hamming", "box", "random")

__all__ = [
    "CLASSES",
    "IMAGES",
    "SEEN",
    "checked",
    "data_config",
    "images_of",
    "remember_images",
    "remembered",
    "remembered_images",
]


def images_of(network: nn.Module) -> dict[str, Any]:
    """What is known of a network's images, timm's own keys and `in_chans`; empty where nothing is."""
    config: dict[str, Any] = {key: value for key, value in _timm(network).items() if value is not None}
    recipe = getattr(network, "recipe", None)
    if config and isinstance(recipe, Mapping) and isinstance(recipe.get("in_chans"), int):
        config["in_chans"] = recipe["in_chans"]
    return config | remembered_images(network)


def remembered_images(network: nn.Module) -> dict[str, Any]:
    """What the network's weights were trained with here, or came with from a file; empty where that is not known.

    Args:
        network: An ANN, such as `snn.network` of a spiking network that was loaded.

    Returns:
        Some of `input_size` (channels, height, width), `mean` and `std` (a number per channel), `interpolation` and
        `crop_pct`: what `timm.data.create_transform` takes.
    """
    return {key: value for key, value in remembered(network).items() if key not in (CLASSES, SEEN)}


def remembered(network: nn.Module) -> dict[str, Any]:
    """The same with the names of the `classes` and of the splits `seen`, where they are known."""
    known = getattr(network, "image_config", None)
    return dict(known) if isinstance(known, Mapping) else {}


def remember_images(network: nn.Module, config: Mapping[str, Any]) -> None:
    """Let a network know what its weights were trained with.

    Args:
        network: The network.
        config: Some of `input_size` (channels, height, width), `mean` and `std` (a number per channel),
            `interpolation`, `crop_pct`, `classes`, `seen`, in what JSON can hold.
    """
    if config:
        network.image_config = dict(config)  # type: ignore[assignment]  # modules hold what they are given


def data_config(data: Any) -> dict[str, Any]:
    """What a data module says of its images, with the names of their classes; empty for other data."""
    config = dict(getattr(data, "image_config", None) or {})
    names = getattr(data, "class_names", None) if config else None
    return config | ({CLASSES: list(names)} if names else {})


def checked(config: Any) -> dict[str, Any]:
    """What a file says of its images, without what is no such thing: files are changed by people and disks."""
    if not isinstance(config, Mapping):
        return {}
    size: Any = config.get("input_size")
    if not (_numbers(size, 3) and all(isinstance(n, int) and 0 < n < 1 << 16 for n in size)):
        return {}
    found: dict[str, Any] = {"input_size": list(size)}
    mean: Any = config.get("mean")
    std: Any = config.get("std")
    if _numbers(mean, size[0]) and _numbers(std, size[0]) and all(value > 0 for value in std):
        found |= {"mean": list(mean), "std": list(std)}
    if config.get("interpolation") in _INTERPOLATIONS:
        found["interpolation"] = config["interpolation"]
    crop = config.get("crop_pct")
    if isinstance(crop, int | float) and 0 < crop <= 1:
        found["crop_pct"] = crop
    return found | {key: list(config[key]) for key in (CLASSES, SEEN) if _texts(config.get(key))}


def _timm(network: nn.Module) -> dict[str, Any]:
    config = getattr(network, "pretrained_cfg", None)
    return dict(config) if config else {}


def _texts(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(v, str) and v.isprintable() for v in values)


def _numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and len(values) == count
        and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    )
