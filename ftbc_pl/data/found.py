"""Which folder of a data set is which split, where that is not said, and whether its images are grey."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image

from ftbc_pl.data.listing import image_suffixes, is_hidden, natural_key, suffix

TRAIN, VALIDATION, TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
ROOT = "."  # the split that is the whole folder
HELD_OUT = 0.1
SHOWN = 5  # names of classes in a line
LOOKED_AT = 8
"""Images whose kind is looked at."""
GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "F")
"""Pillow's modes of images without colours."""

__all__ = ["HELD_OUT", "ROOT", "SplitNames", "are_grey", "find_splits", "has_training", "other_splits"]


@dataclass(frozen=True)
class SplitNames:
    """The splits of a data set in folders.

    Attributes:
        train: The one with the training images.
        test: The one with the test images, which need not be there.
        val: The one with the validation images; None: they are held out from the training images.
        has_test: Whether `test` is there.
    """

    train: str
    test: str
    val: str | None
    has_test: bool

    @property
    def names(self) -> tuple[str, str, str | None]:
        """Those for training, test and validation."""
        return self.train, self.test, self.val

    def in_words(
        self, root: str, classes: Sequence[str], channels: int, images: int, held_out: int, trains: bool
    ) -> str:
        """One line that says what was found and what each split is for.

        Args:
            root: Folder of the data set.
            classes: Names of the classes.
            channels: Channels of the images as they are read.
            images: Number of images in the split for training.
            held_out: Number of these that are held out for validation.
            trains: Whether it is for a training.
        """
        names = ", ".join(classes[:SHOWN]) + (", …" if len(classes) > SHOWN else "")
        kind = "colour" if channels == 3 else "grey"
        train = f"{images:,} {kind} images" + ("" if self.train == ROOT else f" in {_named(self.train)}")
        val = self._validation(held_out, "to choose the best epoch and measure" if trains else "to measure")
        return f"{root}: {len(classes)} classes ({names}); {train}{' to train on' * trains}; {val}; {self._test}."

    def _validation(self, held_out: int, purpose: str) -> str:
        purpose = f"{purpose} the accuracy on"
        if self.val is not None:
            return f"{_named(self.val)} {purpose}"
        return f"{held_out:,} of them held out {purpose}" if held_out else "no validation images"

    @property
    def _test(self) -> str:
        if self.has_test:
            return f"{_named(self.test)} for test and predict"
        if self.train == ROOT:
            return "no test images (for some, move the class folders into train/ and others into test/)"
        if self.val is None:
            return "no test images (only test and predict need some, in test/)"
        instead = f"--data.test_split {self.val} keeps {_named(self.val)} for the test, and holds out training images"
        return f"no test images ({instead})"


def find_splits(
    root: Path | None,
    train: str | None = None,
    test: str | None = None,
    val: str | None = None,
    holds_out: bool = False,
) -> SplitNames:
    """Find the splits that are not named, by the usual names of their folders or tar files.

    A folder that holds no split, but folders of images, is one of classes: all of it is the training images.

    Args:
        root: Folder of the data set; None: it is none of folders, and has the usual names.
        train: Name of the split with the training images, if it is known.
        test: Name of the split with the test images, if it is known.
        val: Name of the split with the validation images, if it is known.
        holds_out: Whether validation images are to be held out from the training images even where they have a split.
    """
    there = {} if root is None else _names(root)
    found_train, found_test = train or _first(TRAIN, there), test or _first(TEST, there)
    named = [name.removesuffix(".tar") for name in (train, test, val) if name is not None]
    others = {name: actual for name, actual in there.items() if actual not in named}
    found_val = val or (None if holds_out else _first(VALIDATION, others))
    if found_train is None:
        none_is_split = not (found_test or found_val)
        found_train = ROOT if root is not None and none_is_split and _holds_classes(root) else TRAIN[0]
    has_test = found_test is not None and found_test.removesuffix(".tar") in there.values()
    return SplitNames(found_train, found_test or TEST[0], found_val, has_test)


def has_training(root: Path, train: str | None = None, test: str | None = None) -> bool:
    """Whether a data set in folders has its split for training, which images that are only predicted need not have.

    Args:
        root: Folder of the data set.
        train: Name of the split with the training images, if it is known.
        test: Name of the split with the test images, if it is known.
    """
    found = find_splits(root, train, test).train
    return any((root / name).exists() for name in (found, f"{found}.tar"))


def other_splits(root: Path, *used: str | None) -> list[str]:
    """Names of the folders and tar files of a data set that are none of the splits in use.

    Args:
        root: Folder of the data set.
        *used: Names of the splits in use.
    """
    return [name for name in sorted(_names(root).values()) if name not in used and f"{name}.tar" not in used]


def are_grey(root: Path, train: str | None = None) -> bool:
    """Whether the training images of a data set in folders have no colours, by the first images of some classes.

    Args:
        root: Folder of the data set.
        train: Name of the split with the training images, if it is known.
    """
    folder = root / find_splits(root, train).train
    if not folder.is_dir():
        return False
    modes = []
    for path in islice(_some_images(folder), LOOKED_AT):
        try:
            with Image.open(path) as image:
                modes.append(image.mode)
        except OSError:
            return False  # said where the image is read
    return bool(modes) and all(mode in GREY for mode in modes)


def _named(split: str) -> str:
    return split if "/" in split or split == ROOT else f"{split}/"


def _names(root: Path) -> dict[str, str]:
    """The folders and tar files in a folder by their names in small letters."""
    if not root.is_dir():
        return {}
    found = [path.name for path in root.iterdir() if path.is_dir() and not is_hidden(path.name)]
    found += [path.stem for path in root.iterdir() if path.suffix == ".tar"]
    return {name.lower(): name for name in sorted(found, reverse=True)}


def _first(usual: tuple[str, ...], there: dict[str, str]) -> str | None:
    return next((there[name] for name in usual if name in there), None)


def _holds_classes(root: Path) -> bool:
    return root.is_dir() and sum(any(True for _ in _images(path)) for path in _folders(root)[:LOOKED_AT]) > 1


def _folders(root: Path) -> list[Path]:
    return sorted(
        (path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name)),
        key=lambda path: natural_key(path.name),
    )


def _some_images(folder: Path) -> Iterator[Path]:
    """The first images of the first class, of the last one, of the one after the first, and so on."""
    classes = _folders(folder)
    order = [path for pair in zip(classes, reversed(classes), strict=True) for path in pair][: len(classes)]
    return (image for path in order for image in islice(_images(path), 2))


def _images(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if suffix(path.name) in image_suffixes() and not is_hidden(path.name):
            yield path
