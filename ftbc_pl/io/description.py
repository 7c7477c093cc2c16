"""The JSON file of a saved network: read with every key and type checked, since people and disks change files."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ftbc_pl.calibration import CalibrationReport
from ftbc_pl.models.images import checked
from ftbc_pl.options import ConversionOptions

FORMAT = "ftbc_pl.snn"
VERSION = 3  # 2 has no checksums, 1 no readout either
# Parts whose change would make another network, or other figures, of what was saved; another number of timesteps at
# once rounds sums differently, which may move a spike.
_SEALED = ("network", "conversion", "time_chunk", "channels_last", "sites", "report")
_LONGEST_OF_1 = 10_000  # timesteps; a number that came by accident should not ask for memory
INPUT_TYPES = ("float16", "bfloat16", "float32", "float64")
_LARGEST_INPUT = 1 << 28  # numbers in one image


def checksums(description: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each part of a description that decides what the network is."""
    return {key: _checksum(description[key]) for key in _sealed(description)}


def _sealed(description: Mapping[str, Any]) -> list[str]:
    return [*_SEALED, *(key for key in _KEYS_IF_ANY if key in description)]


def read_description(path: Path) -> dict[str, Any]:
    """Read and check the JSON file of a saved network.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is truncated, foreign, changed or lacks a key: one sentence with file and key.
    """
    if not path.is_file():
        other = path.with_suffix("")
        hint = f" {other} is another file: if it is a checkpoint, use --ckpt_path." if other.is_file() else ""
        raise FileNotFoundError(
            f"There is no saved spiking network at {path}; expected a .json beside a .safetensors.{hint}"
        )
    description = _parse(path)
    version = description.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise ValueError(f"{path} has version {version!r}, this release reads versions 1 to {VERSION}.")
    keys = _KEYS | (_KEYS_OF_3 if version >= 3 else {}) | {k: v for k, v in _KEYS_IF_ANY.items() if k in description}
    for key, (expected, check) in keys.items():
        if key not in description:
            raise ValueError(f"{path} lacks the key {key!r}: {expected}. Save the network again.")
        if not check(description[key]):
            raise ValueError(f"{path} has {_short(description[key])} under {key!r}; expected {expected}.")
    for key, text in _conversion_problems(description["conversion"]).items():
        raise ValueError(f"{path} has a wrong value under 'conversion', key {key!r}: {text}.")
    if version >= 3:
        _check_seals(path, description)
    if description["report"] is not None:
        steps = description["conversion"]["num_steps"]
        if version == 1 and steps <= _LONGEST_OF_1:  # predictions were plain means
            description["report"].setdefault("readout_weights", (1 / steps,) * steps)
        _check_report(path, description["report"])
    return description


def _parse(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is truncated or no JSON: {error}. Save the network again.") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ValueError(f"{path} is JSON, but no description of a spiking network; expected format {FORMAT!r}.")
    return description


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _checksum(value: Any) -> str:
    # Numbers as Python writes them: shortest form, the same on all machines.
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _check_seals(path: Path, description: Mapping[str, Any]) -> None:
    for key in _sealed(description):
        written = description["checksums"].get(key)
        if written is None:
            raise ValueError(f"{path} lacks the key {key!r} under 'checksums'. Save the network again.")
        if written != _checksum(description[key]):
            raise ValueError(f"{path} was changed after it was saved, under {key!r}. Save the network again.")


def _check_report(path: Path, report: dict[str, Any]) -> None:
    try:
        str(CalibrationReport.from_dict(report))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} has no report of a calibration under 'report': {reason}.") from error


def _conversion_problems(options: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with each of the arguments of the conversion."""
    allowed = {field.name for field in fields(ConversionOptions)} | {"input_size", "input_dtype"}
    checks = _OPTIONS | {key: check for key, check in _OPTIONS_IF_ANY.items() if key in options}
    problems = {key: "no argument of a conversion in this release" for key in options if key not in allowed}
    for key, (expected, check) in checks.items():
        if key not in options:
            problems[key] = f"missing; expected {expected}"
        elif not check(options[key]):
            problems[key] = f"{_short(options[key])}; expected {expected}"
    return problems


def _is_whole(value: Any, least: int = 1) -> bool:
    return type(value) is int and least <= value < 1 << 31


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_whole, value)) and math.prod(value) <= _LARGEST_INPUT


def _is_threshold(value: Any) -> bool:
    try:
        ConversionOptions(threshold=value)
    except (TypeError, ValueError):
        return False
    return type(value) in (str, int, float)


def _is_sites(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(site, list) and len(site) == 3 and all(isinstance(part, str) for part in site) for site in value
    )


def _is_corrections(value: Any) -> bool:
    """Whether a value lists calls, with the operand (-1: a layer) and the dimension of its channels."""
    return isinstance(value, list) and all(
        isinstance(one, list)
        and len(one) == 4
        and isinstance(one[0], str)
        and one[0].isidentifier()
        and all(_is_whole(number, least) for number, least in zip(one[1:], (0, -1, 0), strict=True))
        for one in value
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."


_Checks = dict[str, tuple[str, Callable[[Any], bool]]]
_KEYS: _Checks = {
    "token": ("the text that ties the two files together", lambda value: isinstance(value, str)),
    "network": ("name and arguments of the network, or null", lambda value: value is None or isinstance(value, dict)),
    "conversion": ("the arguments of the conversion", lambda value: isinstance(value, dict)),
    "time_chunk": ("a number of timesteps, or null", lambda value: value is None or _is_whole(value)),
    "channels_last": ("true or false", lambda value: isinstance(value, bool)),
    "sites": ("a list of name, operation and kind of each site", _is_sites),
    "report": ("what the calibration did, or null", lambda value: value is None or isinstance(value, dict)),
}
_KEYS_OF_3: _Checks = {
    "tensors": ("dtype, shape and checksum of each tensor", lambda value: isinstance(value, dict)),
    "checksums": ("the checksums of the other parts", lambda value: isinstance(value, dict)),
}
# Only in the files of networks that have such, or know it.
_KEYS_IF_ANY: _Checks = {
    "images": (
        "size, mean and standard deviation of the images, and the names of their classes",
        lambda value: bool(value) and checked(value) == value,
    ),
    "corrections": ("the calls whose weights were fitted, four values each", _is_corrections),
}
_OPTIONS: _Checks = {
    "num_steps": ("a number of timesteps", _is_whole),
    "v0": ("a number in [0, 1]", _is_share),
    "smooth": ("'error' or 'rate'", lambda value: value in ("error", "rate")),
    "fold_bn": ("true or false", lambda value: isinstance(value, bool)),
    "threshold": ("'mse', 'max' or a percentile in (1, 100]", _is_threshold),
    "input_size": ("the sizes of an image, such as [3, 32, 32]", _is_size),
}
# Not in the files of releases that had one schedule, and of networks that take float32.
_OPTIONS_IF_ANY: _Checks = {
    "schedule": ("'stream' or 'accumulate'", lambda value: value in ("stream", "accumulate")),
    "input_dtype": (f"one of {', '.join(INPUT_TYPES)}", lambda value: value in INPUT_TYPES),
}
