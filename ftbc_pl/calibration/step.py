"""What happens at each site while a calibration batch runs through the network."""

from collections.abc import Callable

import torch
from torch import Tensor

from ftbc_pl.calibration.options import CalibrationOptions
from ftbc_pl.conversion.calls import Call
from ftbc_pl.conversion.simulation import Simulation
from ftbc_pl.distributed import in_any_process
from ftbc_pl.functional.balanced import balanced_bias
from ftbc_pl.functional.solvers import Target, exact_bias, heuristic_bias
from ftbc_pl.layers import SpikingNeuron


class SiteState:
    """Target and statistics of one site."""

    def __init__(self, site: SpikingNeuron) -> None:
        self.target: Target | None = None
        # What the output so far lacks, and what the ANN puts out a step; only for solvers that look at single neurons.
        self.error: Tensor | None = None
        self.activation: Tensor | None = None
        self.bias_sum = torch.zeros_like(site.temporal_bias, dtype=torch.float64)
        self.fired = torch.zeros(len(site.temporal_bias), dtype=torch.float64, device=site.threshold.device)
        self.counted = 0
        self.never = torch.ones_like(site.threshold, dtype=torch.bool)
        self.always = torch.ones_like(site.threshold, dtype=torch.bool)


class CalibrationStep(Simulation):
    """Visitor that solves for the bias of each site and step before it fires."""

    def __init__(
        self,
        num_steps: int,
        ann_rows: bool,
        options: CalibrationOptions,
        mean_weight: float,
        states: dict[str, SiteState],
    ) -> None:
        super().__init__(num_steps, ann_rows)
        self.options = options
        self.mean_weight = mean_weight
        self.states = states

    def neuron(self, call: Call, site: SpikingNeuron, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """Check the input, then simulate and correct the neurons of a site."""
        if in_any_process(not bool(x.sum().isfinite()), x.device):
            raise ValueError(
                f"Site {call.name} ({call.source}) has NaN or infinite input during calibration: check the weights "
                "and the images, or train with a smaller learning rate."
            )
        return super().neuron(call, site, x, activation)

    def simulate(self, call: Call, site: SpikingNeuron, current: Tensor, out: Tensor) -> None:
        """Write θ·s behind the ANN's rows of ``out`` (blocks, B, C, ...), solving for b[t] before each step."""
        state, dim = self.states[call.name], site.channel_dim
        if self.ann_rows:
            target = Target.of(out[0], site.threshold, dim)
            state.target = target
            state.never &= target.activation <= 0
            state.always &= target.activation >= site.threshold * (1 - 1e-6)
            if self.options.solver == "balanced":
                # A copy, since the ANN may go on to overwrite its activation.
                state.activation, state.error = out[0].clone(), torch.zeros_like(out[0])
        for x, spikes in zip(current, out[self.ann_rows :], strict=True):
            step, membrane = site.step, site.membrane_like(x).add_(x)
            if state.error is not None and state.activation is not None:
                state.error.add_(state.activation)
            site.temporal_bias[step] = self._solve(membrane, site.temporal_bias[step], state, site)
            site.add_bias_(step)
            site.fire_(spikes)
            if state.error is not None:
                state.error.sub_(spikes)
            state.fired[step] += torch.count_nonzero(spikes > 0)
            state.counted += spikes.numel()

    def _solve(self, membrane: Tensor, bias: Tensor, state: SiteState, site: SpikingNeuron) -> Tensor:
        options, theta, dim = self.options, site.threshold, site.channel_dim
        if options.solver == "balanced":
            assert state.error is not None, "the first chunk carries the ANN's rows"
            return balanced_bias(membrane, state.error, theta, dim, self.mean_weight, options.granularity)
        assert state.target is not None, "the first chunk carries the ANN's rows"
        if options.solver == "exact":
            return exact_bias(membrane, state.target, theta, dim, options.granularity)
        return heuristic_bias(membrane, bias, state.target, theta, dim, options.alpha, options.granularity)
