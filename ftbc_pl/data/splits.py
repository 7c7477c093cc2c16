"""The splits of an image data set, opened on first use and checked against each other."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_warn

from ftbc_pl.data.found import ROOT, SplitNames, other_splits
from ftbc_pl.data.sources import FileSource, Source, check_disjoint, open_files, same_classes, split_path
from ftbc_pl.data.timm_sources import FOLDER_NAMES, check_name, open_named
from ftbc_pl.data.transforms import lost_to_cropping

MOST_LOST = 1 / 3
"""From this fraction of the images' area on, a crop is worth a word."""
MUCH_LARGER = 2
"""From this factor on, enlarging images is worth a word."""
MEASURED = 8
"""Images whose size is looked at."""

__all__ = ["Splits"]


class Splits:
    """The splits of an image data set."""

    def __init__(
        self,
        name: str,
        root: str,
        mode: str,
        train: str,
        others: tuple[str | None, str | None],
        num_classes: int | None = None,
    ) -> None:
        """Name the splits.

        Args:
            name: What the data set is; see `ImageData`.
            root: Folder of the data set.
            mode: Pillow's mode for the images, `RGB` or `L`.
            train: Name of the split with the training images.
            others: Names of the splits for test and for validation, or None.
            num_classes: Number of classes; left out: that of the training images.
        """
        check_name(name)
        self.name, self.root, self.mode, self.train = name, root, mode, train
        self._num_classes = num_classes
        names = zip((*others, train), ("test_split", "val_split_name", "train_split"), strict=True)
        self._options = {split: option for split, option in names if split is not None}
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
        others = self._others(split)
        cure = f"--data.test_split {ROOT} takes all images in it, in class folders or not"
        cure += f"; --data.test_split {others[0]} those of {others[0]}" if others else ""
        files = open_files(split_path(Path(self.root), split, cure))
        source = FileSource(files, self.mode, list(known), unlabelled=True)
        source.labels = source.numbered(known)
        return source

    def warn_of_cropping(self, split: str, input_size: tuple[int, int, int]) -> None:
        """Warn once where a network with this input (channels, height, width) gets much less than the whole images."""
        if (split, input_size) in self._measured:
            return
        self._measured.add((split, input_size))
        source = self.source(split)
        lost = lost_to_cropping(_some_sizes(source), input_size)
        if lost > MOST_LOST:
            rank_zero_warn(
                f"{lost:.0%} of the area of the images in {source.title} is cut off to fit the network's input of "
                f"{input_size[1]}×{input_size[2]} pixels; give data.input_size a height and a width in the proportions "
                f"of the images ([16, 64], say) to keep it"
            )

    def in_words(
        self, found: SplitNames, channels: int, kept: int, input_size: tuple[int, int, int] | None, trains: bool
    ) -> str:
        """What is in the data set, in one line, with whether its images are enlarged by much.

        Args:
            found: Which split is for what.
            channels: Channels of the images as they are read.
            kept: Number of images to train on.
            input_size: Channels, height and width of the network's input; None: it was chosen for these images.
            trains: Whether it is for a training.
        """
        source = self.source(self.train)
        held_out = len(source) - kept
        line = found.in_words(self.root, self.class_names() or [], channels, len(source), held_out, trains)
        sizes = [] if input_size is None else _some_sizes(source)
        width, height = (max(side) for side in zip(*sizes, strict=True)) if sizes else (0, 0)
        if input_size is None or MUCH_LARGER * width > input_size[2] or MUCH_LARGER * height > input_size[1]:
            return line
        side = width if width == height else f"[{height},{width}]"
        return (
            f"{line} Images of {width}×{height} pixels are enlarged to {input_size[2]}×{input_size[1]}, which takes "
            f"longer; --data.input_size {side} keeps them."
        )

    def _others(self, split: str) -> list[str]:
        """Folders and tar files that may be meant where a split is not there, those that have a role first."""
        if self.train == ROOT:
            return []  # they are classes
        used = [self.train] if self._options.get(split) == "test_split" else self._options
        return sorted(other_splits(Path(self.root), *used), key=lambda name: name not in self._options)

    def _cure(self, split: str) -> str:
        """What to do where a split is not there."""
        option, others = f"--data.{self._options[split]}", self._others(split)
        if others:
            return f"name another, as in {option} {others[0]}"
        if split == self.train:
            return f"name the one that holds the class folders by {option}"
        if self.train == ROOT:
            return "move the class folders into train/, and those with test images into test/"
        return f"put images into {split}/, or name their folder by {option}"

    def _open(self, split: str, known: list[str]) -> Source:
        if not self.in_files:
            return open_named(self.name, self.root, split, self.mode)
        root = Path(self.root)
        path = split_path(root, split, self._cure(split))
        others = []
        for other in self._options.keys() - {split}:
            with suppress(FileNotFoundError):  # not every stage needs every split
                others.append(split_path(root, other))
        # a class without an image in another split is nothing unusual
        num_classes = self._num_classes if split == self.train else None
        return FileSource(open_files(path, others), self.mode, known, num_classes=num_classes)


def _some_sizes(source: Source) -> list[tuple[int, int]]:
    """Width and height in pixels of a few images."""
    places = torch.linspace(0, len(source) - 1, min(MEASURED, len(source))).long().tolist()
    return [source.image(place).size for place in places]


def _some(classes: dict[str, int] | None) -> str:
    names = list(classes or ())
    return f" ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})" if names else ""
