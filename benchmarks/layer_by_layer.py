"""The authors' procedure on the neurons of this package: one site after the other, two full forwards for each."""

import torch
from torch import Tensor

from ftbc_pl import SpikingNetwork
from ftbc_pl.calibration.solvers.heuristic import fired_counts, heuristic_bias
from ftbc_pl.functional.neuron import fire_, per_channel
from ftbc_pl.functional.targets import Target
from ftbc_pl.layers import SpikingNeuron
from ftbc_pl.simulation.visitors import Simulation
from ftbc_pl.tracing.calls import Call


class _OneLayer(Simulation):
    """Solves for the bias of a single site, as a procedure that goes layer by layer does."""

    def __init__(self, num_steps: int, name: str, activation: dict[str, Tensor]) -> None:
        super().__init__(num_steps)
        self.name, self.activation = name, activation

    def simulate(self, call: Call, site: SpikingNeuron, current: Tensor, out: Tensor) -> None:
        if call.name != self.name:
            return super().simulate(call, site, current, out)
        target = Target.of(self.activation[call.name], site.threshold, site.channel_dim)
        for x, spikes in zip(current, out, strict=True):
            step, membrane = site.step, site.membrane_like(x).add_(x)
            bias = site.temporal_bias[step]
            counts = fired_counts(membrane, bias, site.threshold, site.channel_dim)
            site.temporal_bias[step] = heuristic_bias(counts, bias, target, site.threshold, alpha=0.4)
            theta, b = (per_channel(v, x.ndim, site.channel_dim) for v in (site.threshold, site.temporal_bias[step]))
            fire_(membrane.add_(b), theta, spikes)
            site.step += 1
        return None


@torch.no_grad()
def layer_by_layer(snn: SpikingNetwork, images: Tensor) -> int:
    """The authors' procedure on our neurons: a full forward of the ANN and one of the spiking network a site.

    Returns:
        The number of forwards.
    """
    forwards = 0
    modules = dict(snn.network.named_modules())
    kept: dict[str, Tensor] = {}
    for call, _ in snn.neurons():
        handle = modules[call.name].register_forward_hook(lambda _m, _i, out, n=call.name: kept.update({n: out}))
        snn.network(images)
        handle.remove()
        snn.reset()
        snn.visit(images, _OneLayer(snn.num_steps, call.name, kept))
        forwards += 2
    snn.reset()
    return forwards
