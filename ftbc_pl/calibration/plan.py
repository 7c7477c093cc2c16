"""Which layers' weights can be fitted to the input of which site.

A layer belongs to a site if its output reaches the site's input, and nothing else, through additions, normalisation
and what changes nothing. Operands of these additions that are the output of a site itself have a gain. All other layers
are fitted to their own output, but for those that see the image only: what they put out is exact.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ftbc_pl.layers import SpikingNeuron, TemporalDifference
from ftbc_pl.simulation import Redirection, SpikingNetwork
from ftbc_pl.simulation.corrections import Changed, Place
from ftbc_pl.tracing.calls import Call
from ftbc_pl.tracing.layout import Layout, follow, with_leaf
from ftbc_pl.tracing.modules import module_paths
from ftbc_pl.tracing.operations import is_metadata, operation_name

_LAYERS = {"linear"} | {f"conv{kind}{dims}d" for kind in ("", "_transpose") for dims in (1, 2, 3)}
_SAME = {"contiguous", "clone", "alias", "dropout", "dropout1d", "dropout2d", "dropout3d"}
_PRODUCTS = {"matmul", "rmatmul", "mm", "mv", "bmm", "addmm", "baddbmm", "addbmm", "einsum", "bilinear", "tensordot"}


class Term(NamedTuple):
    """A layer or an identity that adds to the input of a site.

    Attributes:
        changed: The call.
        path: Module that calls it.
        scale: What its output is multiplied with on the way to the site, (C,) float64; None: 1.
    """

    changed: Changed
    path: str
    scale: Tensor | None = None


@dataclass(frozen=True)
class SitePlan:
    """The terms of a site, a layer among them, and whether its input is their sum but for a constant per channel."""

    terms: tuple[Term, ...]
    complete: bool


@dataclass
class Plan:
    """What is fitted to what.

    Attributes:
        sites: By name of the site.
        local: Layers that are fitted to their own output, with their modules.
        exact: Modules whose layers see the image only.
        mixed: Modules whose layers see the batch in another dimension than the first; they stay as they are.
        others: Modules that multiply with weights by another function than a layer's; they stay as they are.
    """

    sites: dict[str, SitePlan] = field(default_factory=dict)
    local: dict[Changed, str] = field(default_factory=dict)
    exact: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


@dataclass(eq=False)
class _Stream:
    """A tensor that depends on the image, and what it was made of.

    A `layer` is the output of one, `site` of a site; a `sum` has several streams in it, `same` one, scaled;
    `image` is the same at all timesteps; of `other` nothing is known.
    """

    kind: str
    term: Term | None = None
    inputs: tuple["_Stream", ...] = ()
    scale: Tensor | None = None
    place: Place | None = None
    channel_dim: int = 1
    reads: int = 0


def plan_fits(snn: SpikingNetwork, images: Tensor) -> Plan:
    """Find out which layers end where, by one forward of the ANN.

    Args:
        snn: The spiking network.
        images: A small batch (B, ...).
    """
    with torch.inference_mode(False), torch.no_grad(), module_paths(snn.network) as (path, _):
        planner = _Planner(path)
        images = images.clone()
        _tag(images, _Stream("image"), Layout())
        # Both the visitor of the sites and what all other calls go to.
        outputs = Redirection(snn.network, snn.trace, snn.sites, planner, planner).run(images)
        planner.read(tree_leaves(outputs))
    return planner.plan()


class _Planner:
    def __init__(self, path: list[str]) -> None:
        self.path = path
        self.layers: dict[Changed, str] = {}
        self.kept: dict[tuple[Place, int], tuple[Tensor, int]] = {}  # what a fit would look at later, and its version
        self.overwritten: set[tuple[Place, int]] = set()
        self.ends: list[tuple[Call, _Stream]] = []
        self.found = Plan()

    def plan(self) -> Plan:
        taken: set[Changed] = set()
        for call, stream in self.ends:
            terms: list[Term] = []
            complete = self._collect(stream, None, call, terms)
            layers = {term.changed for term in terms if term.changed.operand < 0}
            if layers:
                self.found.sites[call.name] = SitePlan(tuple(terms), complete)
                taken |= layers
        self.found.local = {changed: path for changed, path in self.layers.items() if changed not in taken}
        return self.found

    def _collect(self, stream: _Stream, scale: Tensor | None, call: Call, terms: list[Term]) -> bool:
        """Add the terms of a stream; return whether they are all of it."""
        if stream.reads != 1 or stream.kind in ("site", "image", "other"):
            return False
        if stream.kind == "layer":
            assert stream.term is not None
            changed = stream.term.changed
            usable = (changed.place, 0) not in self.overwritten and changed.channel_dim == call.channel_dim
            if usable:
                terms.append(stream.term._replace(scale=scale))
            return usable
        if stream.kind == "same":
            own = stream.scale
            product = scale if own is None else own if scale is None else own * scale
            return (own is None or call.channel_dim == 1) and self._collect(stream.inputs[0], product, call, terms)
        complete = True
        for number, one in enumerate(stream.inputs):
            if one.kind == "site" and stream.place is not None and (stream.place, number) not in self.overwritten:
                terms.append(Term(Changed(*stream.place, number, call.channel_dim), "", scale))
            else:
                complete &= self._collect(one, scale, call, terms)
        return complete

    # What the sites do.

    def neuron(self, call: Call, site: SpikingNeuron, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        (stream,) = self.read([x])
        for key in self._behind(stream):
            tensor, version = self.kept[key]
            if tensor._version != version:
                self.overwritten.add(key)
        self.ends.append((call, stream))
        layout = _layout(x)
        return _tag(activation(x), _Stream("site"), layout)

    def rate_exact(
        self, call: Call, site: TemporalDifference, inputs: list[Tensor], function: Callable[..., Tensor]
    ) -> Tensor:
        streams = self.read(list(inputs))
        static = all(stream.kind == "image" for stream in streams)
        before, source = _layout(inputs[0]), torch.empty_like(inputs[0])
        out = function(*inputs)
        (layout,) = follow(call.record.operation, before, source, lambda x: function(x, *inputs[1:]), [out])
        return _tag(out, _Stream("image" if static else "site"), layout)

    def _behind(self, stream: _Stream) -> Iterator[tuple[Place, int]]:
        if stream.term is not None:
            yield stream.term.changed.place, 0
        for number, one in enumerate(stream.inputs):
            if one.kind == "site" and stream.place is not None:
                yield stream.place, number
            yield from self._behind(one)

    # What all other calls do.

    def around(self, place: Place, function: Callable[..., Any]) -> Callable[..., Any]:
        return partial(self._call, place, function)

    def are_all_in(self, counts: Mapping[str, int]) -> bool:
        return True

    def read(self, leaves: list[Any]) -> list[_Stream]:
        """The streams among some values, which are read once more by that."""
        streams = [stream for leaf in leaves if (stream := _stream(leaf)) is not None]
        for stream in streams:
            stream.reads += 1
        return streams

    def _call(self, place: Place, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        name = operation_name(function)
        streams = [] if is_metadata(name) else self.read(tree_leaves((args, kwargs)))
        if not streams:
            return function(*args, **kwargs)
        made = self._made(place, name, function, args, kwargs, streams)
        first = next(leaf for leaf in tree_leaves((args, kwargs)) if _stream(leaf) is not None)
        before, source = _layout(first), torch.empty_like(first)  # before it is overwritten
        out = function(*args, **kwargs)
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]

        def again(marker: Tensor) -> Any:
            new_args, new_kwargs = with_leaf(args, kwargs, first, marker)
            return function(*new_args, **new_kwargs)

        for leaf, layout in zip(results, follow(name, before, source, again, results), strict=True):
            _tag(leaf, made, layout)
        return out

    def _made(
        self,
        place: Place,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        streams: list[_Stream],
    ) -> _Stream:
        path = self.path[-1] if self.path else ""
        first = _stream(args[0]) if args else None
        if all(stream.kind == "image" for stream in streams):
            self.found.exact += [path] * (name in _LAYERS)
            return _Stream("image")
        if name in _LAYERS and len(streams) == 1 and first is streams[0]:
            if _layout(args[0]).batch != 0:
                self.found.mixed.append(path)
                return _Stream("other")
            self.kept[place, 0] = args[0], args[0]._version
            changed = Changed(*place, channel_dim=args[0].ndim - 1 if name == "linear" else 1)
            self.layers[changed] = path
            return _Stream("layer", Term(changed, path))
        if len(streams) == 1 and name in _PRODUCTS | _LAYERS:
            self.found.others.append(path)
        if name in ("add", "iadd", "radd") and _is_plain_sum(args, kwargs, streams):
            for number, operand in enumerate(args):
                self.kept[place, number] = operand, operand._version
            return _Stream("sum", inputs=tuple(streams), place=place)
        if function is F.batch_norm and len(streams) == 1 and first is streams[0]:
            return _Stream("same", inputs=(first,), scale=_batch_norm_scale(*args, **kwargs))
        if name in _SAME and len(streams) == 1 and first is streams[0]:
            return _Stream("same", inputs=(first,))
        return _Stream("other")


def _is_plain_sum(args: tuple[Any, ...], kwargs: Mapping[str, Any], streams: list[_Stream]) -> bool:
    return len(args) == len(streams) == 2 and not kwargs and args[0].shape == args[1].shape


def _batch_norm_scale(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """What batch normalisation multiplies each channel with, (C,) float64; arguments as of torch's function."""
    scale = (running_var.double() + eps).rsqrt()
    return scale if weight is None else scale * weight.double()


def _tag(tensor: Tensor, stream: _Stream, layout: Layout) -> Tensor:
    tensor._ftbc_stream = stream, tensor._version, layout  # type: ignore[attr-defined]
    return tensor


def _stream(leaf: Any) -> _Stream | None:
    """What is known of a tensor; one that was overwritten in a way that was not seen is another one."""
    if not isinstance(leaf, Tensor) or not hasattr(leaf, "_ftbc_stream"):
        return None
    stream, version, layout = leaf._ftbc_stream
    if leaf._version != version:
        stream = _Stream("other")
        _tag(leaf, stream, layout)
    return stream  # type: ignore[no-any-return]


def _layout(tensor: Tensor) -> Layout:
    """Where the batch and the channels of a stream are."""
    return tensor._ftbc_stream[2]  # type: ignore[attr-defined,no-any-return]
