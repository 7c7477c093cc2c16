"""Which files of a folder or a tar file are images, in which order, and what is left out."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cache
from pathlib import PurePosixPath
from typing import BinaryIO

from PIL import Image

HIDDEN = frozenset({"__MACOSX", "@eaDir", "lost+found"})
"""Folders that systems put beside images; besides them all that begins with a dot is hidden."""

ANNOTATIONS = "val_annotations.txt"
"""Where Tiny-ImageNet states the classes of its validation images."""

# Pillow knows the names of these files, but has no decoder of its own for them, or runs another program.
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})

__all__ = ["ANNOTATIONS", "HIDDEN", "Files", "LeftOut", "image_suffixes", "is_hidden", "natural_key", "suffix"]


@cache
def image_suffixes() -> frozenset[str]:
    """Return the endings of the files that Pillow reads, in lower case and with their dot."""
    known = Image.registered_extensions()
    return frozenset(end for end, kind in known.items() if kind in Image.OPEN and kind not in _NOT_DECODED)


def suffix(name: str) -> str:
    """Return the ending of a file's name in lower case, with its dot."""
    return PurePosixPath(name).suffix.lower()


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name (without its folders) is no part of a data set."""
    return name.startswith(".") or name in HIDDEN


def natural_key(path: str) -> tuple[list[int | str], str]:
    """Return the key by which images and classes are in timm's order: 2 before 10, capitals as small letters.

    What is the same to that order is ordered by its spelling, so that every process has the same order.
    """
    parts = re.split(r"(\d+)", path.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path


class LeftOut:
    """Counts what is not read, by reason, with an example of each."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, str] = {}

    def add(self, reason: str, name: str) -> None:
        """Count the file or folder `name`; `reason` completes the sentence '12 …'."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        self._examples.setdefault(reason, name)

    def add_file(self, name: str) -> None:
        """Count a file whose ending is none of an image."""
        kind = suffix(name)
        self.add(f"{kind} files" if kind else "files without an ending", name)

    def __len__(self) -> int:
        return sum(self._counts.values())

    def __str__(self) -> str:
        parts = (f"{count} {reason} (such as {printable(self._examples[reason])})" for reason, count in self._sorted())
        return "; ".join(parts)

    def _sorted(self) -> list[tuple[str, int]]:
        return sorted(self._counts.items(), key=lambda item: -item[1])


def printable(name: str) -> str:
    """Return a file's name as text that any terminal takes."""
    return name.encode("utf-8", "replace").decode().replace("\n", "?")


class Files(ABC):
    """The images in a folder or a tar file.

    Attributes:
        title: The path of the folder or the tar file.
        names: Paths of the images inside it, with `/` between folders, in timm's order.
        folders: Paths of the folders; in a folder only of those right in it.
        left_out: What is there and not read.
        annotations: What the files named `val_annotations.txt` hold, by their paths.
    """

    title: str
    names: list[str]
    folders: set[str]
    left_out: LeftOut
    annotations: dict[str, bytes]

    @abstractmethod
    def open(self, index: int) -> BinaryIO:
        """Open an image; every call opens the file anew, so that processes share nothing."""

    @abstractmethod
    def linked(self) -> dict[object, str]:
        """Return what the images that are reached through symbolic links are, and their names."""


def join(folder: str, names: Iterable[str]) -> str:
    """Return a path inside an archive or folder, with `/` between its parts."""
    return "/".join(part for part in (folder, *names) if part)
