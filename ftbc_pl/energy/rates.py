"""How often the neurons of each site fire."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from ftbc_pl.energy.measure import measure_energy
from ftbc_pl.simulation import SpikingNetwork


def measure_firing_rates(snn: SpikingNetwork, loader: Iterable[Any], *, progress: bool = True) -> dict[str, Tensor]:
    """Measure the firing rates of a spiking network.

    Args:
        snn: A converted network.
        loader: Images (B, ...) or (images, labels), all of one size; in a distributed run each process hands in its
            own.
        progress: Whether to show a progress bar.

    Returns:
        Spikes per neuron and step, float64 in 0..1, by name of the site, in forward order: (T,), at each step; by the
        schedule `accumulate` (1,), the mean over the train.

    Raises:
        ValueError: The loader is empty, or holds images of several sizes.
    """
    cost = measure_energy(snn, loader, progress=progress)
    steps = snn.num_steps // len(snn.prediction_steps)  # that a number of spikes is of
    rates = cost.site_spikes / (steps * cost.neurons.unsqueeze(1))
    return dict(zip(cost.sites, rates, strict=True))
