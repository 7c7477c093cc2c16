"""The runs of a sweep: each a process of its own, and a row that says what came of it."""

import csv
import io
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ftbc_pl.reports import read_results_json
from ftbc_pl.reports.results import RESULTS_FILE
from ftbc_pl.reports.tracking import summary_metrics
from ftbc_pl.sweeps.file import SweepFile
from ftbc_pl.tables import text_table

NOTHING = "–"
_LAST_LINES = 3  # of what a failed run said
_GRACE = 30.0  # seconds for a run that is told to stop


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """One run.

    Attributes:
        number: From 1.
        parameters: Its point.
        state: `finished` or `failed`.
        metrics: Its summary, as W&B gets it.
        error: What it said, where it failed.
        seconds: Its duration.
        folder: Where its results are.
    """

    number: int
    parameters: Mapping[str, Any]
    state: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    standard_errors: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0
    folder: str = ""

    def value(self, metric: str | None) -> float | None:
        """The metric; None where the run failed."""
        return None if metric is None or self.state != "finished" else self.metrics.get(metric)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def command_line(sweep: SweepFile, point: Mapping[str, Any], folder: Path) -> list[str]:
    """The command of a run, its macros expanded by W&B's own code, with a folder of its own for the results."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    options = {**sweep.constants, **point, "ftbc.output_dir": str(folder), "ftbc.overwrite": True}
    macros = create_sweep_command_args({"args": {name: {"value": value} for name, value in options.items()}})
    # of this environment, which `python` need not be
    macros |= {"env": ["/usr/bin/env"] if os.name == "posix" else [], "interpreter": [sys.executable]}
    macros["program"] = [sweep.program]
    parts: list[str] = []
    for part in create_sweep_command(list(sweep.command)):
        is_macro = part.startswith("${") and part.endswith("}")
        if is_macro and part[2:-1] not in macros:
            raise ValueError(f"the command's {part} is not known here: {', '.join(sorted(macros))} are")
        parts += [str(value) for value in macros[part[2:-1]]] if is_macro else [part]
    return parts


def start(sweep: SweepFile, number: int, point: Mapping[str, Any], folder: Path) -> SweepRun:
    """Run one point in a process of its own; whatever it says goes to `NUMBER.log` beside its folder."""
    own = folder / f"{number:03d}"
    command = command_line(sweep, point, own)
    log = own.with_suffix(".log")
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        output.write(f"{shlex.join(command)}\n")
        output.flush()
        try:
            status = _wait(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT))
        except OSError as error:
            output.write(str(error))
            status = 127
    run = {"number": number, "parameters": dict(point), "folder": str(own), "seconds": time.monotonic() - began}
    if status:
        return SweepRun(**run, state="failed", error=f"status {status}: {_said(log)}")  # type: ignore[arg-type]
    try:
        results = read_results_json(own / RESULTS_FILE)
    except (OSError, ValueError) as error:
        return SweepRun(**run, state="failed", error=f"no results: {error}")  # type: ignore[arg-type]
    metrics = summary_metrics(results)
    if sweep.metric is not None and sweep.metric not in metrics:
        what = f"no {sweep.metric} among its results: {', '.join(sorted(metrics))}"
        return SweepRun(**run, state="failed", metrics=metrics, error=what)  # type: ignore[arg-type]
    errors = {name: results.standard_error(value) for name, value in metrics.items() if "accuracy" in name}
    return SweepRun(**run, state="finished", metrics=metrics, standard_errors=errors)  # type: ignore[arg-type]


def best(runs: Sequence[SweepRun], sweep: SweepFile) -> SweepRun | None:
    """The best run by the metric, the first one of several; None where none has it."""
    found = [(value, run) for run in runs if (value := run.value(sweep.metric)) is not None]
    if not found:
        return None
    sign = 1 if sweep.goal == "maximize" else -1
    return max(found, key=lambda pair: (sign * pair[0], -pair[1].number))[1]


def table(runs: Sequence[SweepRun], sweep: SweepFile) -> str:
    """All runs as a table of text, and the best one below."""
    titles, rows = _cells(runs, sweep)
    last = "".join(f"Run {run.number} failed: {run.error}\n" for run in runs if run.state == "failed")
    chosen = best(runs, sweep)
    if chosen is not None:
        point = ", ".join(f"{name} {value}" for name, value in chosen.parameters.items())
        last += f"Best: run {chosen.number}, {sweep.metric} {_metric(chosen, sweep)}, with {point}. {chosen.folder}"
    return text_table(titles, rows, left=("state",), last=last)


def markdown(runs: Sequence[SweepRun], sweep: SweepFile) -> str:
    """All runs as a table in Markdown."""
    titles, rows = _cells(runs, sweep)
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join("| {} |\n".format(" | ".join(cell.replace("|", "\\|") for cell in line)) for line in lines)


def csv_text(runs: Sequence[SweepRun], sweep: SweepFile) -> str:
    """All runs with all metrics, a line each."""
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    columns = ["run", *sweep.parameters, "state", "seconds", "folder", "error", *metrics]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for run in runs:
        own = {"run": run.number, "state": run.state, "seconds": run.seconds, "folder": run.folder, "error": run.error}
        writer.writerow(own | dict(run.parameters) | dict(run.metrics))
    return text.getvalue()


def _cells(runs: Sequence[SweepRun], sweep: SweepFile) -> tuple[list[str], list[list[str]]]:
    titles = ["run", *sweep.parameters, sweep.metric or "metric", "state", "seconds"]
    rows = [
        [str(run.number), *_point(run, sweep), _metric(run, sweep), run.state, f"{run.seconds:.1f}"] for run in runs
    ]
    return titles, rows


def _point(run: SweepRun, sweep: SweepFile) -> Iterator[str]:
    for name in sweep.parameters:
        value = run.parameters[name]
        yield f"{value:.4g}" if isinstance(value, float) else str(value)


def _metric(run: SweepRun, sweep: SweepFile) -> str:
    value, error = run.value(sweep.metric), run.standard_errors.get(sweep.metric or "")
    if value is None:
        return NOTHING
    return f"{value:.4g}" if error is None else f"{100 * value:.1f} ± {100 * error:.1f} %"


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for a run; when the sweep is told to stop, so is the run."""
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise


def _said(log: Path) -> str:
    """The last lines of a log that say something."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    told = [line.strip() for line in lines if line.strip() and "FTBC_DEBUG" not in line]
    errors = [line for line in told if re.match(r"(ftbc-pl: )?error:|\w*Error\b", line)]
    return " ".join((errors or told)[-_LAST_LINES:]) or "it said nothing"
