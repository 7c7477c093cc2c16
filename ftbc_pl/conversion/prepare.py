"""Exchange the activations of an ANN before it is trained."""

import copy
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ftbc_pl.conversion.convert import to_images
from ftbc_pl.conversion.errors import ConversionError
from ftbc_pl.layers import QCFS, ClippedReLU

Activation = Literal["relu", "qcfs", "rts"]
_MEASURED_QUANTILE = 0.999


def prepare(
    model: nn.Module,
    activation: Activation = "qcfs",
    *,
    levels: int = 8,
    threshold: float | None = None,
    batches: Iterable[Any] | None = None,
) -> nn.Module:
    """Return a copy of ``model`` whose ReLU and ReLU6 modules are exchanged.

    Args:
        model: A network with ReLU or ReLU6 modules.
        activation: ``relu`` leaves the network as it is; ``qcfs`` gives each module a QCFS with a learnable threshold
            (Bu et al., ICLR 2022); ``rts`` a ReLU clipped at a fixed threshold (Deng & Gu, ICLR 2021).
        levels: Quantisation levels L of QCFS.
        threshold: θ at the start, in activation units. Default: measured if ``batches`` is given, else 8 for QCFS (as
            in the paper) and 1 for RTS.
        batches: Training images; the first batch measures the start thresholds, as the 99.9th percentile of the
            positive activations of each module.

    Raises:
        ConversionError: The network has no ReLU module.
        ValueError: An argument is out of range.
    """
    if activation not in ("relu", "qcfs", "rts"):
        raise ValueError(f"activation must be 'relu', 'qcfs' or 'rts', got {activation!r}.")
    prepared = copy.deepcopy(model)
    if activation == "relu":
        return prepared
    relus: dict[str, nn.Module] = {
        name: module for name, module in prepared.named_modules() if isinstance(module, nn.ReLU | nn.ReLU6)
    }
    if not relus:
        raise ConversionError(
            [f"(network): {type(model).__name__} has no ReLU module to exchange; use nn.ReLU, not F.relu"]
        )
    measured = _measure(prepared, relus, batches) if threshold is None and batches is not None else {}
    default = 8.0 if activation == "qcfs" else 1.0
    exchanged: dict[nn.Module, nn.Module] = {}
    for name, module in relus.items():
        start = measured.get(name, default if threshold is None else threshold)
        exchanged[module] = QCFS(levels, start) if activation == "qcfs" else ClippedReLU(start)
    for parent in list(prepared.modules()):
        for name, child in list(parent.named_children()):
            if child in exchanged:
                setattr(parent, name, exchanged[child])
    # Lets a saved network be rebuilt from its name.
    prepared.prepared = {"activation": activation, "levels": levels}  # type: ignore[assignment]
    return prepared


@torch.no_grad()
def _measure(model: nn.Module, relus: dict[str, nn.Module], batches: Iterable[Any]) -> dict[str, float]:
    """99.9th percentile of the positive activations of each module on the first batch."""
    found: dict[str, float] = {}

    def hook_for(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            positive = output[output > 0].flatten()
            if positive.numel():
                rank = max(1, int(positive.numel() * _MEASURED_QUANTILE))
                found[name] = max(found.get(name, 0.0), positive.kthvalue(rank).values.item())

        return hook

    handles = [module.register_forward_hook(hook_for(name)) for name, module in relus.items()]
    training = model.training
    parameter = next(model.parameters())
    try:
        model.eval()(to_images(next(iter(batches))).to(parameter.device))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return found
