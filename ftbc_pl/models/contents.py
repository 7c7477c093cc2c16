"""What a file of weights holds, read by what its bytes are and not by what its name says; no code in it is run."""

import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ftbc_pl.models.inert import Inert, read_inertly

# Settings that training scripts save beside the weights; nothing is imported for these names either.
_SETTINGS = ("argparse.Namespace", "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath",
             "pathlib.PureWindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
             "numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar", "numpy.dtype")  # fmt: skip
_SUFFIXES = {".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar"}
_LONGEST_HEADER = 100_000_000  # the limit of safetensors
_LEGACY = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the number with which files of torch.save began before 1.6
_LFS = b"version https://git-lfs"
_WRITTEN_BY_OTHERS = {
    b"\x89HDF": "an HDF5 file, as Keras writes them",
    b"\x93NUMPY": "an array of NumPy",
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
}

__all__ = ["read_contents"]


def read_contents(path: Path) -> Any:
    """Return what was saved in a file of safetensors or `torch.save`.

    Objects that are neither tensors, plain values nor containers of these come as
    `ftbc_pl.models.inert.Inert`.

    Raises:
        FileNotFoundError: There is nothing at `path`.
        ValueError: It is a folder, damaged, or no file of weights: one sentence that says which.
    """
    kind = _kind(path)
    try:
        if kind == "safetensors":
            return load_file(path)
        return _load(path, inert=kind == "zip")
    except Exception as error:  # the file decides what is raised
        raise _unreadable(path, _reason(error)) from error


def _load(path: Path, inert: bool) -> Any:
    settings: list[Any] = [(Inert, name) for name in _SETTINGS]
    try:
        # An open file, since of a path torch looks at the suffix.
        with torch.serialization.safe_globals(settings), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not inert:
            raise
        return read_inertly(path)


def _kind(path: Path) -> str:
    """Return `safetensors`, `zip` or `legacy` (torch.save before 1.6), by the first bytes."""
    if path.is_dir():
        files = [file.name for file in sorted(path.iterdir()) if file.suffix in _SUFFIXES]
        hint = f"such as {files[0]}" if files else "but it holds none"
        raise ValueError(f"expected a file of weights, got the folder {path}; give the path of a file in it, {hint}")
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a file of weights at {path}, found none; give the path of a safetensors or PyTorch file"
        )
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if not start:
        raise _unreadable(path, "the file is empty; copy or download it again")
    if start.startswith(b"PK"):
        return _kind_of_zip(path)
    if 2 <= int.from_bytes(start[:8], "little") <= _LONGEST_HEADER and start[8:9] == b"{":
        return "safetensors"
    if start.startswith(b"\x80") and start[1:2] in b"\x02\x03\x04\x05":
        if _LEGACY in start[:16]:
            return "legacy"
        raise _unreadable(path, "it is a Python pickle, which could run code; write the state dict with torch.save")
    raise _unreadable(path, _foreign(start))


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            damaged = archive.testzip()  # torch.load itself does not look at the checksums
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError) as error:
        raise _unreadable(path, "the file is cut off or damaged; copy or download it again") from error
    if damaged is not None:
        raise _unreadable(path, f"the checksum of {damaged} in it is another one: it is damaged; copy it again")
    if any(name.endswith("/constants.pkl") for name in names):
        raise _unreadable(path, "it is a TorchScript program; save the state_dict() of the network instead")
    if not any(name.endswith("/data.pkl") for name in names):
        raise _unreadable(path, "it is a zip archive, but not one of torch.save; unpack it and give the file inside")
    return "zip"


def _foreign(start: bytes) -> str:
    if start.startswith(_LFS):
        return "it is the pointer of Git LFS, not the file itself; run `git lfs pull`"
    for mark, name in _WRITTEN_BY_OTHERS.items():
        if start.startswith(mark):
            return f"it is {name}; convert it to a PyTorch state dict"
    text = start.decode("utf-8", errors="replace")
    if sum(c.isspace() or (c.isprintable() and c != "\ufffd") for c in text) > 0.9 * len(text):
        return "it is a text file; give the path of the file that holds the numbers"
    return "its first bytes are those of neither; it may be damaged"


def _reason(error: Exception) -> str:
    text = str(error)
    if any(word in text for word in ("reading zip archive", "header", "MetadataIncomplete", "incomplete", "truncated")):
        return "the file is cut off or damaged; copy or download it again"
    if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in text:
        name = text.partition("GLOBAL ")[2].split(" ")[0]
        return f"it holds {name}, which is not tensors only; save the state dict with torch.save"
    lines = text.strip().splitlines()
    return f"it is cut off, damaged, or not tensors only ({lines[0][:200] if lines else type(error).__name__})"


def _unreadable(path: Path, reason: str) -> ValueError:
    return ValueError(f"expected safetensors or a PyTorch state dict in {path}, could not read it: {reason}")
