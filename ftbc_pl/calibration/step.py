"""What happens at each site while a calibration batch runs through the network."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ftbc_pl.calibration.solvers.base import SiteStep, Solver
from ftbc_pl.calibration.weights import WeightFit
from ftbc_pl.distributed import in_any_process, merge_over_processes, sum_over_processes
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

    def at(self, step: int, current: Tensor, out: Tensor) -> SiteStep:
        """The site at one step, as the solver sees it; `current` and `out` are (B, C, ...)."""
        assert self.target is not None, "the first chunk carries the ANN's rows"
        return SiteStep(
            current=current,
            membrane=self.site.membrane_like(current),
            bias=self.site.temporal_bias[step],
            threshold=self.site.threshold,
            channel_dim=self.site.channel_dim,
            target=self.target,
            out=out,
            counts=self.fired[step : step + 1],
            activation=self.activation,
            error=self.error,
            memory=self.memory,
            merge=merge_over_processes(),
        )

    def end_batch(self) -> None:
        """Add the biases of this batch to the sum."""
        self.bias_sum += self.site.temporal_bias

    def record(self, before: SiteRecord) -> SiteRecord:
        """The record of the site, with what the calibration found."""
        theta = self.site.threshold
        relative = (self.site.temporal_bias / theta).square().mean(1).sqrt()
        totals = sum_over_processes(torch.stack([self.fired.sum(), self.fired.new_tensor(self.counted)]).double())
        return replace(
            before,
            threshold=Spread.of(theta),
            firing_rate=(totals[0] / totals[1]).item(),
            temporal_bias_rms=tuple(relative.tolist()),
            dead_channels=int(self.never.sum()),
            saturated_channels=int(self.always.sum()),
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

    def neuron(self, call: Call, site: SpikingNeuron, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """Check the input, then simulate and correct the neurons of a site."""
        if in_any_process(not bool(x.sum().isfinite()), x.device):
            raise ValueError(
                f"Site {call.place} has NaN or infinite input during calibration: check the weights and the images, or "
                "train with a smaller learning rate."
            )
        if self.fit is not None:
            self.fit.at_site(call, x)
        return super().neuron(call, site, x, activation)

    def simulate(self, call: Call, site: SpikingNeuron, current: Tensor, out: Tensor) -> None:
        """Write θ·s behind the ANN's rows of `out` (blocks, B, C, ...), solving for b[t] before each step."""
        state = self.states[call.name]
        if self.ann_rows:
            state.aim(out[0], self.solver.single_neurons)
        for x, spikes in zip(current, out[self.ann_rows :], strict=True):
            self.solver.step_(state.at(site.step, x, spikes))
            site.step += 1
            state.counted += spikes.numel()
        self.advance(len(current))
