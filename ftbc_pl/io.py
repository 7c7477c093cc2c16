"""Save and load spiking networks: tensors as safetensors, everything else as JSON. Neither can run code."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ftbc_pl.calibration import CalibrationReport
from ftbc_pl.conversion import SpikingNetwork, convert, prepare
from ftbc_pl.files import atomic_path, write_json_atomic
from ftbc_pl.models import create_network

FORMAT = "ftbc_pl.snn"
VERSION = 2


def save_snn(snn: SpikingNetwork, path: str | os.PathLike[str], *, report: CalibrationReport | None = None) -> None:
    """Write ``<path>.safetensors`` and ``<path>.json``, each whole or not at all.

    Args:
        snn: A spiking network, calibrated or not.
        path: Path without suffix, such as ``out/snn``; the folder is made.
        report: What the calibration did, kept in the JSON file.
    """
    tensors_path, json_path = _paths(path)
    tensors_path.parent.mkdir(parents=True, exist_ok=True)
    # Ties the two files together, so that a mixture of two saves is noticed.
    token = secrets.token_hex(8)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in snn.state_dict().items()}
    description = {
        "format": FORMAT,
        "version": VERSION,
        "token": token,
        "network": recipe(snn.network),
        "conversion": snn.options.to_dict() | {"input_size": list(snn.input_size)},
        "time_chunk": snn.time_chunk,
        "channels_last": _is_channels_last(snn.network),
        "sites": [[call.name, call.record.operation, call.kind.value] for call in snn.calls],
        "report": None if report is None else report.to_dict(),
    }
    with atomic_path(tensors_path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={"format": FORMAT, "token": token})
    write_json_atomic(json_path, description)


def load_snn(path: str | os.PathLike[str], ann: nn.Module | None = None) -> SpikingNetwork:
    """Read what :func:`save_snn` wrote; outputs are bit-equal to those before.

    Args:
        path: Path without suffix, either of the two files, or a folder that holds ``snn.json``.
        ann: A network of the architecture that was converted, for networks that timm does not know; its weights are
            not used.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is truncated, foreign, or belongs to another network.
    """
    tensors_path, json_path = _paths(path)
    description = _read_description(json_path)
    tensors = _read_tensors(tensors_path, description["token"])
    network = _rebuild(description["network"], json_path) if ann is None else ann
    if description["channels_last"]:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    options = dict(description["conversion"])
    example = torch.zeros(2, *options.pop("input_size"))
    try:
        snn = convert(network.cpu(), example=example, check=False, measure=False, **options)
    except (AssertionError, RuntimeError, ValueError) as error:
        other = "its name builds" if ann is None else "the one handed in"
        raise ValueError(
            f"{json_path} describes another network than {other}: {error} Pass ann= with the architecture that was "
            "saved."
        ) from error
    found = [[call.name, call.record.operation, call.kind.value] for call in snn.calls]
    if found != description["sites"]:
        differing = next((a, b) for a, b in zip([*found, None], [*description["sites"], None], strict=False) if a != b)
        raise ValueError(
            f"{json_path} describes another network: it has the site {differing[1]}, the network handed in "
            f"{differing[0]}. Pass ann= with the architecture that was saved."
        )
    # Some modules of torchvision look at the version that state_dict() writes beside the tensors.
    state = snn.state_dict()
    state_with_versions = type(state)(tensors)
    state_with_versions._metadata = state._metadata  # type: ignore[attr-defined]
    try:
        snn.load_state_dict(state_with_versions)
    except RuntimeError as error:
        raise ValueError(f"{tensors_path} does not fit the network: {error}") from error
    snn.time_chunk = description["time_chunk"]
    return snn


def load_calibration(path: str | os.PathLike[str]) -> CalibrationReport | None:
    """Read what the calibration of a saved network did; None if it was not calibrated."""
    report = _read_description(_paths(path)[1])["report"]
    return None if report is None else CalibrationReport.from_dict(report)


def recipe(network: nn.Module) -> dict[str, Any] | None:
    """How to build the network again without its weights, or None if only its author can."""
    known = getattr(network, "recipe", None)
    if known is None:
        config = getattr(network, "pretrained_cfg", None) or {}
        if "architecture" not in config:
            return None
        known = {"name": config["architecture"], "num_classes": getattr(network, "num_classes", None)}
    return dict(known) | {"prepare": getattr(network, "prepared", None)}


def _rebuild(known: dict[str, Any] | None, json_path: Path) -> nn.Module:
    if known is None:
        raise ValueError(f"{json_path} holds a network that timm does not know: pass ann= with its architecture.")
    arguments = dict(known)
    prepared = arguments.pop("prepare")
    network = create_network(**arguments)
    return prepare(network, **prepared) if prepared else network


def _paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    base = Path(path)
    if base.is_dir():
        base = base / "snn"
    elif base.suffix in (".safetensors", ".json"):
        base = base.with_suffix("")
    return base.with_name(base.name + ".safetensors"), base.with_name(base.name + ".json")


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no saved spiking network at {path}; expected a .json beside a .safetensors.")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is truncated or no JSON: {error}. Save the network again.") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ValueError(f"{path} is JSON, but no description of a spiking network; expected format {FORMAT!r}.")
    if description["version"] != VERSION:
        raise ValueError(f"{path} has version {description['version']}, this release reads version {VERSION}.")
    return description


def _read_tensors(path: Path, token: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"The tensors of the spiking network are missing: {path}.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is truncated or no safetensors file: {error}. Save the network again.") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} holds tensors, but not those of a spiking network; expected format {FORMAT!r}.")
    if metadata.get("token") != token:
        raise ValueError(f"{path} and its .json come from two different saves. Save the network again.")
    return tensors


def _is_channels_last(network: nn.Module) -> bool:
    return any(
        p.ndim == 4 and not p.is_contiguous() and p.is_contiguous(memory_format=torch.channels_last)
        for p in network.parameters()
    )
