"""From an ANN to a spiking network."""

import copy
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ftbc_pl.conversion.batch import first_batches, to_images
from ftbc_pl.conversion.check import check_conversion
from ftbc_pl.conversion.copies import copied_without_wrappers, unwrapped, without_shell
from ftbc_pl.conversion.diagnosis import check_activations, check_finite, check_thresholds, run_once
from ftbc_pl.conversion.errors import ConversionError
from ftbc_pl.conversion.fold import folded_copy
from ftbc_pl.conversion.hooks import drop_observers_
from ftbc_pl.conversion.thresholds import measure_thresholds_
from ftbc_pl.layers import SpikingNeuron, TemporalDifference
from ftbc_pl.options import ConversionOptions
from ftbc_pl.simulation import SpikingNetwork
from ftbc_pl.simulation.accumulate import AccumulatingNeuron, longest_chain
from ftbc_pl.sites import ConversionReport
from ftbc_pl.tracing import Call, Kind, Trace, trace

_MOST_STEPS = 4096  # a readout of 4096² weights takes 64 MiB

__all__ = ["convert", "to_images"]


def convert(
    ann: nn.Module,
    num_steps: int = 8,
    *,
    batches: Iterable[Any] | None = None,
    num_batches: int = 1,
    example: Tensor | None = None,
    check: bool = True,
    measure: bool = True,
    **options: Any,
) -> SpikingNetwork:
    """Convert a trained ANN into a spiking network; the ANN is left as it is.

    Each call of a ReLU, ReLU6, QCFS or clipped ReLU becomes a population of integrate-and-fire neurons. Max pooling,
    gates, normalisation and attention get the rate-exact replacement.

    Args:
        ann: The trained network; one inside DataParallel, DDP, torch.compile or an average of weights is taken out.
            Forward hooks that change nothing are left out of the copy.
        num_steps: Number of timesteps T, at most 4096; 8 as on the command line.
        batches: Images (B, ...), (images, labels, ...) or dicts of them, from the training set; needed where thresholds
            must be measured.
        num_batches: How many of the batches are used.
        example: A small input batch (B, ...); default: the first of `batches`, or noise of the size in the network's
            timm config.
        check: Whether the conversion is checked on the example (see `ftbc_pl.conversion.check`).
        measure: Whether missing thresholds are measured; if not, they are 1 until a state dict is loaded.
        **options: `threshold`, `v0`, `smooth`, `fold_bn`, `schedule` of `ftbc_pl.options.ConversionOptions`.

    Returns:
        The spiking network, not calibrated yet.

    Raises:
        ConversionError: Some sites can't be converted; lists all of them. Or the network does not run on the images,
            or has NaN, infinite values or thresholds that are not positive in it.
        TypeError: A keyword is no option, the network no module, or a batch of no form that is known.
        ValueError: An argument is out of range, or thresholds must be measured and `batches` is missing.
    """
    chosen = ConversionOptions.of({"num_steps": num_steps} | options, "convert")
    if isinstance(ann, SpikingNetwork):
        raise TypeError("This is a spiking network already: convert its ANN anew, which is its attribute network.")
    ann = unwrapped(ann)
    check_activations(ann)
    network = copied_without_wrappers(ann).eval().requires_grad_(False)
    device = _device(network)
    images = [] if batches is None else [found.to(device) for found in first_batches(batches, num_batches)]
    if example is None:
        example = images[0][:2] if images else _noise(network)
    example = to_images(example)
    example = (torch.cat([example, example]) if len(example) < 2 else example).to(device)
    drop_observers_(network, example)
    outputs = run_once(network, example, images[0] if images else None)
    network = without_shell(network, example, outputs)
    if check:
        check_finite(network, example, outputs)
    numbers: Mapping[str, int] = {}
    if chosen.fold_bn:
        found = folded_copy(network, example, check)
        network, numbers = (network, numbers) if found is None else found
        chosen = replace(chosen, fold_bn=found is not None)  # as it is saved, it is made again when it is loaded
    snn = _assembled(network, _trace(network, example, chosen), chosen, example, numbers)
    if snn.trace.static_prefix and snn.trace.sizes_read and not _holds(snn, example):
        snn = _assembled(network, snn.trace.without_prefix(), chosen, example, numbers)
    if check:
        check_conversion(snn, example)
    unknown = [call for call, _ in snn.neurons() if call.threshold is None]
    if unknown and measure:
        if not images:
            raise ValueError(
                f"Site {unknown[0].name} ({unknown[0].record.operation}) has no learned threshold, so it must be "
                "measured: pass `batches=` with images of the training set."
            )
        measure_thresholds_(snn, images, chosen.threshold, chosen.v0)
    return snn


