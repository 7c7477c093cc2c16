"""The images below a folder, each once, however symbolic links lead."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from ftbc_pl.data.listing import ANNOTATIONS, Files, LeftOut, image_suffixes, is_hidden, join, natural_key, suffix

_MAX_ANNOTATIONS = 2**26

Identity = tuple[int, int]

__all__ = ["FolderFiles"]


class FolderFiles(Files):
    """The images in a folder and its subfolders.

    Symbolic links are followed, but what has been read already is not read again: a link that leads back, or two that
    lead to the same image, count it once.

    Raises:
        ValueError: A link leads to the images of another role.
        PermissionError: A folder can't be read.
    """

    def __init__(self, root: Path, others: Iterable[Path] = ()) -> None:
        """List the files.

        Args:
            root: The folder.
            others: Folders with the images of other roles.
        """
        self.root, self.title = root, str(root)
        self.left_out = LeftOut()
        self.annotations = {}
        self.folders = set()
        self._others = [os.path.realpath(other) for other in others]
        self._found: list[str] = []
        self._links: list[str] = []
        self._linked_from = 0
        real = Path(os.path.realpath(root))
        self._folders = {_identity(folder) for folder in (real, *real.parents)}
        self._walk("")
        self._follow_links()
        # stable and by the whole path, as timm sorts
        self.names = sorted(self._found, key=natural_key)
        self._linked: dict[object, str] = {_identity(root / name): name for name in self._found[self._linked_from :]}

    def open(self, index: int) -> BinaryIO:
        """Open an image."""
        return (self.root / self.names[index]).open("rb")

    def linked(self) -> dict[object, str]:
        """Return identities on the disk of the images that are reached through symbolic links, and their names."""
        return self._linked

    def _walk(self, start: str) -> None:
        """List the files below a folder and put symbolic links aside."""
        waiting = [start]
        while waiting:
            folder = waiting.pop()
            try:
                with os.scandir(self.root / folder) as entries:
                    visible = [entry for entry in entries if not is_hidden(entry.name)]
            except OSError as error:
                raise PermissionError(
                    f"can't read the folder {self.root / folder}: {error.strerror}; correct its permissions"
                ) from error
            for entry in visible:
                name = join(folder, [entry.name])
                if entry.is_symlink():
                    self._links.append(name)
                elif entry.is_dir():
                    if self._is_new_folder(name):
                        waiting.append(name)
                        if not folder:
                            self.folders.add(name)
                elif entry.is_file():
                    self._add(name)
                else:
                    self.left_out.add("pipes, sockets or devices", name)

    def _is_new_folder(self, name: str) -> bool:
        identity = _identity(self.root / name)
        if identity in self._folders:
            self.left_out.add("links to folders that are read already", name)
            return False
        self._folders.add(identity)
        return True

    def _add(self, name: str) -> None:
        if suffix(name) in image_suffixes():
            self._found.append(name)
        elif name.rpartition("/")[2] == ANNOTATIONS:
            with (self.root / name).open("rb") as file:
                self.annotations[name] = file.read(_MAX_ANNOTATIONS)
        else:
            self.left_out.add_file(name)

    def _follow_links(self) -> None:
        """Read what links lead to: folders first, as they may hold what links to files lead to."""
        self._linked_from = len(self._found)
        files = []
        while self._links:
            links, self._links = sorted(self._links, key=natural_key), []
            for name in links:
                path = self.root / name
                if path.is_dir():
                    self._check_role(name)
                    if self._is_new_folder(name):
                        if "/" not in name:
                            self.folders.add(name)
                        self._walk(name)
                elif path.is_file():
                    files.append(name)
                else:
                    self.left_out.add("symbolic links that lead nowhere", name)
        seen = {_identity(self.root / name) for name in self._found} if files else set()
        for name in sorted(files, key=natural_key):
            if suffix(name) in image_suffixes():
                self._check_role(name)
                identity = _identity(self.root / name)
                if identity in seen:
                    self.left_out.add("links to images that are read already", name)
                    continue
                seen.add(identity)
            self._add(name)

    def _check_role(self, name: str) -> None:
        target = os.path.realpath(self.root / name)
        if any(target == other or target.startswith(other + os.sep) for other in self._others):
            raise ValueError(
                f"expected every image in one split only, got the link {self.root / name} to {target}, "
                f"which is part of another split; remove one of them"
            )


def _identity(path: Path) -> Identity:
    status = path.stat()
    return status.st_dev, status.st_ino
