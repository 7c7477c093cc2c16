"""The fan-out of every neuron: how many synaptic operations one spike of it causes, found in one forward.

What lies between the sites is linear, so the synaptic operations of a step are a weighted sum of its spikes, and the
weights, the fan-outs, depend on no image. Beside each tensor of the ANN's own forward a count is carried: of how many
spikes, one from each neuron, its elements are made. A layer with weights turns each of them into one operation for
each weight that it meets, which padding, stride, groups and dilation decide: the layer itself, with weights of 1, adds
them up. The gradient of the sum by the spikes of a site is the fan-out of its neurons.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ftbc_pl.energy.passing import WEIGHTED, Arguments, pass_on, weigh_by_ones
from ftbc_pl.layers import SpikingNeuron, TemporalDifference
from ftbc_pl.simulation import Redirection, SpikingNetwork
from ftbc_pl.tracing import Call
from ftbc_pl.tracing.operations import is_metadata, operation_name


@dataclass(frozen=True)
class FanOut:
    """What a network does for one image, apart from how often its neurons fire.

    Attributes:
        fan_out: Synaptic operations that one spike causes, by name of the site, (C, ...) in the layout of one step.
        ann_macs: Multiplications with addition of the ANN.
        step_macs: Those that the spiking network does at every step, on values that are no spikes.
        static_macs: Those that it does once, on what is the same at every step.
    """

    fan_out: dict[str, Tensor]
    ann_macs: float
    step_macs: float
    static_macs: float


@dataclass(frozen=True)
class _Stream:
    """What a tensor of the forward is made of.

    Attributes:
        count: Number of spikes in each element; None: no element holds any.
        analog: 1 where an element holds a value that is no spike, 0 elsewhere; None: none does.
        static: Whether it is the same at every step.
    """

    count: Tensor | None
    analog: Tensor | None
    static: bool = False


def find_fan_out(snn: SpikingNetwork, images: Tensor) -> FanOut:
    """Find the fan-out of every neuron and the MACs of a network for images of a size.

    Args:
        snn: The spiking network.
        images: A small batch (B, ...); only its size matters.
    """
    with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
        images = images.detach().clone()  # no inference tensor, which autograd would refuse
        with torch.no_grad():
            return _Recorder(snn, len(images)).record(images)


class _Recorder(TorchFunctionMode):
    """Carries counts beside the tensors of a forward; a visitor of its sites as well."""

    def __init__(self, snn: SpikingNetwork, batch_size: int) -> None:
        super().__init__()
        self.snn, self.batch_size = snn, batch_size
        self.streams: dict[int, tuple[Tensor, _Stream]] = {}  # holds the tensors, so that no id is used again
        self.leaves: dict[str, Tensor] = {}
        self.operations: list[Tensor] = []
        self.ann_macs = self.step_macs = self.static_macs = 0.0
        self.flops = FlopCounterMode(display=False)
        self.at_site = False

    def record(self, images: Tensor) -> FanOut:
        """Run the forward of the ANN once."""
        self._tag(images, _Stream(None, torch.ones_like(images), static=True))
        with self.flops, self:
            outputs = Redirection(self.snn.network, self.snn.trace, self.snn.sites, self).run(images)
        for leaf in tree_leaves(outputs):
            self._arrive(leaf)
        return FanOut(self._gradients(), self.ann_macs, self.step_macs, self.static_macs)

    def _gradients(self) -> dict[str, Tensor]:
        if not self.operations or not self.leaves:
            return {name: torch.zeros_like(leaf[0]) for name, leaf in self.leaves.items()}
        with torch.enable_grad():
            total = torch.stack(self.operations).sum()
        found = torch.autograd.grad(total, list(self.leaves.values()), allow_unused=True, materialize_grads=True)
        return {name: gradient[0] for name, gradient in zip(self.leaves, found, strict=True)}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation of the network, and follow the spikes through it."""
        kwargs = kwargs or {}
        if self.at_site or is_metadata(operation_name(func)):
            return func(*args, **kwargs)
        leaves = tree_leaves((args, kwargs))
        positions = tuple(i for i, leaf in enumerate(leaves) if id(leaf) in self.streams)
        if not positions:
            return func(*args, **kwargs)
        streams = [self.streams[id(leaves[i])][1] for i in positions]
        shapes = [leaves[i].shape for i in positions]
        arguments = Arguments(func, args, kwargs, positions)
        out, macs = self._count_macs(lambda: func(*args, **kwargs))
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        static = all(stream.static for stream in streams)
        if arguments.name in WEIGHTED:
            self._weigh(arguments, streams, shapes, macs, static)
            found = [_Stream(None, torch.ones_like(result), static) for result in results]
        else:
            found = self._pass_on(arguments, streams, shapes, results, static)
        for result, stream in zip(results, found, strict=True):
            self._tag(result, stream)
        return out

    def _weigh(
        self, arguments: Arguments, streams: list[_Stream], shapes: list[torch.Size], macs: float, static: bool
    ) -> None:
        """Count the operations of a layer with weights: one for each spike and weight, or MACs."""
        counts = _filled([stream.count for stream in streams], shapes)
        if counts is not None:
            with torch.enable_grad():
                self.operations.append(weigh_by_ones(arguments, counts).sum())
        analog = _filled([stream.analog for stream in streams], shapes)
        if analog is not None:
            self._add_macs(macs * analog[0].double().mean().item(), static)

    def _pass_on(
        self,
        arguments: Arguments,
        streams: list[_Stream],
        shapes: list[torch.Size],
        results: list[Tensor],
        static: bool,
    ) -> list[_Stream]:
        counts = _filled([stream.count for stream in streams], shapes)
        analog = _filled([stream.analog for stream in streams], shapes)
        values: list[Any] = [None] * len(results)
        spikes: list[Any] = [None] * len(results)
        if analog is not None:
            values = [(value > 0).to(value.dtype) for value in pass_on(arguments, analog, results)]
        if counts is not None:
            with torch.enable_grad():
                spikes = pass_on(arguments, counts, results)
        return [self._settled(s, v, static) for s, v in zip(spikes, values, strict=True)]

    def _settled(self, count: Tensor | None, analog: Tensor | None, static: bool) -> _Stream:
        """Where spikes and other values meet in one element, each spike is added: one operation."""
        if count is not None and analog is not None:
            with torch.enable_grad():
                self.operations.append((count * analog).sum())
                count = count * (1 - analog)
        return _Stream(count, analog, static)

    def neuron(self, call: Call, site: SpikingNeuron, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """Let each neuron of a site fire once; the spikes that it is reached by are added to its membrane."""
        self._arrive(x)
        out = self._at_site(lambda: activation(x))
        leaf = torch.ones_like(out).float().requires_grad_()
        self.leaves[call.name] = leaf
        self._tag(out, _Stream(leaf, None))
        return out

    def rate_exact(
        self, call: Call, site: TemporalDifference, inputs: list[Tensor], function: Callable[..., Tensor]
    ) -> Tensor:
        """Count the MACs of a rate-exact site; what it hands on are no spikes."""
        static = all(self.streams[id(x)][1].static for x in inputs if id(x) in self.streams)
        for x in inputs:
            self._arrive(x)
        out, macs = self._count_macs(lambda: self._at_site(lambda: function(*inputs)))
        self._add_macs(macs, static)
        self._tag(out, _Stream(None, torch.ones_like(out), static))
        return out

    def _at_site(self, function: Callable[[], Tensor]) -> Tensor:
        self.at_site = True
        try:
            return function()
        finally:
            self.at_site = False

    def _arrive(self, leaf: Any) -> None:
        """Count the spikes that reach a site or an output without a layer with weights in between."""
        _, stream = self.streams.get(id(leaf), (None, None))
        if stream is not None and stream.count is not None:
            with torch.enable_grad():
                self.operations.append(stream.count.sum())

    def _count_macs(self, function: Callable[[], Any]) -> tuple[Any, float]:
        """Run a part of the ANN and count its MACs for each image."""
        before = self.flops.get_total_flops()
        out = function()
        macs = (self.flops.get_total_flops() - before) / 2 / self.batch_size
        self.ann_macs += macs
        return out, macs

    def _add_macs(self, macs: float, static: bool) -> None:
        if static:
            self.static_macs += macs
        else:
            self.step_macs += macs

    def _tag(self, tensor: Tensor, stream: _Stream) -> None:
        self.streams[id(tensor)] = tensor, stream


def _filled(parts: list[Tensor | None], shapes: list[torch.Size]) -> list[Tensor] | None:
    """What the streams of an operation hold, zeros where one holds none; None where no stream holds any."""
    given = next((part for part in parts if part is not None), None)
    if given is None:
        return None
    return [given.new_zeros(shape) if part is None else part for part, shape in zip(parts, shapes, strict=True)]
