"""Weights from a file: safetensors, a PyTorch state dict, or a checkpoint of Lightning or timm that holds one."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

SHOWN = 5

__all__ = ["assign_weights", "load_weights", "read_weights"]


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a file without running any code in it.

    Of a Lightning checkpoint of this package, the entries below `network.` are returned, without that prefix.

    Raises:
        FileNotFoundError: There is no file at `path`.
        ValueError: The file is damaged or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a file of weights at {path}, found none; give the path of a safetensors or PyTorch file"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"expected safetensors or a PyTorch state dict (tensors only) in {path}, could not read it: {reason}"
        ) from error
    return _state_dict(content, path)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict):
        for key in ("state_dict", "model"):
            if isinstance(content.get(key), dict):
                content = content[key]
                break
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(
            f"expected a state dict (names and tensors) in {path}, got {type(content).__name__} with other content"
        )
    prefix = next((p for p in ("network.", "module.") if any(key.startswith(p) for key in content)), "")
    content = {key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)}
    # torch.compile puts the compiled module under this name
    return {key.removeprefix("_orig_mod."): value for key, value in content.items()}


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """Load the weights in a file into `network`, in place, and return the network: `read_weights`, `assign_weights`."""
    return assign_weights(network, read_weights(path), path)


def assign_weights(network: nn.Module, weights: dict[str, Tensor], source: str | Path) -> nn.Module:
    """Give `network` the weights read from the file `source`, in place, and return the network.

    Every parameter and buffer must be there with the same shape and nothing else may be; only the batch counters of
    normalisation layers may be missing.

    Raises:
        ValueError: The weights belong to another network: lists missing and unexpected keys and differing shapes.
    """
    own = network.state_dict()
    missing = [key for key in own if key not in weights and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in weights if key not in own]
    shapes = [
        f"{key}: network {tuple(own[key].shape)}, file {tuple(weights[key].shape)}"
        for key in own
        if key in weights and own[key].shape != weights[key].shape
    ]
    if missing or unexpected or shapes:
        problems = [
            f"{len(keys)} {title} ({'; '.join(keys[:SHOWN])}{'; …' if len(keys) > SHOWN else ''})"
            for title, keys in (
                ("missing keys", missing),
                ("unexpected keys", unexpected),
                ("differing shapes", shapes),
            )
            if keys
        ]
        raise ValueError(
            f"the weights in {source} are not those of {type(network).__name__}: {', '.join(problems)}; "
            f"give the network's name and number of classes for which they were trained"
        )
    network.load_state_dict(weights, strict=False)
    return network
