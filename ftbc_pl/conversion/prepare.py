"""Exchange the activations of an ANN before it is trained."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ftbc_pl.conversion.batch import to_images
from ftbc_pl.conversion.copies import copied
from ftbc_pl.conversion.errors import ConversionError
from ftbc_pl.layers import Activation
from ftbc_pl.registry import ACTIVATIONS

_MEASURED_QUANTILE = 0.999


def prepare(
    model: nn.Module,
    activation: str = "qcfs",
    *,
    levels: int = 8,
    threshold: float | None = None,
    batches: Iterable[Any] | None = None,
) -> nn.Module:
    """Return a copy of `model` whose ReLU and ReLU6 modules are exchanged.

    Args:
        model: A network with ReLU or ReLU6 modules.
        activation: `relu` leaves the network as it is; `qcfs` gives each module a QCFS with a learnable threshold
            (Bu et al., ICLR 2022); `rts` a ReLU clipped at a fixed threshold (Deng & Gu, ICLR 2021); any other is
            one that you registered, as its name or `module:name`.
        levels: Quantisation levels L of QCFS.
        threshold: θ at the start, in activation units. Default: measured if `batches` is given, else 8 for QCFS (as
            in the paper) and 1 for RTS.
        batches: Training images; the first batch measures the start thresholds, as the 99.9th percentile of the
            positive activations of each module.

    Raises:
        ConversionError: The network has no ReLU module.
        ValueError: An argument is out of range.
    """
    prepared = copied(model)
    if activation == "relu":
        return prepared
    chosen = ACTIVATIONS[activation]
    relus = [module for module in prepared.modules() if isinstance(module, nn.ReLU | nn.ReLU6)]
    if not relus:
        raise ConversionError(
            [f"(network): {type(model).__name__} has no ReLU module to exchange; use nn.ReLU, not F.relu"]
        )
    start = chosen.start if threshold is None else threshold
    device = next((parameter.device for parameter in prepared.parameters()), torch.device("cpu"))
    exchanged: dict[nn.Module, nn.Module] = {module: chosen(levels, start).to(device) for module in relus}
    for parent in list(prepared.modules()):
        for name, child in list(parent.named_children()):
            if child in exchanged:
                setattr(parent, name, exchanged[child])
    # Lets a saved network be rebuilt from its name.
    prepared.prepared = {"activation": activation, "levels": levels}  # type: ignore[assignment]
    if threshold is None and batches is not None:
        measure_start_thresholds_(prepared, batches)
    return prepared


@torch.no_grad()
def measure_start_thresholds_(network: nn.Module, batches: Iterable[Any]) -> None:
    """Set θ of each trainable activation to the 99.9th percentile of the positive values that a ReLU would have there.

    Args:
        network: A prepared network; its thresholds are changed in place. Modules that put out nothing positive keep
            theirs.
        batches: Training images; the first batch is used.
    """
    found: dict[nn.Module, float] = {}

    def run_as_relu(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        activation = args[0].relu()
        positive = activation[activation > 0].float()
        if positive.numel():
            rank = max(1, int(positive.numel() * _MEASURED_QUANTILE))
            found[module] = max(found.get(module, 0.0), positive.kthvalue(rank).values.item())
        return activation

    sites = [module for module in network.modules() if isinstance(module, Activation)]
    handles = [module.register_forward_hook(run_as_relu) for module in sites]
    training = network.training
    try:
        network.eval()(to_images(next(iter(batches))).to(next(network.parameters()).device))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    for module, measured in found.items():
        module.threshold.fill_(measured)  # type: ignore[union-attr, operator]
