"""Several files of one folder that change together: after a kill at any instant all are the old ones or all the new.

The new files are written to a hidden folder inside the folder. One rename of that folder, from `.….tmp` to `.….commit`,
is the instant at which they count; then each file is moved to its place. Whoever opens the folder next calls
`recover`, which finishes the moves of a process that was killed in between.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ftbc_pl.files import flush_to_disk, no_room_named, temporary_name

_COMMITTED = re.compile(r"\.update\.[0-9a-f]{8}\.commit")
_REMOVED = ".removed.json"


class FolderUpdate:
    """New files for a folder, kept aside until `commit`; the folder's own files are whole and old until then.

    Attributes:
        folder: The folder.
        path: Where to write the new files, under their final names.
        names: Names that change together; of these, what was not written anew is removed by the commit.
    """

    def __init__(self, folder: str | os.PathLike[str], names: Iterable[str] = ()) -> None:
        """Make the folder where it is missing, finish an interrupted update in it, and begin a new one."""
        self.folder = Path(folder)
        self.names = tuple(names)
        for name in self.names:
            _check_name(name, self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        recover(self.folder)
        self.path = self.folder / temporary_name("update")
        self.path.mkdir()

    def commit(self) -> None:
        """Let the new files take the places of the old ones.

        Raises:
            ValueError: Something other than plain files was written.
            OSError: The disk is full; names the folder.
        """
        with no_room_named(self.folder):
            written = sorted(self.path.iterdir())
            for path in written:
                if path.is_symlink() or not path.is_file():
                    raise ValueError(f"expected plain files to be written to {self.path}, got {path.name!r}")
            removed = sorted(set(self.names) - {path.name for path in written})
            (self.path / _REMOVED).write_text(json.dumps(removed), encoding="utf-8")
            for path in [*written, self.path / _REMOVED, self.path]:
                flush_to_disk(path)
            os.rename(self.path, self.path.with_suffix(".commit"))
            flush_to_disk(self.folder)
        _apply(self.path.with_suffix(".commit"))

    def abandon(self) -> None:
        """Drop the new files; after `commit` there is nothing to drop."""
        shutil.rmtree(self.path, ignore_errors=True)


@contextmanager
def atomic_folder_update(folder: str | os.PathLike[str], names: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder; on success every file in it replaces its namesake in `folder`, all at once.

    On any exception, Ctrl-C included, `folder` keeps its files. A process that is killed leaves either all old or all
    new files once `recover` has looked at the folder, which the next update does by itself.

    Args:
        folder: The folder to update; it is made where it is missing.
        names: Names that change together; of these, what was not written anew is removed from `folder`.

    Raises:
        ValueError: A name is no plain file name, or something other than plain files was written.
        OSError: The disk is full; names the folder.
    """
    update = FolderUpdate(folder, names)
    try:
        with no_room_named(update.folder):
            yield update.path
        update.commit()
    finally:
        update.abandon()


def recover(folder: str | os.PathLike[str]) -> bool:
    """Finish an update of `folder` that was committed and then interrupted; return whether there was one.

    Safe to call at any time, also while another process applies the same update.
    """
    pending = [path for path in Path(folder).iterdir() if _COMMITTED.fullmatch(path.name) and path.is_dir()]
    for path in pending:
        _apply(path)
    return bool(pending)


def _apply(committed: Path) -> None:
    """Move the files of a committed update to their places; may be repeated after an interruption at any point."""
    folder, journal = committed.parent, committed / _REMOVED
    # Another process that recovers the same folder may have moved a file already.
    with suppress(FileNotFoundError):
        for path in sorted(committed.iterdir()):
            if path.name != _REMOVED:
                with suppress(FileNotFoundError):
                    os.replace(path, folder / path.name)
        # The journal goes last: as long as it is there, the update is not finished.
        for name in json.loads(journal.read_text(encoding="utf-8")):
            _check_name(name, folder)
            (folder / name).unlink(missing_ok=True)
        flush_to_disk(folder)
        journal.unlink()
    with suppress(FileNotFoundError):
        committed.rmdir()
    flush_to_disk(folder)


def _check_name(name: str, folder: Path) -> None:
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
        raise ValueError(f"expected plain names of files in {folder}, got {name!r}")
