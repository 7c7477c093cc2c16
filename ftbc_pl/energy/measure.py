"""Count the spikes of a network, and what each of them causes, while it runs."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ftbc_pl.conversion.batch import finite_images
from ftbc_pl.distributed import maximum_over_processes, progress_bar, sum_over_processes
from ftbc_pl.energy.cost import EnergyCost
from ftbc_pl.energy.fan_out import FanOut, find_fan_out
from ftbc_pl.functional.neuron import per_channel
from ftbc_pl.layers import SpikingNeuron
from ftbc_pl.simulation import Simulation, SpikingNetwork
from ftbc_pl.tracing import Call

_EXAMPLES = 2  # a batch of one would lose its dimension where a network squeezes


class EnergyMeter:
    """Runs a spiking network as it runs itself, and counts."""

    def __init__(self, snn: SpikingNetwork) -> None:
        """Start with no images."""
        self.snn = snn
        self.images = 0
        self.names = [call.name for call, _ in snn.neurons()]
        shape = (len(self.names), len(snn.prediction_steps))
        self.spikes = {name: torch.zeros(shape[1], dtype=torch.float64, device=snn.device) for name in self.names}
        self.sops = {name: torch.zeros_like(spikes) for name, spikes in self.spikes.items()}
        self.found: tuple[torch.Size, FanOut] | None = None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Any:
        """Simulate as the network itself does, with the same outputs, and count.

        Args:
            images: (B, ...), all of one size.

        Raises:
            ValueError: Images of another size came before.
        """
        if self.found is None:
            self.found = images.shape[1:], find_fan_out(self.snn, images[:_EXAMPLES])
        size, fan_out = self.found
        if images.shape[1:] != size:
            raise ValueError(
                f"Expected images of {tuple(size)}, got {tuple(images.shape[1:])}: what a spike causes depends on the "
                "size, so measure each size by itself."
            )
        self.images += len(images)
        return self.snn.simulate(images, lambda steps: _Counting(steps, self, fan_out))

    def compute(self) -> EnergyCost:
        """The costs of one image, over the images of all processes.

        Raises:
            ValueError: There were no images.
        """
        device = self.snn.device
        counts = [*self.spikes.values(), *self.sops.values()]
        images = torch.tensor([self.images], dtype=torch.float64, device=device)
        totals = sum_over_processes(torch.cat([images, *counts])).cpu()
        neurons, synapses, ann_macs, step_macs, static_macs = self._sizes()
        if not totals[0]:
            raise ValueError("There is nothing to measure: the loader is empty.")
        spikes, sops = (totals[1:] / totals[0]).view(2, len(self.names), -1)
        return EnergyCost(
            images=int(totals[0]),
            sites=tuple(self.names),
            site_spikes=spikes,
            site_sops=sops,
            neurons=neurons,
            synapses=synapses.item(),
            ann_macs=ann_macs.item(),
            step_macs=step_macs.item(),
            static_macs=static_macs.item(),
            timesteps=self.snn.prediction_steps,
        )

    def _sizes(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Neurons of each site, synapses and MACs of the network, also in a process that has had no images."""
        sizes = torch.zeros(len(self.names) + 4, dtype=torch.float64)
        if self.found is not None:
            _, found = self.found
            sites = [call.record for call, _ in self.snn.neurons()]
            synapses = sum(site.rows * found.fan_out[site.name].double().sum().item() for site in sites)
            macs = (found.ann_macs, found.step_macs, found.static_macs)
            neurons = [site.size for site in sites]
            sizes = torch.tensor([*neurons, synapses, *macs], dtype=torch.float64)
        sizes = maximum_over_processes(sizes.to(self.snn.device)).cpu()
        return sizes[:-4], sizes[-4], sizes[-3], sizes[-2], sizes[-1]


class _Counting(Simulation):
    """Visitor that counts the spikes of each step."""

    def __init__(self, num_steps: int, meter: EnergyMeter, fan_out: FanOut) -> None:
        super().__init__(num_steps)
        self.meter, self.fan_out = meter, fan_out.fan_out

    def simulate(self, call: Call, site: SpikingNeuron, current: Tensor, out: Tensor) -> None:
        """Fire, and add up over the images how often each neuron has."""
        first = site.step
        super().simulate(call, site, current, out)
        # The sum over the images is a multiple of what a spike adds, but for rounding.
        quantum = per_channel(site.quantum.float(), out.ndim - 1, site.channel_dim)[0]
        fired = (_sum_over_images(out) / quantum).round_().flatten(1).double()
        steps = slice(first, site.step)
        self.meter.spikes[call.name][steps] += fired.sum(1)
        self.meter.sops[call.name][steps] += fired @ self.fan_out[call.name].flatten().double()


def _sum_over_images(out: Tensor) -> Tensor:
    """Sum of (K, B, C, ...) over B, (K, C, ...) float32; in the order of the memory, which is ten times as fast."""
    dims = sorted(range(2, out.ndim), key=out.stride, reverse=True)
    sums = out.permute(0, 1, *dims).sum(1, dtype=torch.float32)
    return sums.permute(0, *(1 + dims.index(dim) for dim in range(2, out.ndim)))


def measure_energy(snn: SpikingNetwork, loader: Iterable[Any], *, progress: bool = True) -> EnergyCost:
    """Count what a spiking network does for an image, up to every timestep, and what its ANN does.

    Every spike is followed to the weights that it meets: one synaptic operation each. Inside `snn.uncalibrated()` the
    network is measured without its temporal bias.

    Args:
        snn: A converted network.
        loader: Images (B, ...) or (images, labels), all of one size; in a distributed run each process hands in its
            own.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: The loader is empty, or holds images of several sizes.
    """
    meter = EnergyMeter(snn)
    with torch.autocast(snn.device.type, enabled=False):
        for batch in progress_bar(loader, "Counting spikes", progress):
            meter(finite_images(batch).to(snn.device))
    return meter.compute()
