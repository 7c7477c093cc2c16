"""Functions of torch that are made of several operations, which have to be seen one by one."""

import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

COMPOSITE = frozenset({"multi_head_attention_forward"})
# Values, indices, and the larger or smaller of two tensors.
_EXTREMES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor]]] = {
    "max": (torch.amax, torch.argmax, torch.maximum),
    "min": (torch.amin, torch.argmin, torch.minimum),
}


@cache
def may_expand(function: Callable[..., Any]) -> bool:
    """Whether `expansion` may have something for a call of a function."""
    name = getattr(function, "__name__", "")
    return name in COMPOSITE or name in _EXTREMES


def expansion(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Callable[..., Any] | None:
    """What takes the place of a call, with the same arguments and results, where that is made of several operations."""
    name = getattr(function, "__name__", "")
    if name in COMPOSITE:
        return expanded(function)
    if name not in _EXTREMES or "out" in kwargs:
        return None
    given = (args[1],) if len(args) > 1 else tuple(kwargs[key] for key in ("dim", "axis", "other") if key in kwargs)
    if any(isinstance(value, Tensor) for value in given):
        return _EXTREMES[name][2]
    return partial(_values_and_indices, name) if any(isinstance(value, int) for value in given) else None


def _values_and_indices(name: str, *args: Any, **kwargs: Any) -> Any:
    """What `torch.max(x, dim)` returns; most networks want the values alone."""
    values, indices, _ = _EXTREMES[name]
    made: Any = getattr(torch.return_types, name)
    return made((values(*args, **kwargs), indices(*args, **kwargs)))


@cache
def expanded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose operations go to an active `TorchFunctionMode` instead of the function as a whole.

    A function of `torch.nn.functional` begins by asking `has_torch_function`, and hands itself over if so; the same
    code with another answer runs on.
    """
    assert isinstance(function, types.FunctionType)
    names = {name: _no for name in function.__globals__ if name.startswith("has_torch_function")}
    return types.FunctionType(
        function.__code__, function.__globals__ | names, function.__name__, function.__defaults__, function.__closure__
    )


def _no(*_: Any) -> bool:
    return False
