"""Measurements that are kept in a file: a benchmark of hours can be interrupted, go on, and be printed again."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """Accuracy at every step, and what the calibration cost.

    Attributes:
        accuracy: Accuracy in 0..1 at t = 1 … T; a single one for an ANN.
        forwards: Forwards that the calibration took.
        seconds: Wall-clock time of the calibration.
        hits: Which images are right at T, as 0 and 1, where differences on the same images are asked for.
    """

    accuracy: tuple[float, ...]
    forwards: int = 0
    seconds: float = 0.0
    hits: str = ""


class Results:
    """Measurements by what was measured: one JSON object a line, only ever appended."""

    def __init__(self, path: Path) -> None:
        """Read the file, if there is one."""
        self.path = path
        self.known: dict[str, Measurement] = {}
        for line in path.read_text().splitlines() if path.is_file() else []:
            content = json.loads(line)
            result = content.pop("result")
            self.known[self._key(content)] = Measurement(**result | {"accuracy": tuple(result["accuracy"])})

    def get(self, of: dict[str, Any], measure: Callable[[], Measurement]) -> Measurement:
        """What was measured of that, now or before."""
        key = self._key(of)
        if key not in self.known:
            self.known[key] = measure()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                result = {name: value for name, value in asdict(self.known[key]).items() if value != ""}
                file.write(json.dumps(of | {"result": result}) + "\n")
        return self.known[key]

    @staticmethod
    def _key(of: dict[str, Any]) -> str:
        return json.dumps(of, sort_keys=True)
