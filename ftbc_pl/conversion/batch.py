"""Images and labels of a batch, in whatever form a loader hands it out; the one place that knows these forms."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

_IMAGES = ("image", "images", "pixel_values", "img", "imgs", "input", "inputs", "x", "data")
_LABELS = ("label", "labels", "target", "targets", "y", "class", "classes", "mask", "masks")
_FORMS = "images, (images, labels, ...) or a dict such as {'image': images, 'label': labels}"


def to_images(batch: Any) -> Tensor:
    """Images of a batch.

    Args:
        batch: Images (B, ...); a sequence that begins with them; or a dict that names them.

    Raises:
        TypeError: There are no images in it, they are not of a floating-point type, or this is one item of a data set.
    """
    batch = _named(batch)
    if isinstance(batch, Mapping):
        images = _value(batch, _IMAGES, "images")
    else:
        images = batch[0] if isinstance(batch, Sequence) and len(batch) and not isinstance(batch, str) else batch
    if not isinstance(images, Tensor):
        raise TypeError(f"Expected batches of {_FORMS}, got {_described(batch)}.")
    if isinstance(batch, tuple) and len(batch) == 2 and isinstance(batch[1], int) and images.ndim == 3:
        raise TypeError(
            "Expected batches, got one image with its label: this is a data set; hand in a loader of it, "
            "torch.utils.data.DataLoader(dataset, batch_size=128)."
        )
    if not images.is_floating_point():
        advice = (
            "use real numbers"
            if images.is_complex()
            else "scale and normalise them as for the training (images.float() / 255, say)"
        )
        raise TypeError(f"Expected images of a floating-point type, got {_dtype(images)}: {advice}.")
    return images


def first_batches(batches: Iterable[Any], count: int) -> list[Tensor]:
    """Images of the first `count` batches, as `to_images` finds them.

    Raises:
        TypeError: This is one batch, or batches are of no form that is known.
        ValueError: A batch is empty.
    """
    if isinstance(batches, Tensor | Mapping):
        raise TypeError(f"Expected a loader or a list of batches, got {_described(batches)}: put it into a list.")
    found = [to_images(batch) for batch in islice(batches, count)]
    if not all(images.ndim and len(images) for images in found):
        raise ValueError("Expected images in every batch, got a batch without any: check the loader.")
    return found


def number_of_batches(loader: Any) -> float:
    """Number of batches; infinite where the loader does not know, as for a data set that is a stream."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return math.inf


def images_and_targets(batch: Any) -> tuple[Tensor, Any]:
    """Images of a batch, and what stands beside them as their labels, whatever that is.

    Args:
        batch: A sequence that begins with images (B, ...) and labels, whatever follows; or a dict that names them.

    Raises:
        TypeError: There are no images or no labels in it, or the images are not of a floating-point type.
    """
    images = to_images(batch)
    batch = _named(batch)
    if isinstance(batch, Mapping):
        return images, _value(batch, _LABELS, "labels")
    if not isinstance(batch, Tensor) and len(batch) > 1:
        return images, batch[1]
    raise TypeError("Expected batches of images and labels, got images alone: use a loader that gives labels too.")


def images_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    """Images and labels of a batch, as `images_and_targets` finds them.

    Raises:
        TypeError: There are no images or no labels in it, or they are no tensors.
    """
    images, labels = images_and_targets(batch)
    if isinstance(labels, Mapping):
        labels = _value(labels, _LABELS, "labels")
    if isinstance(labels, list | tuple) and all(isinstance(label, int | float) for label in labels):
        labels = torch.tensor(labels)
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"Expected labels as a tensor, got {_described(labels)} in a batch of {_described(_named(batch))}."
        )
    return images, labels


def finite_images(batch: Any) -> Tensor:
    """Images (B, ...) of a batch of any form, checked as `check_images` does."""
    images = to_images(batch)
    check_images(images)
    return images


def check_images(images: Tensor) -> None:
    """Check that images (B, ...) are finite.

    Raises:
        ValueError: Some are not: neurons would not fire, and the images count as those of some class.
    """
    if not bool(images.isfinite().all()):
        broken = (~images.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"NaN or infinite values in {len(broken)} of {len(images)} images of a batch (the first is number "
            f"{broken[0]}): check the data and its normalisation."
        )


def _named(batch: Any) -> Any:
    """The batch as a dict, where its parts have names that are known."""
    if isinstance(batch, list | tuple) and len(batch) == 1 and isinstance(batch[0], Mapping):
        return batch[0]
    fields = getattr(batch, "_fields", ())  # a named tuple may hold its labels first
    return batch._asdict() if any(name in _IMAGES for name in fields) else batch


def _value(batch: Mapping[Any, Any], keys: Sequence[str], what: str) -> Any:
    found = {str(key).lower(): value for key, value in batch.items()}
    for key in keys:
        if key in found:
            return found[key]
    raise TypeError(
        f"Expected {what} under one of the keys {', '.join(keys)}, got {', '.join(map(str, batch)) or 'none'}: "
        f"hand in batches of {_FORMS}."
    )


def _described(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return "a dict of " + ", ".join(f"{key}: {type(value).__name__}" for key, value in batch.items())
    if isinstance(batch, list | tuple):
        return f"a {type(batch).__name__} of ({', '.join(type(part).__name__ for part in batch[:4])})"
    return type(batch).__name__


def _dtype(images: Tensor) -> str:
    return str(images.dtype).removeprefix("torch.")
