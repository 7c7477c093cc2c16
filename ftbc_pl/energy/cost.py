"""What a spiking network costs beside its ANN, in operations and in joules."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ftbc_pl.energy.conventions import CONVENTIONS, Convention, convention_of
from ftbc_pl.tables import text_table

NOT_COUNTED = "Memory traffic is not counted."


@dataclass(frozen=True)
class EnergyCost:
    """Operations of a spiking network for one image, in the mean over the images that were measured.

    Attributes:
        images: Number of images.
        sites: Names of the spiking sites, S of them.
        site_spikes: Spikes at each site and step, (S, T) float64.
        site_sops: Synaptic operations that they cause at that step, (S, T) float64.
        neurons: Neurons at each site, (S,).
        synapses: Synaptic operations if each neuron fired once.
        ann_macs: Multiplications with addition of the ANN.
        step_macs: Those of the spiking network at every step, on values that are no spikes.
        static_macs: Those that it does once, on what is the same at every step.
        timesteps: The t that there are numbers for; None: 1 … T. By the schedule `accumulate` it is T alone, and the
            spikes of that column are those of whole trains.
    """

    images: int
    sites: tuple[str, ...]
    site_spikes: Tensor
    site_sops: Tensor
    neurons: Tensor
    synapses: float
    ann_macs: float
    step_macs: float
    static_macs: float
    timesteps: tuple[int, ...] | None = None

    @property
    def num_steps(self) -> int:
        """Timesteps T."""
        return self.site_spikes.shape[1] if self.timesteps is None else self.timesteps[-1]

    @property
    def spikes(self) -> Tensor:
        """Spikes up to t, (T,)."""
        return self.site_spikes.sum(0).cumsum(0)

    @property
    def sops(self) -> Tensor:
        """Synaptic operations up to t, (T,): one for each spike and each weight that it meets."""
        return self.site_sops.sum(0).cumsum(0)

    @property
    def macs(self) -> Tensor:
        """Multiplications with addition up to t, (T,)."""
        return self.static_macs + self.step_macs * self._steps

    @property
    def membrane_updates(self) -> Tensor:
        """Additions of a step's current to a membrane up to t, (T,)."""
        return self.neurons.sum() * self._steps

    @property
    def bias_additions(self) -> Tensor:
        """Additions of a bias up to t, (T,): the layer's and the temporal bias are one number per channel and step."""
        return self.membrane_updates

    @property
    def resets(self) -> Tensor:
        """Subtractions of the threshold up to t, (T,): one per spike."""
        return self.spikes

    @property
    def neuron_operations(self) -> Tensor:
        """Additions inside the neurons up to t, (T,): updates, biases and resets. No other number includes them."""
        return self.membrane_updates + self.bias_additions + self.resets

    @property
    def firing_rate(self) -> Tensor:
        """Synaptic operations up to t as a share of those of neurons that fire at every step, (T,)."""
        return self.sops / (self._steps * max(self.synapses, 1.0))

    def joules(self, convention: str | Convention = "45nm") -> Tensor:
        """Energy up to t, (T,), of MACs and synaptic operations.

        Args:
            convention: `45nm`, `neuromorphic`, or one of your own.

        Raises:
            ValueError: There is no such convention.
        """
        prices = convention_of(convention)
        return self.macs * prices.mac + self.sops * prices.accumulate

    def ann_joules(self, convention: str | Convention = "45nm") -> float:
        """Energy of the ANN's MACs."""
        return self.ann_macs * convention_of(convention).mac

    def neuron_joules(self, convention: str | Convention = "45nm") -> Tensor:
        """Energy up to t, (T,), of the additions inside the neurons, each priced as a synaptic operation."""
        return self.neuron_operations * convention_of(convention).accumulate

    def ratio(self, convention: str | Convention = "45nm") -> Tensor:
        """Energy up to t as a share of the ANN's, (T,)."""
        return self.joules(convention) / self.ann_joules(convention)

    def break_even_rate(self, convention: str | Convention = "45nm") -> Tensor:
        """Firing rate above which the ANN is cheaper than the network simulated up to t, (T,)."""
        prices = convention_of(convention)
        left = self.ann_joules(prices) - self.macs * prices.mac
        return left / (prices.accumulate * self._steps * max(self.synapses, 1.0))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, up to t where there is a number per step."""
        return {
            "images": self.images,
            "sops": self.sops.tolist(),
            "macs": self.macs.tolist(),
            "static_macs": self.static_macs,
            "ann_macs": self.ann_macs,
            "neuron_operations": self.neuron_operations.tolist(),
            "firing_rate": self.firing_rate.tolist(),
            "conventions": {
                name: {
                    "joules": self.joules(name).tolist(),
                    "ann_joules": self.ann_joules(name),
                    "ratio": self.ratio(name).tolist(),
                    "break_even_rate": self.break_even_rate(name).tolist(),
                    "mac": convention.mac,
                    "accumulate": convention.accumulate,
                    "source": convention.source,
                }
                for name, convention in CONVENTIONS.items()
            },
            "sites": [
                {"name": name, "spikes": spikes.tolist(), "sops": sops.tolist()}
                for name, spikes, sops in zip(self.sites, self.site_spikes, self.site_sops, strict=True)
            ],
            "not_counted": NOT_COUNTED,
        }

    def __str__(self) -> str:
        """A table by timestep, and what is not in it."""
        columns = ("t", "synaptic operations", "MACs", "in neurons", *(f"of the ANN, {name}" for name in CONVENTIONS))
        counts = (self.sops, self.macs, self.neuron_operations)
        ratios = [self.ratio(name) for name in CONVENTIONS]
        rows = [
            (f"{t:.0f}", *(f"{count[i]:,.0f}" for count in counts), *(f"{100 * ratio[i]:.1f} %" for ratio in ratios))
            for i, t in enumerate(self._steps.tolist())
        ]
        last = f"For each of {self.images:,} images; the ANN has {self.ann_macs:,.0f} MACs. {NOT_COUNTED}"
        return text_table(columns, rows, last=last)

    @property
    def _steps(self) -> Tensor:
        return torch.tensor(self.timesteps or range(1, self.num_steps + 1), dtype=torch.float64)
