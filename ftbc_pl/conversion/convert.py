"""From an ANN to a spiking network."""

import copy
import warnings
from collections.abc import Iterable
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ftbc_pl.conversion.calls import Call
from ftbc_pl.conversion.check import check_conversion
from ftbc_pl.conversion.errors import ConversionError
from ftbc_pl.conversion.fold import fold_batch_norm_
from ftbc_pl.conversion.measure import Threshold, check_threshold, measure_thresholds_
from ftbc_pl.conversion.network import SpikingNetwork
from ftbc_pl.conversion.operations import Kind
from ftbc_pl.conversion.trace import trace
from ftbc_pl.layers import SpikingNeuron, TemporalDifference


def convert(
    ann: nn.Module,
    num_steps: int,
    *,
    batches: Iterable[Any] | None = None,
    num_batches: int = 1,
    threshold: Threshold = "mse",
    v0: float = 0.5,
    smooth: Literal["error", "rate"] = "error",
    fold_bn: bool = False,
    example: Tensor | None = None,
    check: bool = True,
    measure: bool = True,
) -> SpikingNetwork:
    """Convert a trained ANN into a spiking network; the ANN is left as it is.

    Each call of a ReLU, ReLU6, QCFS or clipped ReLU becomes a population of integrate-and-fire neurons. Max pooling,
    gates, normalisation and attention get the rate-exact replacement.

    Args:
        ann: The trained network.
        num_steps: Number of timesteps T.
        batches: Images (B, ...) or (images, labels) from the training set; needed where thresholds must be measured.
        num_batches: How many of the batches are used.
        threshold: ``mse``, ``max`` or a percentile: how the thresholds of ReLU sites are measured, one a channel, at
            most the bound of a clipped ReLU or ReLU6. QCFS has its own.
        v0: Membrane at the start as a fraction of the threshold.
        smooth: ``rate`` runs GELU, SiLU and the like without spikes, by the rate-exact replacement.
        fold_bn: Whether batch normalisation is folded into the layers before it, where it can be: fewer operations at
            each timestep, outputs of the ANN that are the same to rounding.
        example: A small input batch (B, ...); default: the first of ``batches``, or noise of the size in the network's
            timm config.
        check: Whether the conversion is checked on the example (see :mod:`ftbc_pl.conversion.check`).
        measure: Whether missing thresholds are measured; if not, they are 1 until a state dict is loaded.

    Returns:
        The spiking network, not calibrated yet.

    Raises:
        ConversionError: Some sites can't be converted; lists all of them.
        ValueError: An argument is out of range, or thresholds must be measured and ``batches`` is missing.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}.")
    threshold = check_threshold(threshold)
    network = copy.deepcopy(ann).eval().requires_grad_(False)
    device = _device(network)
    images = [to_images(batch).to(device) for batch in islice(batches, num_batches)] if batches is not None else []
    if example is None:
        example = images[0][:2] if images else _noise(network)
    example = example.to(device)
    if len(example) < 2:
        example = torch.cat([example, example])
    folded = fold_batch_norm_(network, example) if fold_bn else {}
    # A copy, since a network that keeps its activations (attention maps, say) would hold the graph of this forward.
    found = trace(copy.deepcopy(network), example, smooth=smooth == "rate")
    if found.problems:
        raise ConversionError(found.problems)
    if not any(call.kind is Kind.SPIKING for call in found.calls):
        if smooth == "error" or not found.calls:
            raise ConversionError(["(network): no ReLU or QCFS was called: nothing would spike; see ftbc_pl.prepare"])
        warnings.warn(
            "No activation of this network is a ReLU: with smooth='rate' it is converted, but nothing in it spikes.",
            stacklevel=2,
        )
    sites = [_site(call, num_steps, v0) for call in found.calls]
    options: dict[str, Any] = {"num_steps": num_steps, "threshold": threshold, "v0": v0, "smooth": smooth}
    options |= {"fold_bn": fold_bn, "input_size": list(example.shape[1:])}
    snn = SpikingNetwork(network, found, sites, num_steps, options, folded).to(device)
    if check:
        check_conversion(snn, example)
    unknown = [call for call, _ in snn.neurons() if call.threshold is None]
    if unknown and measure:
        if not images:
            raise ValueError(
                f"Site {unknown[0].name} ({unknown[0].operation}) has no learned threshold, so it must be "
                "measured: pass `batches=` with images of the training set."
            )
        measure_thresholds_(snn, images, threshold, v0)
    return snn


def to_images(batch: Any) -> Tensor:
    """Images of a batch that is a tensor or a sequence that begins with one."""
    images = batch if isinstance(batch, Tensor) else batch[0]
    if not isinstance(images, Tensor):
        raise TypeError(f"Expected batches of images or (images, labels), got {type(images).__name__}.")
    return images


def _site(call: Call, num_steps: int, v0: float) -> nn.Module:
    if call.kind is not Kind.SPIKING:
        return TemporalDifference()
    channels = call.shape[call.channel_dim - 1]
    if call.threshold is None:
        theta = torch.full((channels,), 1.0 if call.upper is None else min(1.0, call.upper))
    else:
        theta = call.threshold.detach().float().expand(channels).clone()
    return SpikingNeuron(num_steps, theta, v0, call.channel_dim)


def _device(network: nn.Module) -> torch.device:
    return next((value.device for value in network.parameters()), torch.device("cpu"))


def _noise(network: nn.Module) -> Tensor:
    config = getattr(network, "pretrained_cfg", None) or {}
    if "input_size" not in config:
        raise ValueError("The input size of this network is not known: pass `example=` with a small batch of images.")
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *config["input_size"], generator=generator, device=generator.device)
