"""Which site of a spiking network is how far from the ANN, what it adds itself, and why."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ftbc_pl.conversion.batch import finite_images
from ftbc_pl.distributed import maximum_over_processes, progress_bar, sum_over_processes
from ftbc_pl.evaluation.advice import NOTHING_TO_MEND, Finding, advise
from ftbc_pl.functional.neuron import per_channel
from ftbc_pl.layers import SpikingNeuron
from ftbc_pl.simulation import Simulation, SpikingNetwork
from ftbc_pl.tables import text_table
from ftbc_pl.tracing import Call

_SHOWN = 3  # sites that the text advises on
_PLAIN = ("sites", "images", "num_steps", "learned")  # what a diagnosis holds beside a row for each site


@dataclass(frozen=True)
class Diagnosis:
    """Errors of every site, relative to the size of the ANN's activation a there; S sites, T steps.

    Where a is 0 for all images nothing can be relative to it: all errors of such a site are 0, and `dead` is 1.
    By the schedule `accumulate` there is one step, T.

    Attributes:
        sites: Names of the spiking sites.
        images: Number of images.
        num_steps: T.
        learned: Whether the threshold of each site was learned, as that of QCFS is, and not measured.
        error: Of the mean of θ·s up to t, against a: ‖mean(θ·s) − a‖ / ‖a‖, (S, T).
        own_error: What the site adds: its neurons against the ANN's activation of the mean of their real input up to t,
            (S, T).
        inherited_error: What it gets: the ANN's activation of that input against a, (S, T).
        clipped: Part of the own error at T that comes from values above the threshold, (S,), in the same unit.
        rounded: Part that would be gone if the ANN's activation had no levels, (S,).
        above: Share of the ANN's inputs that lie above the threshold, (S,).
        peak: Largest activation of the ANN, in thresholds, (S,).
        saturated: Share of channels whose mean activation in the ANN is at or above the threshold, (S,).
        dead: Share of channels that are 0 in the ANN for all images, (S,).
        silent: Share of channels that never fire and are not dead, (S,).
    """

    sites: tuple[str, ...]
    images: int
    num_steps: int
    learned: tuple[bool, ...]
    error: Tensor
    own_error: Tensor
    inherited_error: Tensor
    clipped: Tensor
    rounded: Tensor
    above: Tensor
    peak: Tensor
    saturated: Tensor
    dead: Tensor
    silent: Tensor

    def findings(self) -> list[Finding]:
        """What is wrong at each site and what would help, the site that adds most first."""
        found = [
            Finding(
                site=name,
                num_steps=self.num_steps,
                learned=self.learned[i],
                own_error=tuple(self.own_error[i].tolist()),
                clipped=self.clipped[i].item(),
                rounded=self.rounded[i].item(),
                above=self.above[i].item(),
                peak=self.peak[i].item(),
                dead=self.dead[i].item(),
                silent=self.silent[i].item(),
            )
            for i, name in enumerate(self.sites)
        ]
        return sorted(found, key=lambda finding: -finding.severity)

    def advice(self, count: int = _SHOWN) -> list[str]:
        """One sentence for each of the sites that need mending most; one that says so where there are none."""
        shown = self._shown(count)
        return [advise(finding) for finding in shown] or [f"No site adds much of an error: {NOTHING_TO_MEND}."]

    def _shown(self, count: int) -> list[Finding]:
        """Those that need mending most: first what is dead, then by what they add."""
        worst = [finding for finding in self.findings() if finding.is_shown][:count]
        return sorted(worst, key=lambda finding: (not finding.is_all_dead, -finding.own_error[-1]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        numbers = ("error", "own_error", "inherited_error", "clipped", "rounded", "above", "peak")
        shares = ("saturated", "dead", "silent")
        return {
            "images": self.images,
            "advice": self.advice(),
            "sites": [
                {"name": name} | {key: getattr(self, key)[i].tolist() for key in (*numbers, *shares)}
                for i, name in enumerate(self.sites)
            ],
        }

    def __str__(self) -> str:
        """The sites that need mending most, in numbers and in words; where there are none, those that add most."""
        columns = ("site", "error at T", "own", "inherited", "inputs above θ", "saturated", "dead", "silent")
        rows = []
        for finding in self._shown(_SHOWN) or self.findings()[:_SHOWN]:
            i = self.sites.index(finding.site)
            shares = (self.above[i], self.saturated[i], self.dead[i], self.silent[i])
            errors = (self.error[i, -1], self.own_error[i, -1], self.inherited_error[i, -1])
            shown = [f"{100 * value:.1f} %" for value in (*errors, *shares)]
            rows.append((finding.site, *(["-"] * 3 + shown[3:] if finding.is_all_dead else shown)))
        return text_table(columns, rows, left=("site",), last="\n".join(self.advice()))


class _SiteSums:
    """Sums over the images at one site, and the running means of the batch that runs."""

    def __init__(self, site: SpikingNeuron) -> None:
        zeros: dict[str, Any] = {"dtype": torch.float64, "device": site.threshold.device}
        channels, steps = len(site.threshold), len(site.temporal_bias)
        self.squares = torch.zeros(3, steps, **zeros)  # of the error, what is added, what is inherited
        self.parts = torch.zeros(3, **zeros)  # squares of what is clipped, what rounding adds, of the activation
        self.counts = torch.zeros(2, **zeros)  # inputs above θ, inputs
        self.channel_sums = torch.zeros(2, channels, **zeros)  # of the activation, of the spikes
        self.entries = torch.zeros(1, **zeros)  # values of each channel
        self.peaks = torch.zeros(channels, **zeros)  # largest activation
        self.activation = self.current_sum = self.spike_sum = torch.empty(0)

    def sums(self) -> list[Tensor]:
        return [self.squares, self.parts, self.counts, self.channel_sums, self.entries]

    def begin(self, site: SpikingNeuron, source: Tensor, activation: Tensor) -> None:
        """Take what the ANN does in this batch: its input and its activation, (B, C, ...)."""
        self.activation = activation.double().clone()  # the ANN may go on to overwrite it
        self.current_sum, self.spike_sum = torch.zeros_like(self.activation), torch.zeros_like(self.activation)
        others = [dim for dim in range(source.ndim) if dim != site.channel_dim]
        self.parts[2] += self.activation.square().sum()
        self.counts += torch.stack([(source > _theta(site, source)).sum(), self.counts.new_tensor(source.numel())])
        self.channel_sums[0] += self.activation.sum(others)
        self.entries += source.numel() / len(site.threshold)
        self.peaks = torch.maximum(self.peaks, self.activation.amax(others))

    def add(
        self, site: SpikingNeuron, step: int, current: Tensor, spikes: Tensor, function: Callable[..., Any]
    ) -> None:
        """Add one step, numbered from 0: its current and θ·s, (B, C, ...)."""
        self.current_sum += current
        self.spike_sum += spikes
        mean = (self.current_sum / (step + 1)).to(current.dtype)
        wanted, given = function(mean.clone()).double(), self.spike_sum / (step + 1)
        differences = (given - self.activation, given - wanted, wanted - self.activation)
        self.squares[:, step] += torch.stack([difference.square().sum() for difference in differences])
        if step + 1 == len(site.temporal_bias):
            theta = _theta(site, mean)
            clipped = (wanted - theta).clamp(min=0)
            unrounded = clipped + mean.double().clamp(min=0).minimum(theta)
            by_rounding = (given - wanted).square().sum() - (given - unrounded).square().sum()
            self.parts[:2] += torch.stack([clipped.square().sum(), by_rounding])
            others = [dim for dim in range(mean.ndim) if dim != site.channel_dim]
            self.channel_sums[1] += self.spike_sum.sum(others)


def _theta(site: SpikingNeuron, like: Tensor) -> Tensor:
    return per_channel(site.threshold.double(), like.ndim, site.channel_dim)


class _Diagnosing(Simulation):
    """Visitor that compares each site with the ANN's rows that run beside it."""

    def __init__(self, num_steps: int, ann_rows: bool, states: dict[str, _SiteSums]) -> None:
        super().__init__(num_steps, ann_rows)
        self.states = states
        self.source: Tensor | None = None
        self.function: Callable[..., Any] = torch.relu

    def neuron(self, call: Call, site: SpikingNeuron, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """Keep the ANN's input and activation for `simulate`, which writes over them."""
        blocks = self.unfold(x, call.static[0])
        self.source = blocks[0].clone() if self.ann_rows else None
        self.function = activation
        return super().neuron(call, site, x, activation)

    def simulate(self, call: Call, site: SpikingNeuron, current: Tensor, out: Tensor) -> None:
        """Fire, and compare."""
        state, first, currents = self.states[call.name], site.step, current.clone()
        if self.source is not None:
            state.begin(site, self.source, out[0])
        super().simulate(call, site, current, out)
        for offset, (x, spikes) in enumerate(zip(currents, out[self.ann_rows :], strict=True)):
            state.add(site, first + offset, x, spikes, self.function)


class DiagnosisMeter:
    """Runs the ANN beside its spiking network, and adds up what sets them apart."""

    def __init__(self, snn: SpikingNetwork) -> None:
        """Start with no images."""
        self.snn = snn
        self.states = {call.name: _SiteSums(site) for call, site in snn.neurons()}
        self.images = 0

    @torch.no_grad()
    def update(self, images: Tensor) -> None:
        """Add a batch, in one forward.

        Args:
            images: (B, ...).
        """
        self.images += len(images)
        begun: list[bool] = []
        with torch.autocast(images.device.type, enabled=False):
            self.snn.simulate(images, lambda steps: _Diagnosing(steps, _first(begun), self.states))

    def compute(self) -> Diagnosis:
        """The errors over the images of all processes.

        Raises:
            ValueError: There were no images.
        """
        images = int(sum_over_processes(torch.tensor([self.images], device=self.snn.device)).item())
        if not images:
            raise ValueError("There is nothing to diagnose: the loader is empty.")
        for state in self.states.values():
            for values in state.sums():
                sum_over_processes(values)
            maximum_over_processes(state.peaks)
        return _diagnosis(self.snn, self.states, images)


def diagnose(snn: SpikingNetwork, loader: Iterable[Any], *, progress: bool = True) -> Diagnosis:
    """Find where a spiking network leaves its ANN, in one forward per batch.

    Args:
        snn: A converted network, calibrated or not.
        loader: Images (B, ...) or (images, labels); a few hundred are enough. In a distributed run each process hands
            in its own.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: The loader is empty.
    """
    meter = DiagnosisMeter(snn)
    for batch in progress_bar(loader, "Diagnosing", progress):
        meter.update(finite_images(batch).to(snn.device))
    return meter.compute()


def _first(begun: list[bool]) -> bool:
    """Whether this is the first run of timesteps of a batch, which carries the ANN's rows."""
    begun.append(True)
    return len(begun) == 1


def _diagnosis(snn: SpikingNetwork, states: dict[str, _SiteSums], images: int) -> Diagnosis:
    rows: dict[str, list[Tensor]] = {name: [] for name in Diagnosis.__annotations__ if name not in _PLAIN}
    for call, site in snn.neurons():
        state, theta = states[call.name], site.threshold.double()
        size = torch.where(state.parts[2] > 0, state.parts[2], torch.inf)  # errors of 0 where the ANN has no activation
        error, own, inherited = (state.squares / size).sqrt()
        clipped, rounded = (state.parts[:2] / size).clamp(min=0).sqrt()
        never = state.peaks <= 0
        found = {
            "error": error,
            "own_error": own,
            "inherited_error": inherited,
            "clipped": clipped,
            "rounded": rounded,
            "above": state.counts[0] / state.counts[1],
            "peak": (state.peaks / theta).amax(),
            "saturated": (state.channel_sums[0] / state.entries >= theta * (1 - 1e-6)).double().mean(),
            "dead": never.double().mean(),
            "silent": (~never & (state.channel_sums[1] == 0)).double().mean(),
        }
        for name, value in found.items():
            rows[name].append(value.cpu())
    tensors = {name: torch.stack(values) for name, values in rows.items()}
    learned = tuple(call.threshold is not None for call, _ in snn.neurons())
    return Diagnosis(sites=tuple(states), images=images, num_steps=snn.num_steps, learned=learned, **tensors)
