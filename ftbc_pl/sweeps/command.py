"""What `ftbc-pl sweep FILE` does."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from ftbc_pl.files import remove_leftovers, write_json_atomic, write_text_atomic
from ftbc_pl.safety.output import lock, unlock
from ftbc_pl.sweeps.file import SweepFile, read_sweep
from ftbc_pl.sweeps.runs import SweepRun, command_line, csv_text, markdown, start, table
from ftbc_pl.sweeps.search import check_installed, next_point

STATE_FILE = "sweep.json"


def sweep(file: str, count: int | None = None, output_dir: str | None = None, retry: bool = False) -> list[SweepRun]:
    """Run a W&B sweep file on this machine, one run after the other, without an account.

    Each run is a process of its own. The table is written after each, so that the same command goes on where a sweep
    was stopped.

    Args:
        file: The sweep file, as `wandb sweep` takes it: grid, random or bayes.
        count: Largest number of runs, for random and bayes; left out: run_cap of the file.
        output_dir: Folder for the table and the runs; left out: runs/sweep-NAME-…, one for each content of the file.
        retry: Whether runs that failed earlier are run again.

    Raises:
        FileExistsError: The folder holds another sweep.
        FileNotFoundError: There is no such file.
        ImportError: The method needs Optuna, which is not installed.
        ValueError: It is no sweep file, or there is no end to it.
    """
    read = read_sweep(file)
    check_installed(read)
    total = _total(read, count)
    for sentence in read.left_out:
        rank_zero_warn(sentence)
    key = _key(read)
    folder = Path(output_dir or f"runs/sweep-{''.join(c if c.isalnum() else '-' for c in read.name)}-{key[:8]}")
    folder.mkdir(parents=True, exist_ok=True)
    lock(folder)
    try:
        remove_leftovers(folder)
        runs = _earlier(folder, key)
        if retry:
            runs = [run for run in runs if run.state != "failed"]
        _go_over(read, runs, total, folder, key)
    finally:
        unlock(folder)
    rank_zero_info(f"\n{table(runs, read)}\nSaved to {folder}: {STATE_FILE}, sweep.csv, sweep.md\n")
    return runs


def _go_over(sweep: SweepFile, runs: list[SweepRun], total: int, folder: Path, key: str) -> None:
    """Run what is missing, in the order of the numbers."""
    missing = [number for number in range(1, total + 1) if number not in {run.number for run in runs}]
    if len(missing) < total:
        rank_zero_info(f"{total - len(missing)} of {total} runs are there already, in {folder}.")
    for number in missing:
        # A run that is done again has the point that its number had: only runs before it count.
        before = sorted((run for run in runs if run.number < number), key=lambda run: run.number)
        point = next_point(sweep, [run.parameters for run in before], [run.value(sweep.metric) for run in before])
        shown = " ".join(f"{name}={value}" for name, value in point.items())
        rank_zero_info(f"Run {number} of {total}: {shown}")
        runs.append(start(sweep, number, point, folder))
        runs.sort(key=lambda run: run.number)
        write_json_atomic(folder / STATE_FILE, {"key": key, "runs": [run.to_dict() for run in runs]})
        write_text_atomic(folder / "sweep.csv", csv_text(runs, sweep))
        write_text_atomic(folder / "sweep.md", markdown(runs, sweep))
        if runs and (done := next(run for run in runs if run.number == number)).state == "failed":
            rank_zero_info(f"Run {number} failed: {done.error}")


def _total(sweep: SweepFile, count: int | None) -> int:
    if count is not None and count < 1:
        raise ValueError(f"expected count from 1, got {count}")
    most = count or sweep.cap
    if sweep.method == "grid":
        return min(len(sweep.grid()), most or len(sweep.grid()))
    if most is None:
        raise ValueError(f"method {sweep.method} has no end: give run_cap in {sweep.path}, or --count")
    return most


def _key(sweep: SweepFile) -> str:
    """Which sweep this is: all that decides what its runs do, with what the command takes from the environment."""
    command = command_line(sweep, {name: None for name in sweep.parameters}, Path())
    content: Any = [sweep.method, sweep.metric, sweep.goal, sorted(map(str, sweep.parameters.items())), command]
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()


def _earlier(folder: Path, key: str) -> list[SweepRun]:
    """The runs of this sweep that are done.

    Raises:
        FileExistsError: The folder holds another sweep, or one that can't be read.
    """
    path = folder / STATE_FILE
    if not os.path.exists(path):
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileExistsError(f"{path} is no sweep that can be read ({error}): remove it.") from error
    if content.get("key") != key:
        raise FileExistsError(f"{folder} holds the runs of another sweep: name another output_dir.")
    return [SweepRun(**run) for run in content["runs"]]
