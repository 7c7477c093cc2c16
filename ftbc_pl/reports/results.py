"""What one run measured, as plain data: the content of results.json."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self

from ftbc_pl.files import write_json_atomic
from ftbc_pl.sites import RATE_EXACT, SPIKING, SiteRecord

RESULTS_FILE = "results.json"
CALIBRATION_KEYS = ("solver", "granularity", "images", "forward_passes", "seconds")
SPLITS = ("validation", "test")
ROUNDING = 1e-6  # a mean of ones in float32 can exceed 1 by that much
KINDS = (SPIKING, RATE_EXACT)
# Where a field of the results stands in results.json; any other stands at the top level under its own name.
PLACES = {
    "ann_accuracy": ("ann", "accuracy"),
    "accuracy_uncalibrated": ("accuracy", "uncalibrated"),
    "accuracy_readout_only": ("accuracy", "readout_only"),
    "accuracy_calibrated": ("accuracy", "calibrated"),
}


@dataclass(frozen=True)
class RunResults:
    """Accuracies (0..1) of the ANN and of the spiking network at t = 1..T, and how they came about.

    `images` is the number of images of `split` that the accuracies were measured on. `accuracy_calibrated` and
    `calibration` are None when calibration is switched off. `accuracy_readout_only` is that of the network without
    temporal bias and with a least-squares readout, None where it was not measured. `conversion` holds the totals of the
    conversion report.
    `weights` says what the calibration made of each layer's weights; it is empty where they were kept.
    `links` says where the logs of the run are: a URL, or a path seen from the run's folder, by name of the logger.
    `energy`, `early_exit` and `diagnosis` are the plain values of an `EnergyCost`, an `ExitResult` and a `Diagnosis`,
    None where they were not measured.
    By the `schedule` accumulate there is one prediction: lists that have a number per step hold that of T alone.
    `latency` is the number of timesteps that it takes; None: T.
    `calibrated_earlier` says that this run has measured a network which another one had made and calibrated.
    A further field needs a default, so that files without it stay readable; results.json holds it by itself.

    Raises:
        ValueError: a list has not T entries, a number is out of its range, or a part of `calibration` is missing.
    """

    ann_accuracy: float
    num_steps: int
    split: str
    images: int
    accuracy_uncalibrated: list[float]
    accuracy_calibrated: list[float] | None = None
    calibration: dict[str, Any] | None = None
    conversion: dict[str, Any] = field(default_factory=dict)
    sites: list[SiteRecord] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    weights: list[dict[str, Any]] = field(default_factory=list)
    energy: dict[str, Any] | None = None
    early_exit: dict[str, Any] | None = None
    diagnosis: dict[str, Any] | None = None
    schedule: str = "stream"
    latency: int | None = None
    accuracy_readout_only: list[float] | None = None
    calibrated_earlier: bool = False

    def __post_init__(self) -> None:
        """Check lengths and ranges."""
        if self.num_steps < 1:
            raise ValueError(f"expected num_steps of at least 1, got {self.num_steps}")
        if self.split not in SPLITS:
            raise ValueError(f"expected split to be one of {', '.join(SPLITS)}, got {self.split!r}")
        if self.images < 1:
            raise ValueError(f"expected accuracies measured on at least one image, got images = {self.images}")
        _check_accuracies("ann_accuracy", [self.ann_accuracy])
        for key, accuracies in self.curves.items():
            self._check_steps(f"accuracy_{key}", accuracies)
            _check_accuracies(f"accuracy_{key}", accuracies)
        if (self.accuracy_calibrated is None) != (self.calibration is None):
            raise ValueError(
                "expected accuracy_calibrated and calibration both given or both None, "
                f"got {self.accuracy_calibrated!r} and {self.calibration!r}"
            )
        missing = [key for key in CALIBRATION_KEYS if self.calibration is not None and key not in self.calibration]
        if missing:
            raise ValueError(f"expected calibration to state {', '.join(CALIBRATION_KEYS)}, missing {missing}")
        for site in self.sites:
            self._check_site(site)

    @property
    def steps(self) -> Sequence[int]:
        """The timesteps of the predictions: 1 … T, or T alone."""
        return (self.num_steps,) if self.schedule == "accumulate" else range(1, self.num_steps + 1)

    @property
    def accuracy_final(self) -> float:
        """Accuracy at t = T: calibrated if calibration ran, else uncalibrated."""
        return (self.accuracy_calibrated or self.accuracy_uncalibrated)[-1]

    @property
    def curves(self) -> dict[str, list[float]]:
        """Accuracy at t = 1..T of each spiking network that was measured, by its key in results.json."""
        curves = {
            "uncalibrated": self.accuracy_uncalibrated,
            "readout_only": self.accuracy_readout_only,
            "calibrated": self.accuracy_calibrated,
        }
        return {key: values for key, values in curves.items() if values is not None}

    def standard_error(self, accuracy: float) -> float:
        """Standard error of an accuracy p measured on n images, √(p(1−p)/n), as the binomial distribution has it."""
        return math.sqrt(accuracy * (1 - accuracy) / self.images)

    def to_json(self) -> dict[str, Any]:
        """The content of results.json, made of what JSON can hold only."""
        content: dict[str, Any] = {}
        for field_ in fields(self):
            *groups, key = PLACES.get(field_.name, (field_.name,))
            place = content
            for group in groups:
                place = place.setdefault(group, {})
            place[key] = to_plain(getattr(self, field_.name))
        errors = {key: [self.standard_error(value) for value in values] for key, values in self.curves.items()}
        content["standard_error"] = {"ann": self.standard_error(self.ann_accuracy), **errors}
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            ValueError: a key is missing that every run has, or a value is out of its range.
        """
        try:
            found = {field_.name: _look_up(content, PLACES.get(field_.name, (field_.name,))) for field_ in fields(cls)}
            given = {name: value for name, value in found.items() if value is not None}
            return cls(**{**given, "sites": [SiteRecord.from_dict(site) for site in found["sites"] or ()]})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"expected the content of a {RESULTS_FILE}, got one with a fault at {error}") from error

    def _check_steps(self, name: str, values: Sequence[float]) -> None:
        if len(values) != len(self.steps):
            raise ValueError(f"expected {name} to hold one number per step, {len(self.steps)}, got {len(values)}")

    def _check_site(self, site: SiteRecord) -> None:
        if site.kind not in KINDS:
            raise ValueError(f"expected site {site.name!r} to be one of {', '.join(KINDS)}, got {site.kind!r}")
        if site.firing_rate is not None and not 0 <= site.firing_rate <= 1 + ROUNDING:
            raise ValueError(f"expected the firing rate of site {site.name!r} in 0..1, got {site.firing_rate}")
        if site.temporal_bias_rms:
            self._check_steps(f"temporal_bias_rms of site {site.name!r}", site.temporal_bias_rms)
            bad = [value for value in site.temporal_bias_rms if not (math.isfinite(value) and value >= 0)]
            if bad:
                raise ValueError(f"expected temporal_bias_rms of site {site.name!r} finite and >= 0, got {bad[0]}")


def write_results_json(results: RunResults, folder: str | os.PathLike[str]) -> Path:
    """Write results.json into `folder` and return its path."""
    path = Path(folder) / RESULTS_FILE
    write_json_atomic(path, results.to_json())
    return path


def read_results_json(path: str | os.PathLike[str]) -> RunResults:
    """Read a results.json.

    Raises:
        ValueError: the file is not JSON, or not that of a run; the path is named.
    """
    try:
        return RunResults.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def to_plain(value: Any) -> Any:
    """`value` in what JSON and YAML can hold: a setting of any other type becomes its text."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in value]
    if isinstance(value, Enum):
        return to_plain(value.value)
    if value is None or isinstance(value, bool | int) or type(value) is str:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    return str(value)


def _check_accuracies(name: str, values: Sequence[float]) -> None:
    bad = [value for value in values if not 0 <= value <= 1]
    if bad:
        raise ValueError(f"expected {name} in 0..1, got {bad[0]}")


def _look_up(content: Mapping[str, Any], place: Sequence[str]) -> Any:
    """What stands at `place`, None if nothing does."""
    for key in place[:-1]:
        content = content.get(key, {})
    return content.get(place[-1])
