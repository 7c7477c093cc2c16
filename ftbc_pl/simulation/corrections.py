"""Weights that the timesteps use instead of the ANN's, and gains of what is added past layers.

The ANN's own tensors stay as they are: corrected ones are buffers beside them, and a forward hands them to the calls of
the layers. A call is known by the name of its torch function and how many calls of that name come before it.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ftbc_pl.functional.neuron import per_channel


class Place(NamedTuple):
    """A call of a torch function in a forward: its name, and how many calls of that name come before it."""

    function: str
    ordinal: int


class Changed(NamedTuple):
    """What differs from the ANN: weights and bias of a layer, or the gain of an operand of an addition.

    Attributes:
        function: Name of the torch function.
        ordinal: How many calls of that name come before it.
        operand: Which operand of an addition; -1: the weights of a layer.
        channel_dim: Dimension of the channels of the operand.
    """

    function: str
    ordinal: int
    operand: int = -1
    channel_dim: int = 1

    @property
    def place(self) -> Place:
        """The call."""
        return Place(self.function, self.ordinal)

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the tensors: weight and bias, or gain."""
        call = f"{self.function}_{self.ordinal}"
        return (f"{call}_weight", f"{call}_bias") if self.operand < 0 else (f"{call}_gain{self.operand}",)


class Layers(Protocol):
    """What happens at the calls that are no sites during one forward."""

    def around(self, place: Place, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return what is called instead of `function`, or itself."""

    def are_all_in(self, counts: Mapping[str, int]) -> bool:
        """Whether the calls of a forward, as many of each name, are all those that are looked for."""


class LayerArguments:
    """The arguments of a call of a convolution or a linear layer."""

    _FIRST = ("input", "weight", "bias")

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Sort positional and keyword arguments."""
        given = dict(zip(self._FIRST, args, strict=False)) | {n: kwargs[n] for n in self._FIRST if n in kwargs}
        self.input: Tensor = given["input"]
        self.weight: Tensor = given["weight"]
        self.bias: Tensor | None = given.get("bias")
        self.more = args[3:]
        self.options = {name: value for name, value in kwargs.items() if name not in self._FIRST}

    def run(self, function: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Call the layer's function with another input, weight and bias."""
        return function(x, weight, bias, *self.more, **self.options)


class Corrections(nn.Module):
    """The corrected tensors of a spiking network, as buffers; without any, it is run with the ANN's weights."""

    def __init__(self) -> None:
        """Start without corrections."""
        super().__init__()
        self.changed: tuple[Changed, ...] = ()

    def content(self) -> dict[Changed, tuple[Tensor, ...]]:
        """All tensors."""
        return {one: tuple(getattr(self, name) for name in one.buffers) for one in self.changed}

    def replace_(self, content: Mapping[Changed, Iterable[Tensor]]) -> None:
        """Exchange all tensors."""
        for one in self.changed:
            for name in one.buffers:
                delattr(self, name)
        self.changed = tuple(content)
        for one, tensors in content.items():
            for name, tensor in zip(one.buffers, tensors, strict=True):
                self.register_buffer(name, tensor)

    def during(self, blocks: int, ann_rows: bool) -> Layers | None:
        """Corrected layers for one forward of `blocks` blocks of rows, the first one the ANN's if `ann_rows`."""
        return _CorrectedLayers(self, blocks, ann_rows) if self.changed else None


class _CorrectedLayers:
    def __init__(self, corrections: Corrections, blocks: int, ann_rows: bool) -> None:
        self.blocks, self.ann_rows = blocks, ann_rows
        self.layers: dict[Place, tuple[Tensor, ...]] = {}
        self.gains: dict[Place, list[tuple[Changed, Tensor]]] = {}
        for one, tensors in corrections.content().items():
            if one.operand < 0:
                self.layers[one.place] = tensors
            else:
                self.gains.setdefault(one.place, []).append((one, tensors[0]))

    def around(self, place: Place, function: Callable[..., Any]) -> Callable[..., Any]:
        if place in self.layers:
            return partial(self._layer, place, function)
        return partial(self._sum, place, function) if place in self.gains else function

    def are_all_in(self, counts: Mapping[str, int]) -> bool:
        return all(counts.get(place.function, 0) > place.ordinal for place in (*self.layers, *self.gains))

    def _ann_rows(self, x: Tensor) -> int:
        return len(x) // self.blocks if self.ann_rows else 0

    def _layer(self, place: Place, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        call, (weight, bias) = LayerArguments(args, kwargs), self.layers[place]
        if call.weight.shape != weight.shape:
            raise RuntimeError(
                f"expected a {place.function} with weights {tuple(weight.shape)}, got {tuple(call.weight.shape)}: the "
                "network calls other layers than when its weights were fitted; calibrate it again."
            )
        count = self._ann_rows(call.input)
        out = call.run(function, call.input[count:] if count else call.input, weight, bias)
        return torch.cat([call.run(function, call.input[:count], call.weight, call.bias), out]) if count else out

    def _sum(self, place: Place, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        operands = list(args)
        for one, gain in self.gains[place]:
            operand = operands[one.operand]
            count = self._ann_rows(operand)
            scaled = operand[count:] * per_channel(gain.to(operand.dtype), operand.ndim, one.channel_dim)
            operands[one.operand] = torch.cat([operand[:count], scaled]) if count else scaled
        return function(*operands, **kwargs)
