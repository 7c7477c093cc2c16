"""The folder of a comparison: what was measured is written at once, so that the same comparison goes on from there."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from ftbc_pl.comparisons.figure import comparison_figure
from ftbc_pl.comparisons.plan import Plan
from ftbc_pl.comparisons.table import ComparisonTable, Record
from ftbc_pl.distributed import is_main_process, of_main_process
from ftbc_pl.files import atomic_path, remove_leftovers, write_json_atomic, write_text_atomic
from ftbc_pl.io.tensors import fingerprint
from ftbc_pl.safety.output import lock, unlock

STATE_FILE = "comparison.json"
FILES = (STATE_FILE, "comparison.csv", "comparison.md", "comparison.png")


def comparison_key(ann: nn.Module, plan: Plan, **others: Any) -> str:
    """Which comparison this is: weights of the network and what all its calibrations have in common.

    Timesteps, solvers and draws are left out: more of them go on with what was measured.

    Args:
        ann: The network.
        plan: What is compared.
        **others: What else the accuracies depend on, such as the data; plain values.
    """
    weights = {name: fingerprint(value.cpu())["sha256"] for name, value in ann.state_dict().items()}
    content = {"weights": weights, "conversion": plan.conversion, "calibration": plan.calibration, **others}
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Store:
    """Reads and writes the folder of one comparison; without a folder it keeps nothing."""

    def __init__(self, folder: str | os.PathLike[str] | None, key: str, overwrite: bool = False) -> None:
        """Look at the folder, which need not be there.

        Args:
            folder: The folder.
            key: Which comparison it is, as `comparison_key` says.
            overwrite: Whether another comparison there may be dropped.

        Raises:
            FileExistsError: It holds another comparison, or one that can't be read.
        """
        self.folder = None if folder is None else Path(folder)
        self.key = key
        self._begin_anew = self._made = False
        if self.folder is None or not (self.folder / STATE_FILE).exists():
            return
        if self._read().get("key") == key:
            return
        if not overwrite:
            raise FileExistsError(
                f"{self.folder} holds a comparison of another network, other data or other options: name another "
                "folder, or overwrite it."
            )
        self._begin_anew = True

    def open(self, table: ComparisonTable) -> None:
        """Claim the folder, and give `table` what was measured earlier; the same in all processes.

        Raises:
            OSError: The folder can't be made, or another process is writing to it.
        """
        content: Any = {}
        if self.folder is not None and is_main_process():
            try:
                self._made = not self.folder.exists()
                self.folder.mkdir(parents=True, exist_ok=True)
                lock(self.folder)
                remove_leftovers(self.folder)
                content = {} if self._begin_anew else self._read()
            except OSError as error:
                content = str(error)
        content = of_main_process(content)
        if isinstance(content, str):
            raise OSError(content)
        table.records = [Record(**record) for record in content.get("records", ())]
        table.ann, table.images = content.get("ann", table.ann), content.get("images", table.images)
        table.facts = content.get("facts", table.facts) | table.facts

    def add(self, table: ComparisonTable) -> None:
        """Write what was measured so far, whole or not at all; main process only."""
        if self.folder is not None and is_main_process():
            write_json_atomic(self.folder / STATE_FILE, {"key": self.key} | table.to_dict())

    def finish(self, table: ComparisonTable) -> list[str]:
        """Write table and picture, and return the names of the files; main process only."""
        if self.folder is None or not is_main_process():
            return []
        self.add(table)
        write_text_atomic(self.folder / "comparison.csv", table.csv())
        write_text_atomic(self.folder / "comparison.md", table.markdown())
        with atomic_path(self.folder / "comparison.png") as path:
            comparison_figure(table).savefig(path, format="png", dpi=150)
        return list(FILES)

    def close(self) -> None:
        """Let others write to the folder, and drop one that was made for nothing."""
        if self.folder is not None and is_main_process():
            unlock(self.folder)
            if self._made:
                with suppress(OSError):  # it holds measurements
                    self.folder.rmdir()

    def _read(self) -> Mapping[str, Any]:
        assert self.folder is not None
        path = self.folder / STATE_FILE
        if not path.exists():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise FileExistsError(f"{path} is no comparison that can be read ({error}): remove it.") from error
        return content if isinstance(content, dict) else {}
