"""One forward of the ANN's own code, whose operations become nodes of a graph and whose sites become neurons."""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from ftbc_pl.conversion.fold import fold_batch_norm_
from ftbc_pl.export.errors import ExportError, InexpressibleError
from ftbc_pl.export.graph import Graph, Stream
from ftbc_pl.export.operations import OPERATIONS, Operation
from ftbc_pl.layers import SpikingNeuron
from ftbc_pl.simulation import SpikingNetwork
from ftbc_pl.simulation.corrections import Changed, LayerArguments, Place
from ftbc_pl.tracing import Call, Kind
from ftbc_pl.tracing.composite import expansion
from ftbc_pl.tracing.modules import module_paths
from ftbc_pl.tracing.operations import is_metadata, operation_name

_ADVICE = {
    "max_pool": "convert the network with average pooling (create_network(..., pooling='avg'))",
    "adaptive_max_pool": "pool averages instead",
    "sigmoid": "leave out the gates, or use export_onnx",
    "hardsigmoid": "leave out the gates, or use export_onnx",
    "getitem": "slices and strides become a convolution with a fixed weight",
    "pad": "let the convolution pad",
}
_OTHERWISE = "use convolutions, linear layers, batch normalisation, average pooling, sums and ReLU, or use export_onnx"

Neurons = Callable[[Call, SpikingNeuron, Stream], Stream]


def record(snn: SpikingNetwork, image: Stream, graph: Graph, neurons: Neurons) -> Stream:
    """Run the ANN once, with batch normalisation folded and the weights that were fitted, and add it to a graph.

    Args:
        snn: The spiking network; it is left as it is.
        image: The images in the graph.
        graph: Where nodes are added.
        neurons: Adds a site: takes its call, its module and its currents, and returns θ·s.

    Returns:
        The output of the network.

    Raises:
        ExportError: Some operations have no counterpart; lists all of them.
    """
    network = copy.deepcopy(snn.network).cpu()
    example = torch.zeros(2, *snn.input_size, dtype=snn.input_dtype)
    with torch.no_grad():
        if not snn.corrections.changed:  # fitted weights are those before a normalisation that stands apart
            fold_batch_norm_(network, example)
        with module_paths(network) as (path, _):
            recorder = _Recorder(snn, network, path, graph, neurons)
            example = example.clone()
            recorder.keep(example, image)
            with recorder:
                outputs = network(example)
        return recorder.output(outputs)


