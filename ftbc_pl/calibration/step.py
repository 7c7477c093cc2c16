"""What happens at each site while a calibration batch runs through the network."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ftbc_pl.calibration.solvers.base import SiteRun, SiteStep, Solver
from ftbc_pl.calibration.weights import WeightFit
from ftbc_pl.distributed import in_any_process, is_distributed, merge_over_processes, sum_over_processes
from ftbc_pl.functional.targets import Target
from ftbc_pl.layers import SpikingNeuron
from ftbc_pl.simulation import Simulation
from ftbc_pl.sites import SiteRecord, Spread
from ftbc_pl.tracing import Call


class SiteState:
    """What is known of one site during a calibration: its target in the present batch, and sums over all batches."""

    def __init__(self, site: SpikingNeuron) -> None:
        """Start with nothing known."""
        self.site = site
        self.target: Target | None = None
        # What the output so far lacks, and what the ANN puts out per step; only for solvers that look at neurons.
        self.error: Tensor | None = None
        self.activation: Tensor | None = None
        self.bias_sum = torch.zeros_like(site.temporal_bias, dtype=torch.float64)
        self.memory: dict[str, Any] = {}
        self.fired = torch.zeros(len(site.temporal_bias), dtype=torch.int64, device=site.threshold.device)
        self.counted = 0
        self.never = torch.ones_like(site.threshold, dtype=torch.bool)
        self.always = torch.ones_like(site.threshold, dtype=torch.bool)

    def aim(self, activation: Tensor, single_neurons: bool, levels: int = 1) -> None:
        """Take what the ANN does in this batch, (B, C, ...), as target of neurons that fire up to `levels` times."""
        theta = self.site.threshold
        target = Target.of(activation, theta, self.site.channel_dim, merge_over_processes(), levels)
        self.target, self.memory = target, {}
        self.never &= target.activation <= 0
        self.always &= target.activation >= theta * (1 - 1e-6)
        if single_neurons:
            # A copy, since the ANN may go on to overwrite its activation.
            self.activation, self.error = activation.clone(), torch.zeros_like(activation)

    def run(self, current: Tensor, out: Tensor) -> SiteRun:
        """The site at its next steps, as the solver sees it; `current` and `out` are (K, B, C, ...)."""
        assert self.target is not None, "the first chunk carries the ANN's rows"
        steps = slice(self.site.step, self.site.step + len(current))
        bias, counts = self.site.temporal_bias[steps], self.fired[steps]
        first = SiteStep(
            current=current[0],
            membrane=self.site.membrane_like(current[0]),
            bias=bias[0],
            threshold=self.site.threshold,
            channel_dim=self.site.channel_dim,
            target=self.target,
            out=out[0],
            counts=counts[:1],
            activation=self.activation,
            error=self.error,
            memory=self.memory,
            merge=merge_over_processes(),
        )
        return SiteRun(first, current, bias, out, counts)

    def forget(self) -> None:
        """Leave what other weights fired, and the biases for these, out of the sums."""
        self.bias_sum.zero_()
        self.fired.zero_()
        self.counted = 0

    def end_batch(self) -> None:
        """Add the biases of this batch to the sum."""
        self.bias_sum += self.site.temporal_bias

    def found(self) -> Tensor:
        """What the record needs, in one row of float64: to be taken off a GPU with that of all other sites."""
        totals = sum_over_processes(torch.stack([self.fired.sum(), self.fired.new_full((), self.counted)]).double())
        parts = (totals, self.site.threshold, self.site.temporal_bias.flatten(), self.never, self.always)
        return torch.cat([part.double() for part in parts])

    def record(self, before: SiteRecord, found: Tensor) -> SiteRecord:
        """The record of the site, with what the calibration found, which is `found` on the CPU."""
        steps, channels = self.site.temporal_bias.shape
        totals, theta, bias, never, always = found.split([2, channels, steps * channels, channels, channels])
        relative = (bias.view(steps, channels) / theta).square().mean(1).sqrt()
        return replace(
            before,
            threshold=Spread.of(theta),
            firing_rate=(totals[0] / totals[1]).item(),
            temporal_bias_rms=tuple(relative.tolist()),
            dead_channels=int(never.sum()),
            saturated_channels=int(always.sum()),
        )


class CalibrationStep(Simulation):
    """Visitor that solves for the bias of each site and step before it fires."""

    def __init__(
        self,
        num_steps: int,
        ann_rows: bool,
        solver: Solver,
        states: dict[str, SiteState],
        advance: Callable[[int], object],
        fit: WeightFit | None = None,
    ) -> None:
        """Create the visitor for K = `num_steps`.

        Args:
            num_steps: K, the timesteps of this run.
            ann_rows: Whether the ANN's rows come first, as in the first run of a batch.
            solver: Chooses the bias.
            states: What is known of each site.
            advance: Called with the number of steps that are done at a site.
            fit: Fits the weights of the layers before each site; None: they are kept.
        """
        super().__init__(num_steps, ann_rows)
        self.solver = solver
        self.states = states
        self.advance = advance
        self.fit = fit
        self.sums: list[tuple[Call, Tensor]] = []

    def neuron(self, call: Call, site: SpikingNeuron, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """Check the input, then simulate and correct the neurons of a site."""
        self.sums.append((call, x.sum()))
        if self.fit is not None or is_distributed() or not self.solver.bears_nan(x.device):
            self.check()
        if self.fit is not None:
            self.fit.at_site(call, x)
        return super().neuron(call, site, x, activation)

    def check(self) -> None:
        """Check the inputs of the sites since the last check; a GPU is waited for.

        Raises:
            ValueError: One has NaN or infinite values.
        """
        sums, self.sums = self.sums, []
        if not sums:
            return
        # Sums of bfloat16 and float64 rows, say, are finite or not in 64 bits alike.
        finite = torch.stack([total.double() for _, total in sums]).isfinite().tolist()
        broken = [call for (call, _), is_finite in zip(sums, finite, strict=True) if not is_finite]
        if in_any_process(bool(broken), sums[0][1].device):
            raise ValueError(
                f"Site {(broken or [sums[0][0]])[0].place} has NaN or infinite input during calibration: check the "
                "weights and the images, or train with a smaller learning rate."
            )

    def simulate(self, call: Call, site: SpikingNeuron, current: Tensor, out: Tensor) -> None:
        """Write θ·s behind the ANN's rows of `out` (blocks, B, C, ...), solving for b[t] before each step."""
        state = self.states[call.name]
        if self.ann_rows:
            state.aim(out[0], self.solver.single_neurons)
        spikes = out[self.ann_rows :]
        self.solver.run_(state.run(current, spikes))
        site.step += len(current)
        state.counted += spikes.numel()
        self.advance(len(current))