def _assembled(
    network: nn.Module, found: Trace, options: ConversionOptions, example: Tensor, folded: Mapping[str, int]
) -> SpikingNetwork:
    """The spiking network of a trace."""
    sites = [_site(call, options) for call in found.calls]
    report = _report(found, options, folded)
    if options.schedule == "accumulate":
        depth = longest_chain(network, found, sites, example)
        report = replace(report, latency=max(depth, 1) * options.num_steps)
    size = tuple(example.shape[1:])
    return SpikingNetwork(network, found, sites, options, size, report, example.dtype).to(example.device)


def _holds(snn: SpikingNetwork, example: Tensor) -> bool:
    """Whether a network that reads the size of its batch may see one timestep before its first sites.

    It does not if that number is used behind them, where there are T times as many rows. Noise decides, so that a saved
    network is converted in the same way when it is loaded, without images.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, *example.shape[1:], generator=generator).to(example)
    try:
        check_conversion(snn, noise)
    except Exception:
        return False
    return True


def _trace(network: nn.Module, example: Tensor, options: ConversionOptions) -> Trace:
    """Find the sites.

    Raises:
        ConversionError: Some can't be converted, or there are none.
    """
    smooth = options.smooth == "rate"
    # A copy, since a network that keeps its activations (attention maps, say) would hold the graph of this forward.
    found = trace(copy.deepcopy(network), example, smooth=smooth)
    if found.problems:
        raise ConversionError(found.problems)
    check_thresholds(found.calls)
    if not any(call.kind is Kind.SPIKING for call in found.calls):
        if not smooth or not found.calls:
            raise ConversionError(["(network): no ReLU or QCFS was called: nothing would spike; see ftbc_pl.prepare"])
        warnings.warn(
            "No activation of this network is a ReLU: with smooth='rate' it is converted, but nothing in it spikes.",
            stacklevel=3,
        )
    return found


def _report(found: Trace, options: ConversionOptions, folded: Mapping[str, int]) -> ConversionReport:
    """Add to the records of the sites where their thresholds come from, and what was folded into their layers."""
    measured = options.threshold if isinstance(options.threshold, str) else f"percentile {options.threshold:g}"
    records = tuple(
        replace(
            call.record,
            threshold_from=("learned" if call.threshold is not None else measured) if call.kind is Kind.SPIKING else "",
            folded=sum(folded.get(path, 0) for path in call.layers),
        )
        for call in found.calls
    )
    return ConversionReport(records, len(folded), sum(folded.values()))


def _site(call: Call, options: ConversionOptions) -> nn.Module:
    if call.kind is not Kind.SPIKING:
        return TemporalDifference()
    upper = call.record.upper
    if call.threshold is None:
        theta = torch.full((call.channels,), 1.0 if upper is None else min(1.0, upper))
    else:
        theta = call.threshold.detach().float().expand(call.channels).clone()
    make = AccumulatingNeuron if options.schedule == "accumulate" else SpikingNeuron
    return make(options.num_steps, theta, options.v0, call.channel_dim)


def _device(network: nn.Module) -> torch.device:
    return next((value.device for value in network.parameters()), torch.device("cpu"))


def _noise(network: nn.Module) -> Tensor:
    config = getattr(network, "pretrained_cfg", None) or {}
    if "input_size" not in config:
        raise ValueError(
            "The input size of this network is not known: pass `batches=` with images of the training set, which "
            "measure the thresholds of ReLU as well; for learned ones, as of QCFS, a small batch as `example=` will do."
        )
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *config["input_size"], generator=generator, device=generator.device)
