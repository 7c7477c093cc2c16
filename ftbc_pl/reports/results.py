"""What one run measured, as plain data: the content of results.json."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
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


@dataclass(frozen=True)
class RunResults:
    """Accuracies (0..1) of the ANN and of the spiking network at t = 1..T, and how they came about.

    `images` is the number of images of `split` that the accuracies were measured on. `accuracy_calibrated` and
    `calibration` are None when calibration is switched off. `conversion` holds the totals of the conversion report.

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

    def __post_init__(self) -> None:
        """Check lengths and ranges."""
        if self.num_steps < 1:
            raise ValueError(f"expected num_steps of at least 1, got {self.num_steps}")
        if self.split not in SPLITS:
            raise ValueError(f"expected split to be one of {', '.join(SPLITS)}, got {self.split!r}")
        if self.images < 1:
            raise ValueError(f"expected accuracies measured on at least one image, got images = {self.images}")
        _check_accuracies("ann_accuracy", [self.ann_accuracy])
        self._check_steps("accuracy_uncalibrated", self.accuracy_uncalibrated)
        _check_accuracies("accuracy_uncalibrated", self.accuracy_uncalibrated)
        if self.accuracy_calibrated is not None:
            self._check_steps("accuracy_calibrated", self.accuracy_calibrated)
            _check_accuracies("accuracy_calibrated", self.accuracy_calibrated)
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
    def accuracy_final(self) -> float:
        """Accuracy at t = T: calibrated if calibration ran, else uncalibrated."""
        return (self.accuracy_calibrated or self.accuracy_uncalibrated)[-1]

    def to_json(self) -> dict[str, Any]:
        """The content of results.json, made of what JSON can hold only."""
        return {
            "ann": {"accuracy": self.ann_accuracy},
            "num_steps": self.num_steps,
            "split": self.split,
            "images": self.images,
            "accuracy": {
                "uncalibrated": list(self.accuracy_uncalibrated),
                "calibrated": None if self.accuracy_calibrated is None else list(self.accuracy_calibrated),
            },
            "calibration": to_plain(self.calibration),
            "conversion": to_plain(self.conversion),
            "sites": [_site_to_json(site) for site in self.sites],
            "settings": to_plain(self.settings),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            ValueError: a key is missing or a value is out of its range.
        """
        try:
            return cls(
                ann_accuracy=content["ann"]["accuracy"],
                num_steps=content["num_steps"],
                split=content["split"],
                images=content["images"],
                accuracy_uncalibrated=content["accuracy"]["uncalibrated"],
                accuracy_calibrated=content["accuracy"]["calibrated"],
                calibration=content["calibration"],
                conversion=content["conversion"],
                sites=[SiteRecord.from_dict(site) for site in content["sites"]],
                settings=content["settings"],
                versions=content["versions"],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"expected the content of a {RESULTS_FILE}, got one with a fault at {error}") from error

    def _check_steps(self, name: str, values: Sequence[float]) -> None:
        if len(values) != self.num_steps:
            raise ValueError(f"expected {name} to hold one number a step, {self.num_steps}, got {len(values)}")

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


def _site_to_json(site: SiteRecord) -> dict[str, Any]:
    threshold = None if site.threshold is None else site.threshold._asdict()
    return to_plain(asdict(site) | {"threshold": threshold})  # type: ignore[no-any-return]
