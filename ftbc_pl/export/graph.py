"""A small graph of layers and neurons, in which scales are moved into the weights beside them.

Shapes are those of one image at one step: (C, H, W) or (F,). Weights are kept in float64 and rounded once, at the end.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

LAYERS = ("convolution", "linear", "mix")


@dataclass
class Node:
    """One node; what several inputs hand it is added up.

    Attributes:
        kind: `input`, `output`, `convolution`, `linear`, `mix` (a linear map of the channels, the same at
            every place), `average` (pooling), `flatten` or `neurons`.
        inputs: Names of the nodes that it reads.
        shape: Shape of its output.
        weight: (O, C, kh, kw) of a convolution, (O, I) of a linear layer or a mix; float64.
        bias: (O,), float64.
        kernel: Kernel (height, width) of a pooling.
        stride: Stride (height, width).
        padding: Zeros at each side (height, width).
        dilation: Dilation (height, width).
    """

    kind: str
    inputs: list[str]
    shape: tuple[int, ...]
    weight: Tensor | None = None
    bias: Tensor | None = None
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)


class Term(NamedTuple):
    """The output of a node, times a scale per channel, (C,) float64."""

    node: str
    scale: Tensor


@dataclass(frozen=True)
class Stream:
    """A tensor of the network: the sum of terms, of one shape."""

    terms: tuple[Term, ...]
    shape: tuple[int, ...]

    def scaled(self, scale: Tensor) -> "Stream":
        """This stream times a scale per channel."""
        return Stream(tuple(Term(term.node, term.scale * scale) for term in self.terms), self.shape)

    def plus(self, other: "Stream") -> "Stream":
        """The sum; a node that is in both becomes one term."""
        scales: dict[str, Tensor] = {}
        for node, scale in (*self.terms, *other.terms):
            scales[node] = scales[node] + scale if node in scales else scale
        return Stream(tuple(Term(node, scale) for node, scale in scales.items()), self.shape)


@dataclass
class Graph:
    """Nodes by name, in the order in which they run."""

    nodes: dict[str, Node] = field(default_factory=dict)

    def add(self, name: str, node: Node) -> Stream:
        """Add a node, and return its output."""
        name = name.replace("#", "_").replace("/", "_") or "network"
        unique, count = name, 1
        while unique in self.nodes:
            count += 1
            unique = f"{name}_{count}"
        self.nodes[unique] = node
        return Stream((Term(unique, torch.ones(node.shape[0], dtype=torch.float64)),), node.shape)

    def plain(self, stream: Stream) -> list[str]:
        """Nodes whose outputs add up to the stream; scales become nodes, which `merge` may do away with."""
        return [self._scaled(term, stream.shape) for term in stream.terms]

    def shared(self, stream: Stream) -> tuple[list[str], Tensor]:
        """Nodes and one scale (C,): the stream is the sum of their outputs times it."""
        scales = [term.scale for term in stream.terms]
        if scales and all(torch.equal(scale, scales[0]) for scale in scales):
            return [term.node for term in stream.terms], scales[0]
        return self.plain(stream), torch.ones(stream.shape[0], dtype=torch.float64)

    def mix(self, name: str, sources: list[str], weight: Tensor, bias: Tensor, shape: tuple[int, ...]) -> Stream:
        """Add a linear map of the channels: `weight` (O, C), `bias` (O,), `shape` of the output."""
        return self.add(name, Node("mix", sources, shape, weight, bias))

    def _scaled(self, term: Term, shape: tuple[int, ...]) -> str:
        if bool((term.scale == 1).all()):
            return term.node
        zeros = torch.zeros_like(term.scale)
        return self.mix(f"{term.node}.scale", [term.node], torch.diag(term.scale), zeros, shape).terms[0].node

    def merge(self) -> None:
        """Multiply each mix into the layer before it, where nothing else reads that layer."""
        readers: dict[str, list[str]] = {name: [] for name in self.nodes}
        for name, node in self.nodes.items():
            for source in node.inputs:
                readers[source].append(name)
        for name, node in list(self.nodes.items()):
            before = self.nodes[node.inputs[0]] if len(node.inputs) == 1 else None
            if node.kind != "mix" or before is None or before.kind not in LAYERS or readers[node.inputs[0]] != [name]:
                continue
            assert node.weight is not None and node.bias is not None  # noqa: PT018 - for the type checker
            assert before.weight is not None and before.bias is not None  # noqa: PT018
            shape = (len(node.weight), *before.weight.shape[1:])
            before.weight = (node.weight @ before.weight.flatten(1)).view(shape)
            before.bias = node.weight @ before.bias + node.bias
            before.shape = node.shape
            readers[node.inputs[0]] = readers.pop(name)
            for reader in readers[node.inputs[0]]:
                inputs = self.nodes[reader].inputs
                inputs[inputs.index(name)] = node.inputs[0]
            del self.nodes[name]
