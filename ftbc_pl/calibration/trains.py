"""What happens at each site in a calibration by the schedule `accumulate`.

A train of up to T spikes is, for a solver, T neurons of threshold θ/T that fire once (see
`ftbc_pl.functional.accumulate.descending`): their expected output is that of the ANN where it is for a single step. So
every solver has its rule for sums by its rule for steps.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ftbc_pl.calibration.step import CalibrationStep, SiteState
from ftbc_pl.functional.accumulate import descending
from ftbc_pl.functional.neuron import per_channel
from ftbc_pl.layers import SpikingNeuron
from ftbc_pl.simulation.accumulate import AccumulatingNeuron
from ftbc_pl.tracing import Call


class TrainStep(CalibrationStep):
    """Visitor that solves for the bias of each site before it fires its train."""

    def simulate(self, call: Call, site: SpikingNeuron, current: Tensor, out: Tensor) -> None:
        """Write the mean of θ·s behind the ANN's rows of `out` (2, B, C, ...), solving for b before."""
        assert isinstance(site, AccumulatingNeuron)
        state = self.states[call.name]
        state.aim(out[0], self.solver.single_neurons, site.duration)
        self._solve_(site, state, current[0], out[1])
        super(CalibrationStep, self).simulate(call, site, current, out)
        quantum = per_channel(site.quantum.to(out.dtype), out.ndim - 1, site.channel_dim)
        state.fired += (out[1] / quantum).round_().sum(dtype=torch.float64).to(torch.int64)
        state.counted += out[1].numel() * site.duration
        self.advance(1)

    def _solve_(self, site: AccumulatingNeuron, state: SiteState, current: Tensor, out: Tensor) -> None:
        """Choose the bias, as that of the T neurons that a train stands for."""
        quantum = site.quantum.to(current.dtype)
        difference = per_channel(quantum, current.ndim, site.channel_dim)
        step = replace(
            state.run(current.unsqueeze(0), out.unsqueeze(0)).first,
            membrane=descending(current + site.v0 * difference, difference, site.duration),
            threshold=quantum,
        )
        if state.error is not None and state.activation is not None:
            # What the output lacks when the spikes before are fired.
            step = replace(step, error=descending(state.activation, difference, site.duration))
        site.temporal_bias[0].copy_(self.solver.solve(step))
