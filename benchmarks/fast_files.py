"""Trained weights in small files: halved where they are many, cut into parts, and put together again."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save, save_file
from torch import Tensor

SMALL_BYTES = 12 * 2**20
"""Weights up to this size are written as they are, and larger files in parts of it."""
LARGE_MATRIX = 2**20
SCALE = ".scale"


def compact(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round weights of more than `SMALL_BYTES`: large matrices to 8 bits with a scale per row,
    kernels to `float16`.

    Everything else (thresholds, biases, normalisation, the last layer) stays as it is.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    if sum(value.nbytes for value in weights.values()) <= SMALL_BYTES:
        return weights
    rounded = {}
    for name, value in weights.items():
        if value.ndim == 2 and value.numel() > LARGE_MATRIX:
            scale = value.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
            rounded[name + SCALE], value = scale, (value / scale).round().to(torch.int8)
        rounded[name] = value.half() if value.ndim > 2 else value
    return rounded


def expand(rounded: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights from what `compact` made, in `float16` where they were rounded."""
    weights = {}
    for name, value in rounded.items():
        if not name.endswith(SCALE):
            weights[name] = (value * rounded[name + SCALE]).half() if value.dtype == torch.int8 else value
    return weights


def write(rounded: dict[str, Tensor], folder: Path, name: str) -> None:
    """Write weights to `name.safetensors`, or to `name.safetensors.0` and so on, each file whole at any time."""
    content = save(rounded)
    parts = [content[start : start + SMALL_BYTES] for start in range(0, len(content), SMALL_BYTES)]
    for index, part in enumerate(parts):
        path = folder / f"{name}.safetensors{f'.{index}' if len(parts) > 1 else ''}"
        unfinished = folder / f"{name}.unfinished"
        unfinished.write_bytes(part)
        os.replace(unfinished, path)


def read(folder: Path, name: str) -> dict[str, Tensor]:
    """Read what `write` wrote."""
    whole = folder / f"{name}.safetensors"
    parts = [whole] if whole.exists() else sorted(folder.glob(f"{name}.safetensors.*"))
    return load(b"".join(path.read_bytes() for path in parts))


def saved(folder: Path) -> dict[str, dict[str, Any]]:
    """What the log of a training says of each network whose weights it wrote."""
    path = folder / "log.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {record["name"]: record["saved"] for record in records if "saved" in record}


def join(folder: Path, destination: Path) -> list[str]:
    """Make weights and descriptions as in benchmarks/weights from the output of a training.

    Returns:
        Names of the networks that were found.
    """
    destination.mkdir(parents=True, exist_ok=True)
    found = saved(folder)
    for name, about in found.items():
        save_file(expand(read(folder, name)), destination / f"{name}.safetensors")
        (destination / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n")
    return list(found)


def log(folder: Path, name: str, **values: Any) -> None:
    """Add a line to the log of a training, at once."""
    line = json.dumps({"name": name} | values)
    with (folder / "log.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)
