"""List every operation of one forward of a network, with its module path, source line and meaning for spikes.

The network runs under a ``TorchFunctionMode``, so functional calls, shared modules and networks that can't be traced
symbolically are all seen. Tensors that depend on the input, the streams, carry tags from one operation to the next.
Autograd is the second witness: parameters are frozen for the run and the input requires a gradient, so a tensor that
requires one without a tag was made by code that hides from torch, and is a problem.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ftbc_pl.conversion.calls import Call, Origin, Trace
from ftbc_pl.conversion.composite import COMPOSITE, expanded
from ftbc_pl.conversion.layout import BatchMixed, Layout, follow, with_leaf
from ftbc_pl.conversion.modules import is_activation_module, module_paths, source_line
from ftbc_pl.conversion.operations import Kind, advice, classify, is_inplace, operation_name, upper_bound

_OUTPUTS = (Tensor, int, float, str, bytes, type(None))


def trace(network: nn.Module, example: Tensor, smooth: bool = False) -> Trace:
    """Run ``network`` once on ``example`` (B, ...) and list its sites.

    Args:
        network: The ANN in eval mode.
        example: A small input batch.
        smooth: Whether smooth activations (GELU …) are run by the rate-exact replacement instead of being a problem.
    """
    with _frozen(network), torch.enable_grad(), module_paths(network) as (path, entered):
        recorder = _Recorder(smooth, dict(network.named_modules()), path)
        # A view, since a leaf that requires a gradient can't be changed in place.
        images = example.detach().clone().requires_grad_().view_as(example)
        _tag(images, True, Layout())
        with recorder:
            outputs = network(images)
    recorder.check_outputs(outputs)
    calls = tuple(
        replace(call, origin=Origin.SHARED)
        if call.origin is Origin.MODULE and entered[call.name.partition("#")[0]] > 1
        else call
        for call in recorder.calls
    )
    if not recorder.static_prefix:
        calls = tuple(replace(call, static=tuple(False for _ in call.static)) for call in calls)
    counts = {call.function: recorder.counts[call.function] for call in calls}
    static_outputs = tuple(
        not _is_stream(leaf) or (recorder.static_prefix and bool(getattr(leaf, "_ftbc_static", False)))
        for leaf in tree_leaves(outputs)
        if isinstance(leaf, Tensor)
    )
    return Trace(calls, counts, recorder.static_prefix, static_outputs, tuple(recorder.problems))


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Let no parameter require a gradient."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class _Recorder(TorchFunctionMode):
    def __init__(self, smooth: bool, modules: dict[str, nn.Module], path: list[str]) -> None:
        super().__init__()
        self.smooth = smooth
        self.modules = modules
        self.path = path
        self.calls: list[Call] = []
        self.problems: list[str] = []
        self.counts: Counter[Callable[..., Any]] = Counter()
        self.names: Counter[str] = Counter()
        self.layers: list[str] = []
        self.static_prefix = True

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        ordinal = self.counts[func]
        self.counts[func] += 1
        name = operation_name(func)
        if name in COMPOSITE:
            with self:
                return expanded(func)(*args, **kwargs)
        leaves = tree_leaves((args, kwargs))
        positions = [i for i, leaf in enumerate(leaves) if _is_stream(leaf)]
        streams = [leaves[i] for i in positions]
        if not streams:
            out = func(*args, **kwargs)
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor) and leaf.requires_grad:
                    leaf._ftbc_constant = True  # type: ignore[attr-defined]
            return out
        for stream in streams:
            self._check_known(stream)
        kind = classify(func, args, kwargs, streams)
        if kind is Kind.SMOOTH and self.smooth:
            kind = Kind.RATE_EXACT
        if kind is Kind.METADATA:
            return func(*args, **kwargs)
        static = [stream._ftbc_static for stream in streams]
        layout, shape = streams[0]._ftbc_layout, streams[0].shape
        inplace = is_inplace(func, args, kwargs)
        if any(getattr(stream, "_ftbc_overwritten", False) for stream in streams):
            self.static_prefix = False
        out = func(*args, **kwargs)
        if kind in (Kind.SMOOTH, Kind.UNSUPPORTED):
            self._problem(name, advice(name, kind))
        elif kind is Kind.AFFINE:
            self.static_prefix &= all(static) or not any(static)
            if name.startswith(("conv", "linear")):
                self.layers.append(self._path())
        else:
            if layout.batch not in (0, None):
                self._problem(
                    name,
                    "the batch is not the first dimension of its input: use batch_first=True, or permute before the "
                    "call",
                )
            self.calls.append(
                Call(
                    name=self._name(),
                    operation=name,
                    kind=kind,
                    source=source_line(),
                    function=func,
                    ordinal=ordinal,
                    streams=tuple(positions),
                    static=tuple(static),
                    inplace=inplace,
                    shape=tuple(shape[1:]),
                    channel_dim=layout.channel_dim(len(shape)),
                    origin=Origin.MODULE if is_activation_module(self.modules[self._path()]) else Origin.FUNCTION,
                    layers=tuple(self.layers),
                    threshold=args[1] if name == "qcfs" else None,
                    upper=upper_bound(name, args, kwargs) if kind is Kind.SPIKING else None,
                )
            )
            self.layers.clear()
        remains_static = all(static) and kind is not Kind.SPIKING
        if inplace and all(static) and not remains_static:
            if args[0]._is_view() and args[0]._base is not None:
                self.static_prefix = False  # the tensor behind the view changes as well
            # The result gets an identity of its own, to see whether the overwritten tensor is used again.
            args[0]._ftbc_overwritten = True
            out = out.view_as(out)
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]

        def again(marker: Tensor) -> Any:
            marked_args, marked_kwargs = with_leaf(args, kwargs, streams[0], marker)
            return func(*marked_args, **marked_kwargs)

        source = streams[0] if streams[0].shape == shape else streams[0].new_empty(shape)
        try:
            layouts = follow(name, layout, source, again, results)
        except BatchMixed:
            self._problem(name, "it takes images of the batch together, or one out of it: treat each image by itself")
            layouts = [Layout(None, None)] * len(results)
        for leaf, after in zip(results, layouts, strict=True):
            _tag(leaf, remains_static, after)
        return out

    def check_outputs(self, outputs: Any) -> None:
        """Check that the outputs are tensors that depend on the input, batch first."""
        leaves = tree_leaves(outputs)
        for leaf in leaves:
            if not isinstance(leaf, _OUTPUTS):
                self.problems.append(
                    f"(output): an output is of type {type(leaf).__name__}: return tensors, or tuples, lists and dicts "
                    "of them"
                )
        streams = [leaf for leaf in leaves if _is_stream(leaf)]
        if not streams:
            self.problems.append("(output): no output is a tensor that depends on the input")
        for stream in streams:
            self._check_known(stream, "(output)")
            if stream._ftbc_layout.batch not in (0, None):  # type: ignore[attr-defined]
                self.problems.append("(output): the batch is not the first dimension of an output: permute it")

    def _check_known(self, stream: Tensor, place: str | None = None) -> None:
        """Report a stream that no recorded operation has made."""
        if hasattr(stream, "_ftbc_static"):
            return
        maker = stream.grad_fn.name().partition("Backward")[0] if stream.grad_fn is not None else "an operation"
        where = place or f"before {self._path() or '(network)'} ({source_line()})"
        self.problems.append(
            f"{where}: {maker}: it hides from torch what it does (a scripted or compiled function, an "
            "extension): use torch functions instead"
        )
        _tag(stream, False, Layout())

    def _path(self) -> str:
        return self.path[-1] if self.path else ""

    def _name(self) -> str:
        path = self._path()
        self.names[path] += 1
        return (path or "(network)") + (f"#{self.names[path]}" if self.names[path] > 1 else "")

    def _problem(self, name: str, text: str) -> None:
        self.problems.append(f"{self._path() or '(network)'} ({source_line()}): {name}: {text}")


def _is_stream(leaf: Any) -> bool:
    if not isinstance(leaf, Tensor) or hasattr(leaf, "_ftbc_constant"):
        return False
    # A leaf of autograd without a tag is a parameter that no module of the network holds.
    return hasattr(leaf, "_ftbc_static") or (leaf.requires_grad and not leaf.is_leaf)


def _tag(stream: Tensor, static: bool, layout: Layout) -> None:
    stream._ftbc_static = static  # type: ignore[attr-defined]
    stream._ftbc_layout = layout  # type: ignore[attr-defined]
