"""Running a network in float64, whatever its own code casts to."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map


class Double(TorchFunctionMode):
    """While active, casts to another floating-point type lead to float64, so that they round nothing."""

    _CASTS = {Tensor.float, Tensor.half, Tensor.bfloat16}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation with other types exchanged."""
        args, kwargs = tree_map(_to_double, (args, kwargs or {}))
        return (Tensor.double if func in self._CASTS else func)(*args, **kwargs)

    def __enter__(self) -> "Double":
        self._before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        torch.set_default_dtype(self._before)


def _to_double(leaf: Any) -> Any:
    return torch.float64 if isinstance(leaf, torch.dtype) and leaf.is_floating_point else leaf
