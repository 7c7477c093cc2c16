"""List every operation of one forward of a network, with its module path, source line and meaning for spikes.

The network runs under a `TorchFunctionMode`, so functional calls, shared modules and networks that can't be traced
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

from ftbc_pl.sites import SiteRecord
from ftbc_pl.tracing.calls import Call, Origin, Trace
from ftbc_pl.tracing.composite import expansion
from ftbc_pl.tracing.layout import BatchMixed, Layout, follow
from ftbc_pl.tracing.modules import is_activation_module, module_paths, source_line
from ftbc_pl.tracing.operation import Operation, is_stream
from ftbc_pl.tracing.operations import Kind, advice, classify, is_index, own_threshold, upper_bound
from ftbc_pl.tracing.outputs import is_one_probability

_SITES = (Kind.SPIKING, Kind.RATE_EXACT)
_OUTPUTS = (Tensor, int, float, str, bytes, type(None))


def trace(network: nn.Module, example: Tensor, smooth: bool = False) -> Trace:
    """Run `network` once on `example` (B, ...) and list its sites.

    Args:
        network: The ANN in eval mode.
        example: A small input batch.
        smooth: Whether smooth activations (GELU …) are run by the rate-exact replacement instead of being a problem.
    """
    with _frozen(network), torch.enable_grad(), module_paths(network) as (path, entered):
        recorder = _Recorder(smooth, dict(network.named_modules()), path, len(example))
        # A view, since a leaf that requires a gradient can't be changed in place.
        images = example.detach().clone().requires_grad_().view_as(example)
        _tag(images, True, Layout())
        try:
            with recorder:
                outputs = network(images)
        except Exception as error:
            recorder.note_failure(error)
            outputs = None
    recorder.check_outputs(outputs)
    calls = tuple(
        replace(call, record=replace(call.record, origin=Origin.SHARED.value))
        if call.record.origin == Origin.MODULE.value and entered[call.name.partition("#")[0]] > 1
        else call
        for call in recorder.calls
    )
    counts = {call.function: recorder.counts[call.function] for call in calls}
    tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
    constant = tuple(not is_stream(leaf) for leaf in tensors)
    static = tuple(not is_stream(leaf) or bool(getattr(leaf, "_ftbc_static", False)) for leaf in tensors)
    problems = tuple(recorder.problems) if recorder.harmful else ()
    probability = is_one_probability(tensors)
    found = Trace(calls, counts, True, static, constant, problems, recorder.sizes_read, probability)
    return found if recorder.static_prefix else found.without_prefix()


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
    def __init__(self, smooth: bool, modules: dict[str, nn.Module], path: list[str], batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.smooth = smooth
        self.modules = modules
        self.path = path
        self.calls: list[Call] = []
        self.problems: list[str] = []
        self.counts: Counter[Callable[..., Any]] = Counter()
        self.names: Counter[str] = Counter()
        self.layers: list[str] = []
        self.static_prefix = True
        self.sizes_read = False
        self.failed = False
        # Whether a problem reaches an output or may do so. Features kept for a plot, or a norm that is printed, don't.
        self.harmful = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        ordinal = self.counts[func]
        self.counts[func] += 1
        parts = expansion(func, args, kwargs)
        if parts is not None:
            with self:
                return parts(*args, **kwargs)
        operation = Operation(func, ordinal, args, kwargs)
        if not operation.streams:
            return _constant(operation.run())
        for stream in operation.streams:
            self._check_known(stream)
        kind = self._classify(operation)
        aside = any(map(_is_aside, operation.streams))
        if kind is Kind.METADATA:
            self.sizes_read |= operation.reads_batch_size()
            self.harmful |= aside and operation.reads_size()
            return operation.run()
        operation.remember()
        self.static_prefix &= not any(hasattr(stream, "_ftbc_overwritten") for stream in operation.streams)
        if kind not in _SITES or not aside:
            self._record(kind, operation)
        out = operation.run()
        if aside or kind in (Kind.SMOOTH, Kind.UNSUPPORTED):
            return self._set_aside(operation, out)
        remains_static = all(operation.static) and kind is not Kind.SPIKING
        if operation.inplace and all(operation.static) and not remains_static:
            out = self._separate(operation, out)
        if not self._tag_results(operation, out, remains_static):
            return self._set_aside(operation, out)
        return out

    def _set_aside(self, operation: Operation, out: Any) -> Any:
        """Mark results of what can't be converted: they do no harm as long as no output is made of them.

        Indices, as beside the values of a maximum, are common: they are only reported where they are used.
        """
        if self.calls and (self.calls[-1].function, self.calls[-1].ordinal) == (operation.function, operation.ordinal):
            self.calls.pop()
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.harmful |= not results or operation.inplace
        for leaf in results:
            _tag(leaf, False, Layout(None, None))
            leaf._ftbc_aside = [self.problems.pop()] if is_index(operation.name) else []  # type: ignore[attr-defined]
        return out

    def _classify(self, operation: Operation) -> Kind:
        kind = classify(operation.function, operation.args, operation.kwargs, operation.streams)
        return Kind.RATE_EXACT if kind is Kind.SMOOTH and self.smooth else kind

    def _record(self, kind: Kind, operation: Operation) -> None:
        """Note a site, an affine layer, or what can't be converted."""
        if kind in (Kind.SMOOTH, Kind.UNSUPPORTED):
            self._problem(operation.name, advice(operation.name, kind))
        elif kind is Kind.AFFINE:
            self.static_prefix &= all(operation.static) or not any(operation.static)
            if operation.name.startswith(("conv", "linear")):
                self.layers.append(self._path())
        else:
            if operation.layout.batch not in (0, None):
                self._problem(
                    operation.name,
                    "the batch is not the first dimension of its input: use batch_first=True, or permute before the "
                    "call",
                )
                self.harmful = True
            self.calls.append(self._call(kind, operation))
            self.layers.clear()

    def _call(self, kind: Kind, operation: Operation) -> Call:
        function, args, kwargs = operation.function, operation.args, operation.kwargs
        spiking, shape = kind is Kind.SPIKING, tuple(operation.shape[1:])
        dim = operation.layout.channel_dim(len(operation.shape))
        origin = Origin.MODULE if is_activation_module(self.modules[self._path()]) else Origin.FUNCTION
        record = SiteRecord(
            name=self._name(),
            kind=kind.value,
            operation=operation.name,
            origin=origin.value,
            source=source_line(),
            shape=shape,
            rows=max(1, operation.shape[0] // self.batch_size) if operation.layout.batch == 0 else 1,
            channels=shape[dim - 1] if spiking else 0,
            upper=upper_bound(function, args, kwargs) if spiking else None,
        )
        return Call(
            record=record,
            kind=kind,
            function=function,
            ordinal=operation.ordinal,
            streams=operation.positions,
            static=operation.static,
            inplace=operation.inplace,
            channel_dim=dim,
            layers=tuple(self.layers),
            threshold=own_threshold(function, args) if spiking else None,
        )

    def _separate(self, operation: Operation, out: Tensor) -> Tensor:
        """Give the result of an overwriting call an identity of its own, to see whether the tensor is used again."""
        overwritten = operation.args[0]
        if overwritten._is_view() and overwritten._base is not None:
            self.static_prefix = False  # the tensor behind the view changes as well
        overwritten._ftbc_overwritten = True
        return out.view_as(out)

    def _tag_results(self, operation: Operation, out: Any, static: bool) -> bool:
        """Tell where batch and channels of the results are; False if the batch is in none of their dimensions."""
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        source = operation.streams[0]
        if source.shape != operation.shape:
            source = source.new_empty(operation.shape)
        try:
            layouts = follow(operation.name, operation.layout, source, operation.run_with, results)
        except BatchMixed:
            self._problem(
                operation.name, "it takes images of the batch together, or one out of it: treat each image by itself"
            )
            return False
        for leaf, after in zip(results, layouts, strict=True):
            _tag(leaf, static, after)
        return True

    def note_failure(self, error: Exception) -> None:
        """Report a forward that does not run to its end; often an operation that was reported already is why."""
        text, self.harmful = str(error).strip().split("\n")[0], True
        self.problems.append(
            "(network): its forward, which runs as it is, does not run where the input requires a gradient: "
            f"{type(error).__name__}: {text}"
        )
        self.failed = True

    def check_outputs(self, outputs: Any) -> None:
        """Check that the outputs are tensors that depend on the input, batch first."""
        if self.failed:
            return
        known, leaves = len(self.problems), tree_leaves(outputs)
        for leaf in leaves:
            if not isinstance(leaf, _OUTPUTS):
                self.problems.append(
                    f"(output): an output is of type {type(leaf).__name__}: return tensors, or tuples, lists and dicts "
                    "of them"
                )
        streams = [leaf for leaf in leaves if is_stream(leaf)]
        if not streams:
            self.problems.append("(output): no output is a tensor that depends on the input")
        for stream in streams:
            self._check_known(stream, "(output)")
            if stream._ftbc_layout.batch not in (0, None):  # type: ignore[attr-defined]
                self.problems.append("(output): the batch is not the first dimension of an output: permute it")
        self.harmful |= len(self.problems) > known or any(map(_is_aside, streams))

    def _check_known(self, stream: Tensor, place: str | None = None) -> None:
        """Report a stream that no recorded operation has made, or what stands in the way of this one."""
        self.problems += [text for text in getattr(stream, "_ftbc_aside", ()) if text not in self.problems]
        if hasattr(stream, "_ftbc_static"):
            return
        maker = stream.grad_fn.name().partition("Backward")[0] if stream.grad_fn is not None else "an operation"
        where = place or f"before {self._path() or '(network)'} ({source_line()})"
        self.problems.append(
            f"{where}: {maker}: it hides from torch what it does (a scripted or compiled function, an "
            "extension): use torch functions instead"
        )
        self.harmful = True
        _tag(stream, False, Layout())

    def _path(self) -> str:
        return self.path[-1] if self.path else ""

    def _name(self) -> str:
        path = self._path()
        self.names[path] += 1
        return (path or "(network)") + (f"#{self.names[path]}" if self.names[path] > 1 else "")

    def _problem(self, name: str, text: str) -> None:
        self.problems.append(f"{self._path() or '(network)'} ({source_line()}): {name}: {text}")


def _is_aside(stream: Tensor) -> bool:
    """Whether a tensor was made by an operation that can't be converted."""
    return hasattr(stream, "_ftbc_aside")


def _constant(out: Any) -> Any:
    """Mark results that require a gradient without depending on the input, such as weights computed in the forward."""
    for leaf in tree_leaves(out):
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            leaf._ftbc_constant = True  # type: ignore[attr-defined]
    return out


def _tag(stream: Tensor, static: bool, layout: Layout) -> None:
    stream._ftbc_static = static  # type: ignore[attr-defined]
    stream._ftbc_layout = layout  # type: ignore[attr-defined]
