"""A run's output folder: claimed by one run at a time, and changed as a whole."""

import os
import socket
from contextlib import suppress
from pathlib import Path

from ftbc_pl.files import remove_leftovers
from ftbc_pl.folders import FolderUpdate, recover

try:
    import fcntl
except ImportError:  # Windows: no lock, everything else as elsewhere
    fcntl = None  # type: ignore[assignment]

FILES = ("config.yaml", "report.html", "results.json", "snn.json", "snn.safetensors")
# Files that nobody wants to lose; the others can be made again from these.
_RESULTS = ("results.json", "snn.json", "snn.safetensors")
LOCK = ".run.lock"
# Folders that this process has locked: it may claim one again, as a notebook does that runs a cell twice.
_HELD: dict[Path, int] = {}


def check_unused(folder: str | os.PathLike[str], overwrite: bool) -> None:
    """Check that a folder holds no results, or that they may be overwritten.

    Raises:
        FileExistsError: It holds another run's results.
        NotADirectoryError: It is a file.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file: choose another ftbc.output_dir.")
    earlier = [name for name in _RESULTS if (path / name).exists()]
    if earlier and not overwrite:
        raise FileExistsError(
            f"{path} holds {earlier[0]} of another run: choose another ftbc.output_dir, leave it out to get a new one, "
            "or pass overwrite=True (--ftbc.overwrite true)."
        )


class OutputFolder:
    """The folder of a run, as the process sees it that writes to it.

    Attributes:
        path: The folder.
        place: Where new files are written: the folder itself, or where it holds the results of an earlier run a hidden
            folder inside, so that these are whole until `commit`.
    """

    def __init__(self, folder: str | os.PathLike[str], overwrite: bool) -> None:
        """Make the folder where it is missing, and claim it.

        Raises:
            BlockingIOError: Another run is writing to it.
            FileExistsError: It holds another run's results, and they may not be overwritten.
        """
        self.path = Path(folder)
        check_unused(self.path, overwrite)
        self._made = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        lock(self.path)
        try:
            recover(self.path)
            remove_leftovers(self.path)
            check_unused(self.path, overwrite)
            used = any((self.path / name).exists() for name in FILES)
            self._update = FolderUpdate(self.path, FILES) if used else None
        except BaseException:
            unlock(self.path)
            raise
        self.place = self.path if self._update is None else self._update.path

    def commit(self) -> list[str]:
        """Let new files take the places of earlier ones, and return the names of the results in the folder."""
        if self._update is not None:
            self._update.commit()
            self._update = None
            self.place = self.path
        unlock(self.path)
        return [name for name in FILES if (self.path / name).exists()]

    def abandon(self) -> None:
        """Drop new files that were to take the places of earlier ones, and a folder that was made for nothing.

        Does nothing after `commit`.
        """
        if self._update is not None:
            self._update.abandon()
            self._update = None
        unlock(self.path)
        if self._made:
            with suppress(OSError):  # it holds something, such as checkpoints
                self.path.rmdir()


def lock(folder: Path) -> None:
    """Lock a folder for this process, until `unlock` or until the process ends, however it does.

    Raises:
        BlockingIOError: Another process has locked it; says which.
    """
    folder = folder.resolve()
    if fcntl is None or folder in _HELD:
        return
    while True:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.read(descriptor, 200).decode("utf-8", errors="replace").strip() or "another process"
            os.close(descriptor)
            raise BlockingIOError(
                f"{folder} is being written to by another run ({who}): choose another ftbc.output_dir, or wait until "
                "that one has ended."
            ) from None
        except OSError:  # a file system that has no locks
            os.close(descriptor)
            return
        if _is_still_there(folder / LOCK, descriptor):
            break
        os.close(descriptor)  # its owner has removed it meanwhile
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    _HELD[folder] = descriptor


def unlock(folder: Path) -> None:
    """Unlock a folder that this process has locked, else do nothing."""
    folder = folder.resolve()
    descriptor = _HELD.pop(folder, None)
    if descriptor is not None:
        (folder / LOCK).unlink(missing_ok=True)
        os.close(descriptor)


def _is_still_there(path: Path, descriptor: int) -> bool:
    try:
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
