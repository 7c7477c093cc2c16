"""The splits of a data set: labels at once, images by index, and errors that name the file."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor

from ftbc_pl.data.classes import UNLABELLED, class_names, empty_folders, no_images, number, wrapping
from ftbc_pl.data.decode import decode
from ftbc_pl.data.folders import FolderFiles
from ftbc_pl.data.listing import Files
from ftbc_pl.data.tars import TarFiles

__all__ = ["FileSource", "Source", "check_disjoint", "open_files", "same_classes", "split_path"]


class Source(ABC):
    """One split of a data set.

    Attributes:
        title: What to call it in a message.
        mode: Pillow's mode for the images, `RGB` or `L`.
        labels: Classes `(N,)`, −1 for images without one.
        class_to_idx: Numbers of the classes by their names, where these are known.
        names: Names of the images' files, where they have any.
    """

    title: str
    mode: str
    labels: Tensor
    class_to_idx: dict[str, int] | None
    names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_to_idx) if self.class_to_idx else int(self.labels.max()) + 1

    def image(self, index: int) -> Image.Image:
        """Decode one image.

        Raises:
            RuntimeError: The image is damaged, gone or of a kind without a range of values; names its file.
        """
        try:
            return self._image(index)
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            name = self._name(index)
            raise RuntimeError(
                f"can't read image {index}{f' ({name})' if name else ''} of {self.title}: {error}; "
                f"replace it or take it out of the data set"
            ) from error

    @abstractmethod
    def _image(self, index: int) -> Image.Image:
        """Decode one image, with whatever error there is."""

    def _name(self, index: int) -> str | None:
        return self.names[index] if self.names is not None else None


class FileSource(Source):
    """The images in a folder or tar file of class folders.

    What is no image, or lies in no class folder, is left out with a warning that counts it.

    Raises:
        FileNotFoundError: There is no image.
        ValueError: No image has a class.
    """

    def __init__(
        self,
        files: Files,
        mode: str,
        known: Sequence[str] = (),
        unlabelled: bool = False,
        num_classes: int | None = None,
    ) -> None:
        """Name the files.

        Args:
            files: The files.
            mode: Pillow's mode for the images, `RGB` or `L`.
            known: Names of the classes, where they are known.
            unlabelled: Whether images without a class are kept, with the label −1.
            num_classes: Number of classes; where the folders without an image make up this number, they are classes
                too.
        """
        self.files, self.mode, self.title = files, mode, files.title
        if not files.names:
            raise no_images(files, files.left_out)
        depth = wrapping(files, known) if isinstance(files, TarFiles) else 0
        classes = class_names(files, depth)
        self.class_to_idx = number(classes)
        if not self.class_to_idx and not unlabelled:
            raise ValueError(
                f"expected a folder for each class in {files.title}, got {len(files.names)} images in none "
                f"(such as {files.names[0]}); sort them into folders named as their classes"
            )
        empty = empty_folders(files, depth)
        if num_classes == len(self.class_to_idx) + len(empty):
            self.class_to_idx = number([*classes, *(folder.rpartition("/")[2] for folder in empty)])
        elif not known:
            for folder in empty:
                files.left_out.add("folders without an image", folder)
        kept = [index for index, name in enumerate(classes) if unlabelled or name is not None]
        for index, name in enumerate(classes):
            if name is None and not unlabelled:
                files.left_out.add("images without a class", files.names[index])
        self._places = kept
        self.names = [files.names[index] for index in kept]
        self.labels = torch.tensor([self.class_to_idx.get(classes[index] or "", UNLABELLED) for index in kept])
        if len(files.left_out):
            rank_zero_warn(f"read {len(kept)} images in {files.title} and left out {files.left_out}")

    def numbered(self, known: Mapping[str, int]) -> Tensor:
        """Return the labels by other numbers of the classes; −1 for classes that are not among these."""
        number_of = torch.tensor([known.get(name, UNLABELLED) for name in self.class_to_idx or ()] + [UNLABELLED])
        return number_of[self.labels]

    def _image(self, index: int) -> Image.Image:
        with self.files.open(self._places[index]) as file:
            return decode(file, self.mode)


def split_path(root: Path, split: str, cure: str = "") -> Path:
    """Return the folder or tar file of a split.

    Args:
        root: Folder of the data set.
        split: Name of the split.
        cure: What to do where it is not there.

    Raises:
        FileNotFoundError: There is none; says what there is.
    """
    for path in (root / split, root / f"{split}.tar"):
        if path.is_dir() or (path.is_file() and path.suffix == ".tar"):
            return path
    if not root.is_dir():
        raise FileNotFoundError(f"expected the folder of the data set at {root}, found none; correct data.root")
    found = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
    raise FileNotFoundError(
        f"expected a folder or tar file named {split!r} in {root}, which holds {found}"
        f"; {cure or 'name the splits by --data.train_split, --data.test_split and --data.val_split_name'}"
    )


def open_files(path: Path, others: Sequence[Path] = ()) -> Files:
    """List the images of a folder or tar file.

    Args:
        path: The folder or tar file.
        others: Folders and tar files of the other splits, which share no image with it.

    Raises:
        ValueError: The tar file can't be read, or another split shares images with this one.
    """
    real = path.resolve()
    for other in others:
        if real == other.resolve() or real in other.resolve().parents or other.resolve() in real.parents:
            raise ValueError(
                f"expected splits that share no image, got {path} and {other}, one of which is or holds the other; "
                f"change data.train_split, data.test_split or data.val_split_name"
            )
    return FolderFiles(path, others) if path.is_dir() else TarFiles(path)


def check_disjoint(one: Source, other: Source) -> None:
    """Check that no image is reached from two splits through symbolic links.

    Raises:
        ValueError: One is.
    """
    if not isinstance(one, FileSource) or not isinstance(other, FileSource):
        return
    first, second = one.files.linked(), other.files.linked()
    shared = sorted(first.keys() & second.keys(), key=lambda key: first[key])
    if shared:
        raise ValueError(
            f"expected every image in one split only, got {len(shared)} that both {one.title} and {other.title} link "
            f"to (such as {first[shared[0]]} and {second[shared[0]]}); remove the links from one of them"
        )


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
    number_of = torch.zeros(len(source.class_to_idx), dtype=torch.int64)
    for name, index in source.class_to_idx.items():
        number_of[index] = train.class_to_idx[name]
    source.labels = torch.where(source.labels < 0, UNLABELLED, number_of[source.labels])
    source.class_to_idx = train.class_to_idx
