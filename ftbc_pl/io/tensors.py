"""The tensors of a saved network: a checksum each, and what no working network has."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ftbc_pl.layers import QCFS, ClippedReLU, SpikingNeuron
from ftbc_pl.models.weights import broken_tensors


def fingerprint(tensor: Tensor) -> dict[str, Any]:
    """Dtype, shape and SHA-256 of the bytes (row-major, as in the file) of a tensor on the CPU."""
    flat = tensor.detach().contiguous().reshape(-1)
    content: Any = flat.view(torch.uint8).numpy() if flat.numel() else b""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return {"dtype": dtype, "shape": list(tensor.shape), "sha256": hashlib.sha256(content).hexdigest()}


def check_fingerprints(tensors: Mapping[str, Tensor], written: Mapping[str, Any]) -> None:
    """Compare tensors with what was written down when they were saved.

    Raises:
        ValueError: They differ; names the first tensor that does.
    """
    for name in [*written, *tensors]:
        if name not in tensors or name not in written:
            where = "missing" if name not in tensors else "not one of those that were saved"
            raise ValueError(f"the tensor {name} is {where}")
        found, saved = fingerprint(tensors[name]), written[name]
        for key, title in (("dtype", "numbers"), ("shape", "shape"), ("sha256", "content")):
            if not isinstance(saved, dict) or saved.get(key) != found[key]:
                was = saved.get(key) if isinstance(saved, dict) else saved
                raise ValueError(
                    f"the {title} of the tensor {name} changed after it was saved: {found[key]}, was {was}"
                )


def take_types_(module: nn.Module, saved: Mapping[str, Tensor], prefix: str = "") -> None:
    """Give numbers of a module the types that they were saved in, in place.

    Args:
        module: The module.
        saved: The tensors of the file.
        prefix: What their names begin with.
    """
    own = dict([*module.named_parameters(), *module.named_buffers()])
    types = {
        name: saved[prefix + name].dtype
        for name, value in own.items()
        if prefix + name in saved and value.is_floating_point() and saved[prefix + name].is_floating_point()
    }
    others = {name: dtype for name, dtype in types.items() if own[name].dtype != dtype}
    if others and len(set(types.values())) == 1:
        module.to(next(iter(others.values())))  # what is in no file as well
        return
    for name, dtype in others.items():
        own[name].data = own[name].data.to(dtype)


def check_values(snn: nn.Module) -> None:
    """Check that a spiking network can work: no NaN, thresholds above zero.

    Raises:
        ValueError: It can't; names the tensor.
    """
    broken = broken_tensors(snn, snn.state_dict())
    if broken:
        raise ValueError(f"the tensor {broken[0]} holds NaN or infinite numbers")
    for path, module in snn.named_modules():
        if isinstance(module, SpikingNeuron | QCFS | ClippedReLU):
            theta = module.threshold.detach()
            if not (theta.isfinite() & (theta > 0)).all():
                raise ValueError(f"the tensor {path}.threshold holds {float(theta.min())}, but thresholds are above 0")
        if isinstance(module, SpikingNeuron) and not module.temporal_bias.isfinite().all():
            raise ValueError(f"the tensor {path}.temporal_bias holds infinite numbers")
    for name, value in snn.named_buffers():
        if (
            name in ("readout_weights", "uncalibrated_readout") or name.startswith("corrections.")
        ) and not value.isfinite().all():
            raise ValueError(f"the tensor {name} holds infinite numbers")
