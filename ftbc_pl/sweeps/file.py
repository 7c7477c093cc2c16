"""A sweep file of W&B, read and checked: what is gone over, by which method, with which command."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from ftbc_pl.reports.tracking import SUMMARY_KEYS

Method = Literal["grid", "random", "bayes"]
GOALS = ("minimize", "maximize")
# W&B's own command for a file that gives none.
DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
UNIFORM = ("uniform", "int_uniform", "q_uniform", "log_uniform", "log_uniform_values")
_LEFT_OUT = {"early_terminate": "every run goes to its end"}
_ENVIRONMENT = re.compile(r"\$\{envvar:([A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Interval:
    """A number between two others.

    Attributes:
        low: The smallest.
        high: The largest.
        step: Distance between two neighbours; None: any number.
        log: Whether orders of magnitude are equally likely.
        whole: Whether it is a whole number.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False


@dataclass(frozen=True)
class SweepFile:
    """What a sweep file says.

    Attributes:
        path: The file.
        name: Its name, else that of the file.
        method: `grid`, `random` or `bayes`.
        metric: What a run is judged by, a key of its summary.
        goal: `minimize` or `maximize`.
        parameters: What is gone over, by option of the command line.
        constants: Options that are the same in all runs.
        command: The command line, with macros.
        program: What `${program}` stands for.
        cap: Largest number of runs; None: no end but that of a grid.
        left_out: Sentences about what is not done here.
    """

    path: Path
    name: str
    method: Method
    metric: str | None
    goal: str
    parameters: Mapping[str, Choice | Interval]
    constants: Mapping[str, Any]
    command: tuple[str, ...]
    program: str
    cap: int | None
    left_out: tuple[str, ...]

    def grid(self) -> list[dict[str, Any]]:
        """All points of a grid, the last parameter changing fastest."""
        values = [list(_grid_values(name, part)) for name, part in self.parameters.items()]
        return [dict(zip(self.parameters, point, strict=True)) for point in product(*values)]


def read_sweep(path: str | os.PathLike[str]) -> SweepFile:
    """Read a sweep file, as `wandb sweep` takes it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no sweep file, or needs what is not there; says what.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no sweep file {path}: give its path from here; docs/sweeps.md has an example"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read as YAML: {error}") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("parameters"), Mapping):
        raise ValueError(f"expected a sweep file with a section parameters, got {path}")
    try:
        return _checked(path, content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _checked(path: Path, content: Mapping[str, Any]) -> SweepFile:
    method = content.get("method")
    if method not in get_args(Method):
        raise ValueError(f"expected method to be one of {', '.join(get_args(Method))}, got {method!r}")
    metric = content.get("metric") or {}
    goal = metric.get("goal", "minimize")  # W&B's default
    if goal not in GOALS:
        raise ValueError(f"expected metric.goal to be minimize or maximize, got {goal!r}")
    if method == "bayes" and not metric.get("name"):
        raise ValueError("method bayes needs metric.name, which it improves")
    if metric.get("name") and not SUMMARY_KEYS.fullmatch(str(metric["name"])):
        raise ValueError(
            "expected metric.name to be a figure of a run's results, such as snn/accuracy_final, snn/accuracy_T4, "
            f"snn/energy_ratio_T4 or calibration/seconds, got {metric['name']!r}"
        )
    parts = {str(name): _parameter(str(name), part) for name, part in content["parameters"].items()}
    command = tuple(str(part) for part in content.get("command") or DEFAULT_COMMAND)
    if not any(part.startswith("${args") for part in command):
        raise ValueError("expected ${args} in command, through which the parameters reach it")
    missing = sorted({name for part in command for name in _ENVIRONMENT.findall(part) if name not in os.environ})
    if missing:
        raise ValueError(f"the command takes {', '.join(missing)} from the environment, where it is not set")
    cap = content.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        raise ValueError(f"expected run_cap as a number of runs from 1, got {cap!r}")
    sweep = SweepFile(
        path=path,
        name=str(content.get("name") or path.stem),
        method=method,  # type: ignore[arg-type]
        metric=metric.get("name"),
        goal=goal,
        parameters={name: part for name, part in parts.items() if isinstance(part, Choice | Interval)},
        constants={name: part[0] for name, part in parts.items() if isinstance(part, tuple)},
        command=command,
        program=str(content.get("program", "")),
        cap=cap,
        left_out=tuple(f"{key} is left out: {why}." for key, why in _LEFT_OUT.items() if key in content),
    )
    if method == "grid":
        sweep.grid()
    return sweep


def _parameter(name: str, part: Any) -> Choice | Interval | tuple[Any]:
    """What a parameter may be; a tuple of one value where it is that."""
    if name in ("ftbc.output_dir", "ftbc.overwrite"):
        raise ValueError(f"{name} is no parameter here: each run of the sweep has a folder of its own")
    if not isinstance(part, Mapping):
        raise ValueError(f"expected value, values or min and max for parameter {name}, got {part!r}")
    if "value" in part:
        return (part["value"],)
    if "values" in part:
        if not isinstance(part["values"], list) or not part["values"]:
            raise ValueError(f"expected a list under values of parameter {name}, got {part['values']!r}")
        if "probabilities" in part:
            raise ValueError(f"probabilities of parameter {name} can't be given here: leave them out")
        return Choice(tuple(part["values"]))
    return _interval(name, part)


def _interval(name: str, part: Mapping[str, Any]) -> Interval:
    ends = part.get("min"), part.get("max")
    if not all(isinstance(end, int | float) and math.isfinite(end) for end in ends):
        raise ValueError(f"expected value, values, or numbers under min and max for parameter {name}, got {dict(part)}")
    low, high = float(ends[0]), float(ends[1])  # type: ignore[arg-type]
    whole = all(isinstance(end, int) for end in ends)
    kind = part.get("distribution", "int_uniform" if whole else "uniform")
    if kind not in UNIFORM:
        raise ValueError(f"distribution of parameter {name} must be one of {', '.join(UNIFORM)} here, got {kind!r}")
    if kind == "log_uniform":  # its ends are exponents
        low, high = math.exp(low), math.exp(high)
    if not low < high:
        raise ValueError(f"expected min below max for parameter {name}, got {low:g} and {high:g}")
    step = float(part.get("q", 1)) if kind == "q_uniform" else 1.0 if kind == "int_uniform" else None
    is_log = kind.startswith("log")
    if is_log and low <= 0:
        raise ValueError(f"expected min above 0 for the logarithmic parameter {name}, got {low:g}")
    return Interval(
        low, high, step, is_log, kind == "int_uniform" or (kind == "q_uniform" and whole and step == int(step or 0))
    )


def _grid_values(name: str, part: Choice | Interval) -> tuple[Any, ...]:
    if isinstance(part, Choice):
        return part.values
    if part.step is None:
        raise ValueError(f"a grid needs values for parameter {name}, or whole numbers under min and max")
    number = int((part.high - part.low) / part.step + 1e-9) + 1
    values = (part.low + part.step * place for place in range(number))
    return tuple(int(value) if part.whole else value for value in values)
