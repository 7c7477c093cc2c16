"""Writing files so that a reader sees either the old file or the whole new one."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success what was written there becomes `path`.

    On any exception, Ctrl-C included, the temporary file is removed and an existing `path` keeps its content.

    Raises:
        FileNotFoundError: the folder of `path` does not exist, or the block wrote nothing to the path it was given.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"expected an existing folder to write {target.name!r} to, got {target.parent}")
    # Same folder, because a rename is atomic only within one file system; the token keeps two writers apart.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if not temporary.is_file():
            raise FileNotFoundError(f"expected {target.name!r} to be written to {temporary}, but nothing is there")
        _flush_to_disk(temporary)
        os.replace(temporary, target)
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
    write_text_atomic(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _flush_to_disk(path: Path) -> None:
    # Without it a power cut after the rename can leave an empty file under the final name.
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
