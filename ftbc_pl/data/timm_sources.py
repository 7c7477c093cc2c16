"""The data sets that timm opens by name: torchvision's, Hugging Face's, webdatasets."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.dataset_factory import create_dataset

from ftbc_pl.data.decode import decode, to_mode
from ftbc_pl.data.sources import Source

FOLDER_NAMES = ("", "folder")
STREAMS = ("wds/", "hfids/", "tfds/")
CLASSES = {"torch/cifar10": 10, "torch/cifar100": 100, "torch/mnist": 10, "torch/kmnist": 10, "torch/fashion_mnist": 10}

_CLASS_NAMES = ("class_to_idx", "class_name_to_idx")
_PREFIXES = ("torch", "hfds", "hfids", "tfds", "wds")

__all__ = ["CLASSES", "FOLDER_NAMES", "STREAMS", "TimmSource", "check_name", "converted", "open_named", "open_stream"]


def check_name(name: str) -> None:
    """Check that timm has a reader for a name.

    Raises:
        ValueError: It would take the data set for a folder, whatever its name.
    """
    prefix, slash, _ = name.partition("/")
    if name not in FOLDER_NAMES and not (slash and prefix.lower() in _PREFIXES):
        raise ValueError(
            f"expected data.name to be folder, or a name that begins with {', '.join(f'{p}/' for p in _PREFIXES)}, "
            f"got {name!r}"
        )


def open_named(name: str, root: str, split: str, mode: str, **options: Any) -> "TimmSource":
    """Open one split of a data set through `timm.data.create_dataset`.

    Args:
        name: timm's name.
        root: Folder of the data set.
        split: Name of the split.
        mode: Pillow's mode for the images, `RGB` or `L`.
        **options: Further arguments of `create_dataset`.

    Raises:
        FileNotFoundError: The data is not there; says what is and what to do.
        ValueError: timm does not know the data set.
    """
    try:
        dataset = create_dataset(name, root=root, split=split, **options)
    except (AssertionError, RuntimeError) as error:
        # torchvision and timm report data that is absent, incomplete or unknown in this way
        if "Unknown torchvision dataset" in str(error):
            raise ValueError(f"expected data.name to be one that timm's create_dataset knows, got {name!r}") from error
        raise FileNotFoundError(
            f"expected the images of {name}, split {split}, in {root}: {error}; "
            f"correct data.root, or set data.download to true for data sets that can be downloaded"
        ) from error
    return TimmSource(dataset, mode, f"{name}, split {split}, in {root}")


def open_stream(name: str, root: str, split: str, mode: str) -> Any:
    """Open a data set that can only be read from beginning to end, such as `wds/…`; every process reads all of it.

    Raises:
        FileNotFoundError: The data set or the package that reads it is not there.
    """
    try:
        # TensorFlow decodes to a mode; Pillow's own conversion, which timm calls for the others, clips 16 bits to white
        mode = mode if name.lower().startswith("tfds/") else ""
        stream = create_dataset(name, root=root, split=split, input_img_mode=mode, is_training=False)
    except (AssertionError, RuntimeError, ImportError, OSError, KeyError) as error:
        raise FileNotFoundError(
            f"expected {name}, split {split}, in {root}, but: {error}; correct data.root"
        ) from error
    for attribute, value in (("dist_rank", 0), ("dist_num_replicas", 1)):
        if hasattr(stream.reader, attribute):
            setattr(stream.reader, attribute, value)
    return stream


def converted(stream: Iterable[tuple[Image.Image, int]], mode: str, name: str) -> Iterator[tuple[Image.Image, int]]:
    """Return the images of a stream in Pillow's `mode`, `RGB` or `L`, and their classes.

    Raises:
        ValueError: The values of an image have no known range.
    """
    for place, (image, label) in enumerate(stream):
        try:
            yield to_mode(image, mode), label
        except (OSError, ValueError) as error:
            raise ValueError(f"can't read image {place} of {name}: {error}") from error


class TimmSource(Source):
    """One split of a data set that timm has opened.

    timm's own reading of an image takes the next one in the place of one that is damaged; this says so instead.
    """

    def __init__(self, dataset: Any, mode: str, title: str) -> None:
        self.dataset, self.mode, self.title = dataset, mode, title
        self.reader = reader = getattr(dataset, "reader", None)
        names = next((getattr(reader or dataset, key) for key in _CLASS_NAMES if hasattr(reader or dataset, key)), None)
        self.class_to_idx = dict(names) if names else None
        self.labels = torch.as_tensor(np.asarray(_labels(reader, dataset)), dtype=torch.int64)

    def _image(self, index: int) -> Image.Image:
        if self.reader is None:
            return to_mode(self.dataset[index][0], self.mode)
        with self.reader[index][0] as file:
            return decode(file, self.mode)

    def _name(self, index: int) -> str | None:
        return None if self.reader is None else str(self.dataset.filename(index))


def _labels(reader: Any, dataset: Any) -> Any:
    if reader is None:
        return dataset.targets
    if hasattr(reader, "targets"):
        return reader.targets
    if hasattr(reader, "iter_targets"):
        return list(reader.iter_targets())
    return [label for _, label in reader.samples]
