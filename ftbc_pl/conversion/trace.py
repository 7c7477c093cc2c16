"""List every operation of one forward of a network, with its module path, source line and meaning for spikes.

The network runs under a ``TorchFunctionMode``, so functional calls, shared modules and networks that can't be traced
symbolically are all seen. Autograd tells which tensors depend on the input: parameters are frozen for the run and the
input requires a gradient, so a tensor is part of the stream exactly if it requires one too.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ftbc_pl.conversion.operations import Kind, advice, classify, is_inplace, operation_name

_PACKAGE = Path(__file__).parents[1]
# What a user's call passes through on its way here.
_SKIPPED_SOURCES = tuple(
    str(path) for path in (Path(torch.__file__).parent, _PACKAGE / "layers.py", _PACKAGE / "functional", Path(__file__))
)


@dataclass(frozen=True)
class Call:
    """One call of an operation that becomes a site of the spiking network.

    Attributes:
        name: Unique name: the module path, with #2, #3 … for further calls inside the same module.
        operation: Name of the operation, such as ``relu``.
        kind: Spiking or rate-exact.
        source: ``file:line`` of the call.
        function: The torch function that is called.
        ordinal: How many calls of the same function precede it in a forward.
        streams: Positions, among the flattened arguments, of the tensors that depend on the input.
        static: For each of them, whether it is the same at every timestep.
        inplace: Whether the call overwrites its first argument.
        shape: Shape of the first stream without the batch dimension.
        channel_dim: Dimension of the channels in (B, C, ...).
        threshold: θ where the activation has one of its own (QCFS, RTS).
    """

    name: str
    operation: str
    kind: Kind
    source: str
    function: Callable[..., Any]
    ordinal: int
    streams: tuple[int, ...]
    static: tuple[bool, ...]
    inplace: bool
    shape: tuple[int, ...]
    channel_dim: int
    threshold: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Trace:
    """All sites of a network in forward order.

    Attributes:
        calls: The sites.
        counts: How often each function of a site is called in a forward, sites or not.
        static_prefix: Whether everything before the first sites may be computed once for all timesteps.
        problems: What can't be converted, one sentence a site.
    """

    calls: tuple[Call, ...]
    counts: dict[Callable[..., Any], int]
    static_prefix: bool
    problems: tuple[str, ...]


def trace(network: nn.Module, example: Tensor, smooth: bool = False) -> Trace:
    """Run ``network`` once on ``example`` (B, ...) and list its sites.

    Args:
        network: The ANN in eval mode.
        example: A small input batch.
        smooth: Whether smooth activations (GELU …) are run by the rate-exact replacement instead of being a problem.
    """
    recorder = _Recorder(smooth)
    frozen = [p for p in network.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad(), _module_paths(network, recorder.path):
            # A view, since a leaf that requires a gradient can't be changed in place.
            images = example.detach().clone().requires_grad_().view_as(example)
            images._ftbc_static = True  # type: ignore[attr-defined]
            with recorder:
                outputs = network(images)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    if not any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(outputs)):
        recorder.problems.append(
            "(output): no output depends on the input through differentiable operations; remove detach() and no_grad()"
        )
    functions = {call.function for call in recorder.calls}
    counts = {function: recorder.counts[function] for function in functions}
    return Trace(tuple(recorder.calls), counts, recorder.static_prefix, tuple(recorder.problems))


class _Recorder(TorchFunctionMode):
    def __init__(self, smooth: bool) -> None:
        super().__init__()
        self.smooth = smooth
        self.path: list[str] = []
        self.calls: list[Call] = []
        self.problems: list[str] = []
        self.counts: Counter[Callable[..., Any]] = Counter()
        self.names: Counter[str] = Counter()
        self.static_prefix = True

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        ordinal = self.counts[func]
        self.counts[func] += 1
        leaves = tree_leaves((args, kwargs))
        streams = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if operation_name(func) == "setitem":
            if streams:
                self._problem(func, Kind.UNSUPPORTED)
            return func(*args, **kwargs)
        if not streams:
            return func(*args, **kwargs)
        kind = classify(func, args, kwargs, len(streams))
        static = [getattr(leaves[i], "_ftbc_static", False) for i in streams]
        if any(getattr(leaves[i], "_ftbc_overwritten", False) for i in streams):
            self.static_prefix = False
        channel_dim = _channel_dim(leaves[streams[0]])
        shape = leaves[streams[0]].shape[1:]
        if kind is Kind.SMOOTH and self.smooth:
            kind = Kind.RATE_EXACT
        inplace = is_inplace(func, args, kwargs)
        out = func(*args, **kwargs)
        if kind is Kind.METADATA:
            return out
        if kind in (Kind.SMOOTH, Kind.UNSUPPORTED):
            self._problem(func, kind)
        elif kind is Kind.AFFINE:
            self.static_prefix &= all(static) or not any(static)
        else:
            threshold = args[1] if operation_name(func) in ("qcfs", "clipped_relu") else None
            self.calls.append(
                Call(
                    self._name(),
                    operation_name(func),
                    kind,
                    _source(),
                    func,
                    ordinal,
                    tuple(streams),
                    tuple(static),
                    inplace,
                    tuple(shape),
                    channel_dim,
                    threshold,
                )
            )
        remains_static = all(static) and kind is not Kind.SPIKING
        if inplace and all(static) and not remains_static:
            # The result gets an identity of its own, to see whether the overwritten tensor is used again.
            args[0]._ftbc_overwritten = True
            out = out.view_as(out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                leaf._ftbc_static = remains_static  # type: ignore[attr-defined]
                leaf._ftbc_channel_dim = _output_channel_dim(  # type: ignore[attr-defined]
                    operation_name(func), leaf, args, channel_dim, len(shape) + 1
                )
        return out

    def _name(self) -> str:
        path = self.path[-1] if self.path else ""
        self.names[path] += 1
        return (path or "(network)") + (f"#{self.names[path]}" if self.names[path] > 1 else "")

    def _problem(self, func: Callable[..., Any], kind: Kind) -> None:
        path = (self.path[-1] if self.path else "") or "(network)"
        name = operation_name(func)
        self.problems.append(f"{path} ({_source()}): {name}: {advice(name, kind)}")


@contextmanager
def _module_paths(network: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keep the path of the module that is running on top of ``stack``."""

    def enter(path: str) -> Callable[..., None]:
        return lambda *_: stack.append(path)

    def leave(*_: Any) -> None:
        stack.pop()

    handles = []
    for path, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(enter(path)))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _source() -> str:
    """``file:line`` of the innermost frame that is neither torch nor this package's machinery."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_SKIPPED_SOURCES):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{'/'.join(path.parts[-2:])}:{frame.f_lineno}"


def _channel_dim(stream: Tensor) -> int:
    known = getattr(stream, "_ftbc_channel_dim", None)
    if known is not None and known < stream.ndim:
        return int(known)
    return 2 if stream.ndim == 3 else 1


def _output_channel_dim(name: str, out: Tensor, args: tuple[Any, ...], before: int, ndim: int) -> int | None:
    """Where the channels are after an operation, or None where that is not known."""
    if name in ("linear", "layer_norm", "rms_norm"):
        return out.ndim - 1
    if name.startswith("conv") or name == "batch_norm":
        return 1
    if name == "permute":
        order = args[1] if isinstance(args[1], tuple | list) else args[1:]
        return [d % ndim for d in order].index(before)
    if name in ("transpose", "swapaxes", "swapdims"):
        first, second = args[1] % ndim, args[2] % ndim
        return {first: second, second: first}.get(before, before)
    return before if out.ndim == ndim and name not in ("reshape", "view", "flatten") else None
