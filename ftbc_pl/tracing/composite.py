"""Functions of torch that are written in Python and made of many operations, which have to be seen one by one."""

import types
from collections.abc import Callable
from functools import cache
from typing import Any

COMPOSITE = frozenset({"multi_head_attention_forward"})


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
