"""The splits of a data set as timm opens them: labels at once, images by index, and errors that name the file."""

import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.dataset_factory import create_dataset
from torch import Tensor

FOLDER_NAMES = ("", "folder")
STREAMS = ("wds/", "hfids/", "tfds/")
CLASSES = {"torch/cifar10": 10, "torch/cifar100": 100, "torch/mnist": 10, "torch/kmnist": 10, "torch/fashion_mnist": 10}

__all__ = ["CLASSES", "STREAMS", "Source", "open_source", "open_stream", "same_classes"]


def open_source(name: str, root: str, split: str, mode: str, **options: Any) -> "Source":
    """Open one split of a data set through `timm.data.create_dataset`.

    Args:
        name: timm's name; empty or `folder` for a folder, or a tar file, of class folders.
        root: Folder of the data set.
        split: Name of the split; for folders that of a folder or tar file in `root`.
        mode: Pillow's mode for the images, `RGB` or `L`.
        **options: Further arguments of `create_dataset`.

    Raises:
        FileNotFoundError: The data is not there; says what is and what to do.
        ValueError: timm does not know the data set.
    """
    try:
        if name in FOLDER_NAMES:
            path = _folder(Path(root), split)
            return Source(create_dataset("", root=str(path), search_split=False, **options), mode, f"{path}")
        return Source(
            create_dataset(name, root=root, split=split, **options), mode, f"{name}, split {split}, in {root}"
        )
    except (AssertionError, RuntimeError) as error:
        # torchvision and timm report data that is absent, incomplete or unknown in this way
        if "Unknown torchvision dataset" in str(error):
            raise ValueError(f"expected data.name to be one that timm's create_dataset knows, got {name!r}") from error
        raise FileNotFoundError(
            f"expected the images of {name or 'a folder of classes'}, split {split}, in {root}: {error}; "
            f"correct data.root, or set data.download to true for data sets that can be downloaded"
        ) from error


def open_stream(name: str, root: str, split: str, mode: str) -> Any:
    """Open a data set that can only be read from beginning to end, such as `wds/…`; every process reads all of it.

    Raises:
        FileNotFoundError: The data set or the package that reads it is not there.
    """
    try:
        stream = create_dataset(name, root=root, split=split, input_img_mode=mode, is_training=False)
    except (AssertionError, RuntimeError, ImportError, OSError, KeyError) as error:
        raise FileNotFoundError(
            f"expected {name}, split {split}, in {root}, but: {error}; correct data.root"
        ) from error
    for attribute, value in (("dist_rank", 0), ("dist_num_replicas", 1)):
        if hasattr(stream.reader, attribute):
            setattr(stream.reader, attribute, value)
    return stream


def _folder(root: Path, split: str) -> Path:
    for path in (root / split, root / f"{split}.tar"):
        if path.is_dir() or (path.is_file() and path.suffix == ".tar"):
            return path
    if not root.is_dir():
        raise FileNotFoundError(f"expected the folder of the data set at {root}, found none; correct data.root")
    found = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
    raise FileNotFoundError(
        f"expected a folder or tar file of class folders named {split!r} in {root}, which holds {found}; "
        f"name the splits by data.train_split, data.test_split and data.val_split_name"
    )


class Source:
    """One split: `labels` `(N,)`, the names of the classes where they are known, and the images by index."""

    def __init__(self, dataset: Any, mode: str, title: str) -> None:
        self.dataset, self.mode, self.title = dataset, mode, title
        reader = getattr(dataset, "reader", None)
        self.reader = reader
        names = next((getattr(reader or dataset, key) for key in _CLASS_NAMES if hasattr(reader or dataset, key)), None)
        self.class_to_idx: dict[str, int] | None = dict(names) if names else None
        self.labels: Tensor = torch.as_tensor(np.asarray(_labels(reader, dataset)), dtype=torch.int64)
        self._process = os.getpid()
        weakref.finalize(self, _close_archives, reader)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_to_idx) if self.class_to_idx else int(self.labels.max()) + 1

    def image(self, index: int) -> Image.Image:
        """Decode one image.

        Raises:
            RuntimeError: The image is damaged or gone; names its file. timm's own reading would take the next image in
                its place.
        """
        if self._process != os.getpid():
            # a file opened before the worker was forked shares its position with the other processes
            _close_archives(self.reader)
            self._process = os.getpid()
        try:
            if self.reader is None:
                image: Image.Image = self.dataset[index][0]
                return image.convert(self.mode)
            with self.reader[index][0] as file:
                return Image.open(file).convert(self.mode)
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            name = "" if self.reader is None else f" ({self.dataset.filename(index)})"
            raise RuntimeError(
                f"can't read image {index}{name} of {self.title}: {error}; replace it or take it out of the data set"
            ) from error

    def close(self) -> None:
        """Close the archives that reading has opened; reading opens them again."""
        _close_archives(self.reader)


_CLASS_NAMES = ("class_to_idx", "class_name_to_idx")


def _labels(reader: Any, dataset: Any) -> Any:
    if reader is None:
        return dataset.targets
    if hasattr(reader, "targets"):
        return reader.targets
    if hasattr(reader, "iter_targets"):
        return list(reader.iter_targets())
    return [label for _, label in reader.samples]


def _close_archives(reader: Any) -> None:
    states = getattr(reader, "tar_state", None)
    for state in states.values() if isinstance(states, dict) else [states] if states else []:
        for part in (*state.children.values(), state):
            if part.tf is not None:
                part.tf.close()
                part.reset()


def same_classes(source: Source, train: Source) -> None:
    """Number the labels of `source` as in `train`, in place, by the names of their classes.

    Raises:
        ValueError: `source` has a class that the training images don't have.
    """
    if source.class_to_idx is None or train.class_to_idx is None or source.class_to_idx == train.class_to_idx:
        return
    unknown = sorted(set(source.class_to_idx) - set(train.class_to_idx))
    if unknown:
        raise ValueError(
            f"expected the classes of {train.title} in {source.title}, "
            f"got {len(unknown)} others ({', '.join(unknown[:5])}); remove their folders"
        )
    number = torch.zeros(len(source.class_to_idx), dtype=torch.int64)
    for name, index in source.class_to_idx.items():
        number[index] = train.class_to_idx[name]
    source.labels = number[source.labels]
    source.class_to_idx = train.class_to_idx