class _Recorder(TorchFunctionMode):
    def __init__(
        self,
        snn: SpikingNetwork,
        network: nn.Module,
        path: list[str],
        graph: Graph,
        neurons: Neurons,
    ) -> None:
        super().__init__()
        self.network, self.path, self.graph, self.neurons = network, path, graph, neurons
        self.sites = {
            (call.function, call.ordinal): (call, site) for call, site in zip(snn.calls, snn.sites, strict=True)
        }
        self.corrections = snn.corrections.content()
        self.counts: Counter[Callable[..., Any]] = Counter()
        self.named: Counter[str] = Counter()
        self.problems: list[str] = []
        # Holds the tensors, so that no id is used again; the version tells of changes in place that were not seen.
        self.streams: dict[int, tuple[Stream, Tensor, int]] = {}

    def keep(self, tensor: Tensor, stream: Stream) -> None:
        """Remember what a tensor is in the graph."""
        self.streams[id(tensor)] = stream, tensor, tensor._version

    def stream(self, leaf: Any) -> Any:
        """What a tensor is in the graph; anything else, constants too, as it is."""
        if not isinstance(leaf, Tensor) or id(leaf) not in self.streams:
            return leaf
        stream, tensor, version = self.streams[id(leaf)]
        if tensor._version != version:
            raise InexpressibleError("a view of its input was changed in place: use operations that return new tensors")
        return stream

    def output(self, outputs: Any) -> Stream:
        """What the network returned.

        Raises:
            ExportError: That, or some operation before, has no counterpart.
        """
        try:
            found = self.stream(outputs)
        except InexpressibleError as error:
            self.problems.append(f"(output): {error}")
        else:
            if not isinstance(found, Stream):
                self.problems.append("(output): it is no single tensor: wrap the network in a module that returns one")
        if self.problems:
            raise ExportError("NIR", self.problems)
        assert isinstance(found, Stream)
        return found

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        parts = expansion(func, args, kwargs)
        if parts is not None:
            with self:
                return parts(*args, **kwargs)
        name = operation_name(func)
        ordinal = self.counts[func]
        self.counts[func] += 1
        corrected = self._corrections(func)
        known = any(id(leaf) in self.streams for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        if not known or is_metadata(name):
            return func(*args, **kwargs)
        args, kwargs = _with_weights(args, kwargs, corrected)
        problem = ""
        try:
            given, named = tree_map(self.stream, (args, kwargs))
            given = _with_gains(given, corrected)
        except InexpressibleError as error:
            given, named, problem = args, kwargs, str(error)
        out = func(*args, **kwargs)
        site = self.sites.get((func, ordinal))
        if not problem:
            try:
                self._read(Operation(func, name, self._place(name), given, named, out), site)
                return out
            except InexpressibleError as error:
                problem = str(error)
        where = site[0].place if site else self._place("") or "(network)"
        self.problems.append(f"{where}: {name}: {problem}")
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.keep(leaf, Stream((), tuple(leaf.shape[1:])))
        return out

    def _corrections(self, func: Callable[..., Any]) -> dict[Changed, tuple[Tensor, ...]]:
        """What was fitted of this call, by the count that the simulation keeps."""
        name = getattr(func, "__name__", "")
        place = Place(name, self.named[name])
        self.named[name] += 1
        return {one: tensors for one, tensors in self.corrections.items() if one.place == place}

    def _read(self, op: Operation, site: tuple[Call, nn.Module] | None) -> None:
        """Add one operation to the graph."""
        spiking = site is not None and site[0].kind is Kind.SPIKING
        handler = OPERATIONS.get(op.name)
        if not spiking and (handler is None or site is not None):
            advice = next((text for name, text in _ADVICE.items() if op.name.startswith(name)), _OTHERWISE)
            raise InexpressibleError(advice)
        if any(not leaf.terms for leaf in tree_leaves((op.args, op.kwargs)) if isinstance(leaf, Stream)):
            self.keep(op.out, Stream((), op.shape))  # follows one that has no counterpart
        elif spiking:
            assert site is not None
            call, neuron = site
            assert isinstance(neuron, SpikingNeuron)
            if call.channel_dim != 1:
                raise InexpressibleError("the channels of its input are not the second dimension: permute before it")
            self.keep(op.out, self.neurons(call, neuron, op.stream))
        else:
            assert handler is not None
            self.keep(op.out, handler(self.graph, op))

    def _place(self, name: str) -> str:
        """Path of the module that runs, and the name of the operation where the module has parts."""
        path = self.path[-1] if self.path else ""
        leaf = path and not any(True for _ in self.network.get_submodule(path).children())
        return path if leaf or not name else f"{path}.{name}".strip(".")


def _with_weights(
    args: tuple[Any, ...], kwargs: dict[str, Any], corrected: dict[Changed, tuple[Tensor, ...]]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a layer with the weights that the timesteps use."""
    for one, tensors in corrected.items():
        if one.operand < 0:
            call, (weight, bias) = LayerArguments(args, kwargs), (tensor.cpu() for tensor in tensors)
            args, kwargs = (call.input, weight, bias, *call.more), call.options
    return args, kwargs


def _with_gains(given: tuple[Any, ...], corrected: dict[Changed, tuple[Tensor, ...]]) -> tuple[Any, ...]:
    """The operands of an addition as the timesteps scale them."""
    operands = list(given)
    for one, (gain, *_) in corrected.items():
        if one.operand < 0:
            continue
        if one.channel_dim != 1:
            raise InexpressibleError("the channels of an operand are not the second dimension: permute before it")
        operands[one.operand] = operands[one.operand].scaled(gain.double().cpu())
    return tuple(operands)
