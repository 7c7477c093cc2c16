"""The schedule `accumulate`: layer by layer, each site waits for the currents of all T steps before it fires.

What is here is all of it: neurons of another kind, of which one block of rows does for T steps, and the length of the
longest chain of them. A rate-exact site that gets mean currents hands on the mean of what it would put out.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ftbc_pl.functional.accumulate import fire_trains_
from ftbc_pl.functional.neuron import per_channel
from ftbc_pl.layers import SpikingNeuron, TemporalDifference
from ftbc_pl.simulation.corrections import Place
from ftbc_pl.simulation.redirection import Redirection
from ftbc_pl.tracing.calls import Call, Trace


class AccumulatingNeuron(SpikingNeuron):
    """Neurons of one site that fire whole trains, with one bias per channel, (1, C), the same at all T steps.

    Attributes:
        duration: Timesteps T of a train.
    """

    def __init__(self, num_steps: int, threshold: Tensor, v0: float = 0.5, channel_dim: int = 1) -> None:
        """Create the neurons; arguments as in `SpikingNeuron`."""
        super().__init__(1, threshold, v0, channel_dim)
        self.duration = num_steps

    @property
    def quantum(self) -> Tensor:
        """What one spike adds to the output, (C,): the T steps of a train are one block of rows."""
        return self.threshold / self.duration

    def forward(self, current: Tensor, out: Tensor) -> Tensor:
        """Fire the whole train.

        Args:
            current: Mean current, (1, B, C, ...), in activation units.
            out: (1, B, C, ...), becomes the mean of θ·s; may be `current` itself.

        Returns:
            `out`.

        Raises:
            ValueError: There are several blocks of rows, as of timesteps.
        """
        if len(current) != 1:
            raise ValueError(
                f"expected mean currents in one block of rows, got {len(current)}: by the schedule accumulate visitors "
                "run len(snn.prediction_steps) blocks"
            )
        self.step += 1
        ndim = current.ndim - 1
        bias = per_channel(self.temporal_bias[0].to(current.dtype), ndim, self.channel_dim) if self.use_bias else None
        return fire_trains_(current, self.theta(ndim, current.dtype), bias, self.v0, self.duration, out)

    def extra_repr(self) -> str:
        """Show the shape of the site."""
        return f"num_steps={self.duration}, channels={len(self.threshold)}, v0={self.v0:g}, schedule=accumulate"


def longest_chain(network: nn.Module, trace: Trace, sites: Iterable[nn.Module], images: Tensor) -> int:
    """Number of spiking sites on the longest way from the images to an output.

    Args:
        network: The ANN.
        trace: Its sites.
        sites: One module per site.
        images: A small batch (B, ...).
    """
    chains = _Chains()
    with torch.no_grad():
        outputs = Redirection(network, trace, sites, chains, chains).run(images.clone())
    return chains.length(outputs)


class _Chains:
    """Visitor of the ANN that carries beside each memory how many spiking sites its content has passed.

    By memory and not by tensor, since a view shares what is written to another.
    """

    def __init__(self) -> None:
        self.lengths: dict[int, int] = {}
        self.kept: list[Tensor] = []  # so that no memory is used again

    def length(self, values: Any) -> int:
        return max((self.lengths.get(_memory(leaf), 0) for leaf in _tensors(values)), default=0)

    def _mark(self, values: Any, length: int) -> None:
        for leaf in _tensors(values):
            self.kept.append(leaf)
            self.lengths[_memory(leaf)] = max(length, self.lengths.get(_memory(leaf), 0))

    def around(self, place: Place, function: Callable[..., Any]) -> Callable[..., Any]:
        return partial(self._pass, function)

    def are_all_in(self, counts: Mapping[str, int]) -> bool:
        return True

    def _pass(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        length = self.length((args, kwargs))
        out = function(*args, **kwargs)
        self._mark(out, length)
        return out

    def neuron(self, call: Call, site: SpikingNeuron, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        length = self.length(x) + 1
        out = activation(x)
        self._mark(out, length)
        return out

    def rate_exact(
        self, call: Call, site: TemporalDifference, inputs: list[Tensor], function: Callable[..., Tensor]
    ) -> Tensor:
        length = self.length(inputs)
        out = function(*inputs)
        self._mark(out, length)
        return out


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.numel()]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
