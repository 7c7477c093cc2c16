"""Writing files so that a reader sees the old file or the whole new one, after a crash and on a full disk too."""

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success what was written there becomes `path`.

    On any exception, Ctrl-C included, the temporary file is removed and an existing `path` keeps its content.

    Raises:
        FileNotFoundError: the folder of `path` does not exist, or the block wrote nothing to the path it was given.
        OSError: the disk is full; names `path`.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"expected an existing folder to write {target.name!r} to, got {target.parent}")
    if target.is_dir():
        raise IsADirectoryError(f"expected the path of a file to write, got the folder {target}")
    # Same folder, because a rename is atomic only within one file system; the token keeps two writers apart.
    temporary = target.with_name(temporary_name(target.name))
    try:
        with no_room_named(target):
            yield temporary
            if not temporary.is_file():
                raise FileNotFoundError(f"expected {target.name!r} to be written to {temporary}, but nothing is there")
            flush_to_disk(temporary)
            os.replace(temporary, target)
            flush_to_disk(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json_atomic(path: str | os.PathLike[str], obj: Any) -> None:
    """Write `obj` as indented JSON to `path`, whole or not at all.

    Raises:
        TypeError: `obj` holds something that JSON has no form for.
        ValueError: `obj` holds NaN or infinity, which other JSON readers refuse.
    """
    write_text_atomic(path, to_json(obj))


def to_json(obj: Any) -> str:
    """Return `obj` as indented JSON with a newline at the end; raises as `write_json_atomic` does."""
    return json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def temporary_name(name: str) -> str:
    """Return a name that no other writer has, that listings hide, and that `remove_leftovers` knows."""
    return f".{name}.{secrets.token_hex(4)}.tmp"


def remove_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove the temporary files and folders that killed runs left in `folder`, and nothing else; return their paths.

    Only for a folder that no other process is writing to.
    """
    found = [path for path in Path(folder).iterdir() if _LEFTOVER.fullmatch(path.name)]
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return found


def flush_to_disk(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, would survive a power cut."""
    # Without it a power cut after a rename can leave an empty file under the final name, or the old name.
    folder = path.is_dir()
    if folder and os.name != "posix":
        return  # Windows can't open folders
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        if folder:
            with suppress(OSError):  # some network file systems can't flush folders
                os.fsync(descriptor)
        else:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def no_room_named(target: Path) -> Iterator[None]:
    """Turn whatever a library raises for a full disk inside the block into an OSError that names `target`."""
    try:
        yield
    except Exception as error:
        code = _no_room(error)
        if code is None:
            raise
        raise OSError(
            code,
            f"{os.strerror(code)}: there is no room to write {target}; nothing was changed there: free some space, or "
            "write to another folder",
        ) from error


def _no_room(error: Exception) -> int | None:
    """Return the code of the operating system if the error says that a file can't grow, else None."""
    if isinstance(error, OSError):
        return error.errno if error.errno in _NO_ROOM else None
    # safetensors puts the code in its text, the writer of torch.save loses it
    code = re.search(r"\(os error (\d+)\)", str(error))
    if code is not None:
        return int(code[1]) if int(code[1]) in _NO_ROOM else None
    lost = isinstance(error, RuntimeError) and ("file write failed" in str(error) or "unexpected pos" in str(error))
    return errno.ENOSPC if lost else None
