"""The splits of an image data set, opened on first use and checked against each other."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_warn

from ftbc_pl.data.sources import FileSource, Source, check_disjoint, open_files, same_classes, split_path
from ftbc_pl.data.timm_sources import FOLDER_NAMES, check_name, open_named
from ftbc_pl.data.transforms import lost_to_cropping

MOST_LOST = 1 / 3
"""From this fraction of the images' area on, a crop is worth a word."""
MEASURED = 8
"""Images whose size is looked at to know what a crop cuts off."""

__all__ = ["Splits"]


class Splits:
    """The splits of an image data set."""

    def __init__(
        self,
        name: str,
        root: str,
        mode: str,
        train: str,
        others: tuple[str | None, ...],
        num_classes: int | None = None,
    ) -> None:
        """Name the splits.

        Args:
            name: What the data set is; see `ImageData`.
            root: Folder of the data set.
            mode: Pillow's mode for the images, `RGB` or `L`.
            train: Name of the split with the training images.
            others: Names of the other splits, or None.
            num_classes: Number of classes; left out: that of the training images.
        """
        check_name(name)
        self.name, self.root, self.mode, self.train = name, root, mode, train
        self._num_classes = num_classes
        self._all = {train, *(other for other in others if other is not None)}
        self._sources: dict[str, Source] = {}
        self._measured: set[tuple[str, tuple[int, int, int]]] = set()

    def use_mode(self, mode: str) -> None:
        """Read the images in Pillow's `mode`, `RGB` or `L`, also those of splits that are open."""
        self.mode = mode
        for source in self._sources.values():
            source.mode = mode

    @property
    def in_files(self) -> bool:
        """Whether the images are files in folders or tar files."""
        return self.name in FOLDER_NAMES

    def source(self, split: str) -> Source:
        """Return a split, its classes numbered as those of the training images.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It has classes that the training images don't have, or shares images with another split.
        """
        if split not in self._sources:
            train = None if split == self.train else self.source(self.train)
            source = self._open(split, list(train.class_to_idx or ()) if train else [])
            if train is not None:
                same_classes(source, train)
            for other in self._sources.values():
                check_disjoint(other, source)
            self._sources[split] = source
        return self._sources[split]

    def training(self) -> Source:
        """Return the training images, whose classes count.

        Raises:
            ValueError: There is another number of classes than given, or a single one.
        """
        source, expected = self.source(self.train), self._num_classes
        found, names = source.num_classes, _some(source.class_to_idx)
        if expected is not None and (found != expected if self.in_files else found > expected):
            raise ValueError(
                f"expected {expected} classes (data.num_classes) in {source.title}, got {found}{names}; "
                f"correct data.num_classes, or the folders, each of which is a class"
            )
        if self.in_files and found < 2:
            raise ValueError(
                f"expected a folder for each of several classes in {source.title}, got one{names}; "
                f"name the folder that holds the class folders by data.train_split"
            )
        return source

    def class_names(self) -> list[str] | None:
        """Return the names of the classes by their numbers; None where they, or the training images, are missing."""
        try:
            numbers = self.source(self.train).class_to_idx
        except FileNotFoundError:
            return None
        return sorted(numbers, key=numbers.__getitem__) if numbers else None

    def unlabelled(self, split: str, names: Sequence[str] | None = None) -> FileSource:
        """Return the images in the files of a split, whether or not they have a class; labels are −1 where not.

        Args:
            split: Name of the split.
            names: Names of the classes by their numbers; left out: those of the training images.

        Raises:
            FileNotFoundError: There are none.
        """
        known = {name: index for index, name in enumerate(names or self.class_names() or [])}
        files = open_files(split_path(Path(self.root), split))
        source = FileSource(files, self.mode, list(known), unlabelled=True)
        source.labels = source.numbered(known)
        return source

    def warn_of_cropping(self, split: str, input_size: tuple[int, int, int]) -> None:
        """Warn once where a network with this input (channels, height, width) gets much less than the whole images."""
        if (split, input_size) in self._measured:
            return
        self._measured.add((split, input_size))
        source = self.source(split)
        places = torch.linspace(0, len(source) - 1, min(MEASURED, len(source))).long().tolist()
        lost = lost_to_cropping([source.image(place).size for place in places], input_size)
        if lost > MOST_LOST:
            rank_zero_warn(
                f"{lost:.0%} of the area of the images in {source.title} is cut off to fit the network's input of "
                f"{input_size[1]}×{input_size[2]} pixels; give data.input_size a height and a width in the proportions "
                f"of the images ([16, 64], say) to keep it"
            )

    def _open(self, split: str, known: list[str]) -> Source:
        if not self.in_files:
            return open_named(self.name, self.root, split, self.mode)
        root = Path(self.root)
        path = split_path(root, split)
        others = []
        for other in self._all - {split}:
            with suppress(FileNotFoundError):  # not every stage needs every split
                others.append(split_path(root, other))
        # a class without an image in another split is nothing unusual
        num_classes = self._num_classes if split == self.train else None
        return FileSource(open_files(path, others), self.mode, known, num_classes=num_classes)


def _some(classes: dict[str, int] | None) -> str:
    names = list(classes or ())
    return f" ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})" if names else ""
