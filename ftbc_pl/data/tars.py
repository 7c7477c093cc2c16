"""The images in an uncompressed tar file, read in place."""

import io
import tarfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from ftbc_pl.data.listing import ANNOTATIONS, Files, LeftOut, image_suffixes, is_hidden, join, natural_key, suffix

_MAX_ANNOTATIONS = 2**26
_OTHER_KINDS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK": "zip"}

__all__ = ["TarFiles"]


class _Place(NamedTuple):
    """Where an image lies in the file, and the name by which it is sorted."""

    key: str
    offset: int
    size: int


@dataclass
class _Scan:
    """What has been found in a tar file."""

    left_out: LeftOut = field(default_factory=LeftOut)
    places: dict[str, _Place] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    annotations: dict[str, bytes] = field(default_factory=dict)


class TarFiles(Files):
    """The images in a tar file, or in the tar files in it (one per class, as ImageNet's).

    An image is a range of bytes of the file, which is opened anew for each: nothing is shared between processes.

    Raises:
        ValueError: It is no tar file, is compressed, damaged or not complete.
    """

    def __init__(self, path: Path) -> None:
        """List the files.

        Args:
            path: The tar file, not compressed.
        """
        self.path, self.title = path, str(path)
        scan = _Scan()
        with path.open("rb") as file:
            _read(file, _Archive(0, str(path)), scan)
        self.left_out, self.annotations, self.folders = scan.left_out, scan.annotations, scan.folders
        # timm sorts by the paths inside the innermost tar file
        places = sorted(scan.places.items(), key=lambda item: natural_key(item[1].key))
        self.names = [name for name, _ in places]
        self._places = np.array([(place.offset, place.size) for _, place in places], np.int64).reshape(-1, 2)

    def open(self, index: int) -> BinaryIO:
        """Return the bytes of an image."""
        offset, size = self._places[index].tolist()
        with self.path.open("rb") as file:
            file.seek(offset)
            return io.BytesIO(file.read(size))

    def linked(self) -> dict[object, str]:
        """Return nothing: links inside a tar file lead to the file itself."""
        return {}


@dataclass
class _Archive:
    """The tar file that is read: the outermost one, or one in it.

    Attributes:
        start: Its first byte in the outermost one.
        title: Its path.
        folder: What stands for it in the paths of its images; empty for the outermost one.
    """

    start: int
    title: str
    folder: str = ""

    def name(self, path: str) -> str | None:
        """Return a member's path without what is no part of it (`./`, a leading `/`), None for hidden ones."""
        parts = [part for part in PurePosixPath(path).parts if part != "/"]
        hidden = any(is_hidden(part) for part in parts)
        return None if hidden or not parts else join(self.folder, parts)


def _read(file: BinaryIO, archive: _Archive, scan: _Scan) -> None:
    """Add the images of a tar file to `scan`."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else a million of them stay
                name = archive.name(member.name)
                if name is not None:
                    _add(tar, member, name, archive, scan)
            end = tar.offset
    except (tarfile.TarError, EOFError, OverflowError) as error:
        raise ValueError(f"expected a tar file at {archive.title}, got {_kind(file, error)}") from error
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if block != bytes(tarfile.BLOCKSIZE):
        # tarfile takes a damaged header for the end
        what = "it ends there, without its closing mark" if len(block) < tarfile.BLOCKSIZE else "a damaged header"
        raise ValueError(
            f"expected a complete tar file at {archive.title}, got one that can't be read from byte {end} on ({what}); "
            f"copy or pack it again"
        )


def _add(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, archive: _Archive, scan: _Scan) -> None:
    image = suffix(name) in image_suffixes()
    if member.isdir():
        scan.folders.add(name)
    elif member.islnk():
        target = scan.places.get(archive.name(member.linkname) or "")
        if image and target is not None:
            scan.places[name] = target._replace(key=member.name)
        else:
            scan.left_out.add("hard links to what is no image", name)
    elif not member.isreg() or member.sparse is not None:
        scan.left_out.add("symbolic links" if member.issym() else "devices or sparse files", name)
    elif image:
        scan.places[name] = _Place(member.name, archive.start + member.offset_data, member.size)
    elif suffix(name) == ".tar" and not archive.folder:
        inner = _Archive(archive.start + member.offset_data, f"{archive.title} ({name})", name[: -len(".tar")])
        _read(_opened(tar, member), inner, scan)
    elif name.rpartition("/")[2] == ANNOTATIONS:
        scan.annotations[name] = _opened(tar, member).read(_MAX_ANNOTATIONS)
    else:
        scan.left_out.add_file(name)


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> BinaryIO:
    file = tar.extractfile(member)
    assert file is not None  # as for any regular file
    return cast(BinaryIO, file)


def _kind(file: BinaryIO, error: Exception) -> str:
    file.seek(0)
    head = file.read(8)
    if not head:
        return "an empty file; copy it again"
    for mark, kind in _OTHER_KINDS.items():
        if head.startswith(mark):
            return f"a {kind} file; unpack it, as images can't be read by index from a compressed file"
    return f"a file that can't be read as one ({error}); copy or pack it again"
