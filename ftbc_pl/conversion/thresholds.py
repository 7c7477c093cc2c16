"""Measure the thresholds of ReLU sites on the ANN's activations."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ftbc_pl.conversion.diagnosis import where_not_finite
from ftbc_pl.distributed import in_any_process, maximum_over_processes, sum_over_processes
from ftbc_pl.functional.thresholds import FEWEST_STEPS, histogram, mse_threshold, percentile_threshold
from ftbc_pl.layers import SpikingNeuron, TemporalDifference
from ftbc_pl.simulation import Redirection, SpikingNetwork
from ftbc_pl.tracing.calls import Call


class Observation:
    """Visitor of the plain ANN that hands each measured activation to a function."""

    def __init__(self, observe: Callable[[Call, SpikingNeuron, Tensor], None], sites: set[str]) -> None:
        """Observe the sites with these names."""
        self.observe = observe
        self.sites = sites

    def neuron(self, call: Call, site: SpikingNeuron, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply the ANN's activation and look at it."""
        out = activation(x)
        if call.name in self.sites:
            self.observe(call, site, out)
        return out

    def rate_exact(
        self, call: Call, site: TemporalDifference, inputs: list[Tensor], function: Callable[..., Tensor]
    ) -> Tensor:
        """Do what the ANN does."""
        return function(*inputs)


@torch.no_grad()
def measure_thresholds_(
    snn: SpikingNetwork, batches: list[Tensor], threshold: str | float, v0: float, search_steps: int | None = None
) -> None:
    """Set the thresholds of all sites that have none of their own, in place.

    Runs the ANN over the batches once for the maximum and, except for `max`, once more for histograms. Sums are taken
    over all processes. Dead channels get the largest threshold of their layer. No threshold exceeds the upper bound of
    its activation.

    Args:
        snn: The spiking network.
        batches: Images (B, ...), shared out over the processes.
        threshold: `mse`, `max` or a percentile in (1, 100].
        v0: Membrane at the start as a fraction of θ.
        search_steps: Timesteps that `mse` assumes; default: T, but no fewer than four.

    Raises:
        ValueError: A site has NaN or infinite activations.
    """
    sites = {call.name: site for call, site in snn.neurons() if call.threshold is None}
    bounds = {call.name: math.inf if call.record.upper is None else call.record.upper for call, _ in snn.neurons()}
    maxima = {name: torch.zeros_like(site.threshold) for name, site in sites.items()}

    def see_maximum(call: Call, site: SpikingNeuron, activation: Tensor) -> None:
        others = [dim for dim in range(activation.ndim) if dim != call.channel_dim]
        torch.maximum(maxima[call.name], activation.amax(others), out=maxima[call.name])

    _run(snn, batches, Observation(see_maximum, set(sites)))
    for name, maximum in maxima.items():
        if in_any_process(not bool(maximum.isfinite().all()), maximum.device):
            raise ValueError(
                f"Site {name} has NaN or infinite activations: the weights or the images are broken: "
                f"{where_not_finite(snn.network, batches)}."
            )
        maximum_over_processes(maximum)
    thresholds = maxima
    if threshold != "max":
        counts: dict[str, Any] = {}

        def count(call: Call, site: SpikingNeuron, activation: Tensor) -> None:
            counts[call.name] = counts.get(call.name, 0) + histogram(activation, maxima[call.name], call.channel_dim)

        _run(snn, batches, Observation(count, set(sites)))
        thresholds = {}
        for name, maximum in maxima.items():
            total = sum_over_processes(counts[name])
            if threshold == "mse":
                steps, fewest = (snn.num_steps, FEWEST_STEPS) if search_steps is None else (search_steps, 1)
                thresholds[name] = mse_threshold(total, maximum, steps, v0, fewest)
            else:
                thresholds[name] = percentile_threshold(total, maximum, float(threshold))
    for name, site in sites.items():
        measured = thresholds[name]
        largest = measured.max()
        positive = torch.where(measured > 0, measured, largest if largest > 0 else 1.0)
        site.threshold.copy_(positive.clamp(max=bounds[name]))


def _run(snn: SpikingNetwork, batches: list[Tensor], visitor: Observation) -> None:
    for images in batches:
        Redirection(snn.network, snn.trace, snn.sites, visitor).run(images)
