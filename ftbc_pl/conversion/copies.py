"""A copy of an ANN that conversion may change: out of its wrappers, and free of the graph of a training step."""

import copy
import functools
import logging
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ftbc_pl.conversion.errors import ConversionError

_log = logging.getLogger("ftbc_pl")

# Which attribute of a wrapper holds the network. By name, since most of these classes need imports of their own.
_WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "_FabricModule": "module",
    "OptimizedModule": "_orig_mod",  # torch.compile
    "AveragedModel": "module",
    "ModelEma": "ema",  # timm; the first one is no module
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
    "EMA": "ema_model",  # ema_pytorch
}
_NETWORK_NAMES = ("network", "model", "net")


def unwrapped(network: Any) -> nn.Module:
    """The network inside its wrappers, in one line of the log for each of them.

    Args:
        network: The network as it was trained: parallel, compiled, averaged, or the child of a LightningModule that has
            no forward of its own.

    Raises:
        ConversionError: It is none that can be read: scripted, or its child is not known.
        TypeError: It is no module.
    """
    inner, name = _inner(network)
    if inner is not None:
        _log.warning("Converting %s of %s: a %s.", name, type(network).__name__, type(inner).__name__)
        return unwrapped(inner)
    if not isinstance(network, nn.Module):
        raise TypeError(f"Expected the network as a torch.nn.Module, got {type(network).__name__}.")
    unmade = [name for name, p in network.named_parameters() if p.is_meta or nn.parameter.is_lazy(p)]
    if unmade:
        raise ConversionError.of_network(
            f"{unmade[0]} has no values yet: load weights, or run a lazy module once before"
        )
    scripted = [path for path, module in network.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        raise ConversionError(
            [
                f"{scripted[0] or '(network)'}: it is TorchScript, whose operations can't be seen: use the module that "
                "it was made from"
            ]
        )
    return network


def copied(network: nn.Module) -> nn.Module:
    """Return a copy without gradients, graphs of earlier forwards, or a trainer.

    Args:
        network: The network, also right after a training step.

    Raises:
        ConversionError: Something in it can't be copied.
    """
    return _copied(network, {})


def copied_without_wrappers(network: nn.Module) -> nn.Module:
    """Return a copy as `copied` does, without the wrappers around parts of the network.

    Args:
        network: The network, out of its outer wrappers.

    Raises:
        ConversionError: Something in it can't be copied.
    """
    memo: dict[int, Any] = {}
    for module in reversed(list(network.modules())):  # inner ones first
        inner, _ = _inner(module) if module is not network and not _is_lightning(module) else (None, "")
        if inner is not None:
            memo[id(module)] = _copied(inner, memo)
    return _copied(network, memo)


def _copied(network: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy, in which what is in `memo` has taken the place of the objects with these ids."""
    for module in filter(_is_lightning, network.modules()):
        # Its trainer holds data and loggers; the network runs without it.
        for name in ("_trainer", "_fabric"):
            memo[id(vars(module).get(name))] = None
    seen = set(memo)
    for module in network.modules():
        for tensor in _tensors(vars(module), seen):
            # What a forward left behind: features, weights that a normalisation computes anew each time.
            if tensor.grad_fn is not None and id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
    try:
        return copy.deepcopy(network, memo)
    except (TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise ConversionError.of_network(
            f"it can't be copied: {first_line(error)}: take what is no part of the network (locks, files, generators) "
            "out of its attributes"
        ) from error


@torch.no_grad()
def without_shell(network: nn.Module, example: Tensor, outputs: Any) -> nn.Module:
    """The network of a LightningModule whose own forward does no more than call it; any other network as it is.

    Args:
        network: A copy of the ANN in eval mode.
        example: A small input batch (B, ...).
        outputs: What the network makes of it.
    """
    if not _is_lightning(network) or not isinstance(outputs, Tensor):
        return network
    try:
        inner, name = _child(network)
        same = inner(example.clone())
    except Exception:
        return network
    if not isinstance(same, Tensor) or not torch.equal(same, outputs):
        return network
    _log.warning("Converting %s of %s: a %s.", name, type(network).__name__, type(inner).__name__)
    return inner


def first_line(error: BaseException) -> str:
    """Type and first line of an error, for a sentence."""
    text = str(error).strip().split("\n")[0].strip().rstrip(".:")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _inner(network: Any) -> tuple[nn.Module | None, str]:
    """The network inside a wrapper and the attribute that holds it; None if there is no wrapper."""
    for base in type(network).__mro__:
        name = _WRAPPERS.get(base.__name__, "")
        if name and isinstance(getattr(network, name, None), nn.Module):
            return getattr(network, name), name
    if _is_lightning(network) and not _has_forward(network):
        return _child(network)
    return None, ""


def _is_lightning(module: Any) -> bool:
    return any(base.__name__ == "LightningModule" for base in type(module).__mro__)


def _has_forward(module: nn.Module) -> bool:
    base = next(base for base in type(module).__mro__ if base.__name__ == "LightningModule")
    return type(module).forward is not base.forward  # type: ignore[attr-defined]


def _child(module: nn.Module) -> tuple[nn.Module, str]:
    """The network of a LightningModule without a forward."""
    children = {
        name: child
        for name, child in module.named_children()
        if not any(base.__name__ in ("Metric", "MetricCollection", "_Loss") for base in type(child).__mro__)
    }
    names = [name for name in _NETWORK_NAMES if name in children] or list(children)
    if len(names) != 1:
        raise ConversionError.of_network(
            f"{type(module).__name__} has no forward, and its network is not known among "
            f"{', '.join(children) or 'no modules'}: pass the network itself"
        )
    return children[names[0]], names[0]


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """All tensors inside a value that copying would reach, modules left aside."""
    if isinstance(value, Tensor):
        yield value
        return
    if id(value) in seen or isinstance(value, nn.Module | type | types.ModuleType | types.FunctionType):
        return
    seen.add(id(value))
    parts: list[Any] = []
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)
    elif isinstance(value, functools.partial):
        parts = [value.args, value.keywords, value.func]
    elif isinstance(value, types.MethodType):
        parts = [value.__self__]
    elif hasattr(value, "__dict__"):
        parts = [vars(value)]
    for part in parts:
        yield from _tensors(part, seen)
