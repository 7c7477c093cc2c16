"""Write a spiking network as a graph of the Neuromorphic Intermediate Representation (NIR).

NIR (Pedersen et al., Nature Communications 2024, doi 10.1038/s41467-024-52259-9) has integrate-and-fire neurons without
an initial membrane and without a bias that changes over time. Both are said exactly by T clock inputs: input t is 1 at
step t and 0 at all others, and a linear map of them into each population holds the bias of step t in column t, and v0
in the first one. Membranes are in units of θ, so that every threshold is 1 and spikes are 0 or 1: θ is multiplied into
the weights behind a population and divided out of those before it.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ftbc_pl.export.errors import ExportError, InexpressibleError, check_schedule
from ftbc_pl.export.graph import Graph, Node, Stream
from ftbc_pl.export.packages import required
from ftbc_pl.export.record import record
from ftbc_pl.export.ties import head_start
from ftbc_pl.files import atomic_path
from ftbc_pl.layers import SpikingNeuron
from ftbc_pl.simulation import SpikingNetwork
from ftbc_pl.tracing import Call

IMAGE, CLOCK, INPUT, OUTPUT = "image", "clock", "input", "output"

_FEED = (
    "Input channels 0 to image_channels - 1 are the image, the same at every step. The num_steps channels after them "
    "are a clock: at step t (1 to num_steps), channel image_channels + t - 1 is 1 at every place, the others are 0."
)
_NEURON = (
    "At each step v <- v + input, spike = (v >= v_threshold), v <- v - v_threshold * spike: reset by subtraction, no "
    "leak, one spike a step at most. v is 0 before the first step: the clock brings the initial membrane."
)
_READOUT = "Row t - 1 of readout_weights holds the weights of the outputs of steps 1 to t in the prediction at t."


def export_nir(snn: SpikingNetwork, path: str | os.PathLike[str]) -> None:
    """Write a spiking network, calibrated or not, as a NIR graph; needs the package `nir`.

    The metadata of the graph says how to feed it and what its neurons do: `num_steps`, `image_channels`, `feed`,
    `neuron`, `readout`, `readout_weights` (T, T), and `sites`, the names of the neurons in forward order.

    Args:
        snn: The spiking network.
        path: The file, such as `out/snn.nir`; its folder is made.

    Raises:
        ExportError: NIR can't say some operations, or the schedule; lists all of them and what would avoid each.
        ImportError: The package `nir` is not installed.
        OSError: The file can't be written; one that was there is as it was.
    """
    nir, graph = required("nir"), nir_graph(snn)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        nir.write(temporary, graph)


def nir_graph(snn: SpikingNetwork) -> Any:
    """The network as a `nir.NIRGraph`; arguments and errors as `export_nir`."""
    check_schedule(snn, "NIR")
    nir, builder = required("nir"), _Builder(snn)
    nodes = {name: _node(builder.graph, name, builder.dtype) for name in builder.graph.nodes}
    edges = [(source, name) for name, node in builder.graph.nodes.items() for source in node.inputs]
    metadata = {
        "num_steps": snn.num_steps,
        "image_channels": snn.input_size[0],
        "feed": _FEED,
        "neuron": _NEURON,
        "readout": _READOUT,
        "readout_weights": snn.readout_weights.detach().cpu().numpy(),
        "sites": "\n".join(builder.sites),
    }
    return nir.NIRGraph(nodes, edges, metadata)


class _Builder:
    """Builds the graph: input and clock, the recorded network, output."""

    def __init__(self, snn: SpikingNetwork) -> None:
        self.graph = Graph()
        self.steps = snn.num_steps
        self.dtype = next((p.dtype for p in snn.network.parameters() if p.dtype.is_floating_point), torch.float32)
        self.sites: list[str] = []
        size = tuple(snn.input_size)
        if len(size) not in (1, 3):
            raise ExportError("NIR", [f"(input): inputs are images (C, H, W) or vectors here, got {size}"])
        channels, places = size[0], size[1:]
        self.graph.add(INPUT, Node("input", [], (channels + self.steps, *places)))
        image = self._pick(IMAGE, slice(0, channels), places)
        self.clock = self._pick(CLOCK, slice(channels, channels + self.steps), places)
        self.clock_vector: Stream | None = None if places else self.clock
        output = record(snn, image, self.graph, self._neurons)
        self.graph.add(OUTPUT, Node("output", self.graph.plain(output), output.shape))
        self.graph.merge()

    def _pick(self, name: str, channels: slice, places: tuple[int, ...]) -> Stream:
        """Some of the channels of the input; multiplying by 1 and adding zeros is exact."""
        weight = torch.eye(self.graph.nodes[INPUT].shape[0], dtype=torch.float64)[channels]
        zeros = torch.zeros(len(weight), dtype=torch.float64)
        return self.graph.mix(name, [INPUT], weight, zeros, (len(weight), *places))

    def _neurons(self, call: Call, site: SpikingNeuron, current: Stream) -> Stream:
        theta = site.threshold.detach().double().cpu()
        bias = site.temporal_bias.detach().double().cpu() / theta
        bias[0] += site.v0 + head_start(self.dtype)
        clock = self._clocked(f"{call.name}.clock", bias.T, current.shape)
        sources = self.graph.plain(current.scaled(1 / theta))
        spikes = self.graph.add(call.name, Node("neurons", [*sources, clock], current.shape))
        self.sites.append(spikes.terms[0].node)
        return spikes.scaled(theta)

    def _clocked(self, name: str, weight: Tensor, shape: tuple[int, ...]) -> str:
        """A linear map (C, T) of the clock to neurons of that shape, the same at every place; returns its node."""
        zeros = torch.zeros(len(weight), dtype=torch.float64)
        if len(shape) == 1:
            node = Node("linear", [self._steps()], shape, weight, zeros)
        else:
            size, stride = _spread(self.clock.shape[1:], shape[1:])
            kernel = torch.zeros(*weight.shape, size, size, dtype=torch.float64)
            kernel[..., 0, 0] = weight
            node = Node("convolution", [CLOCK], shape, kernel, zeros, stride=stride)
        return self.graph.add(name, node).terms[0].node

    def _steps(self) -> str:
        """The clock as a vector (T,): the mean over the places of ones is 1, exactly."""
        if self.clock_vector is None:
            places = self.clock.shape[1:]
            kernel = (places[0], places[1])
            pooled = Node("average", [CLOCK], (self.steps, 1, 1), kernel=kernel, stride=kernel)
            name = self.graph.add(f"{CLOCK}.average", pooled).terms[0].node
            self.clock_vector = self.graph.add(f"{CLOCK}.flatten", Node("flatten", [name], (self.steps,)))
        return self.clock_vector.terms[0].node


def _spread(places: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
    """The smallest square kernel and the stride with which a convolution makes `wanted` places."""
    for kernel in range(1, min(places) + 1):
        strides = []
        for before, after in zip(places, wanted, strict=True):
            stride = (before - kernel) // (after - 1) if after > 1 else before
            if stride >= 1 and (before - kernel) // stride + 1 == after:
                strides.append(stride)
        if len(strides) == 2:
            return kernel, (strides[0], strides[1])
    raise InexpressibleError(f"it has {wanted} places, more than the clock's {places}: pad less before it")


def _node(graph: Graph, name: str, dtype: torch.dtype) -> Any:
    """A node in NIR's own classes."""
    nir, node = required("nir"), graph.nodes[name]
    before = graph.nodes[node.inputs[0]].shape if node.inputs else ()
    if node.kind in ("convolution", "linear", "mix"):
        assert node.weight is not None
        assert node.bias is not None
        weight, bias = node.weight.to(dtype).numpy(), node.bias.to(dtype).numpy()
        if len(node.shape) == 1:
            return nir.Affine(weight, bias)
        weight = weight[..., None, None] if weight.ndim == 2 else weight
        return nir.Conv2d(before[1:], weight, node.stride, node.padding, node.dilation, 1, bias)
    if node.kind == "neurons":
        ones = np.ones(node.shape, dtype=torch.empty(0, dtype=dtype).numpy().dtype)
        return nir.IF(r=ones, v_threshold=ones.copy(), v_reset=np.zeros_like(ones))
    if node.kind == "average":
        return nir.AvgPool2d(np.array(node.kernel), np.array(node.stride), np.array(node.padding))
    if node.kind == "flatten":
        return nir.Flatten({"input": np.array(before)}, 0, -1)
    return (nir.Input if node.kind == "input" else nir.Output)(np.array(node.shape))
