"""Functions of one's own that torch's function modes see as one operation, like those of torch."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function


def traceable(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let an active `TorchFunctionMode` see `function(x, threshold, ...)` instead of what it is made of.

    The trace of a network finds the call by its function, as `torch.relu`; so does the spiking network, when it
    sends the call to its neurons.

    Args:
        function: Takes the pre-activations, the threshold and plain values, and returns the activations.
    """

    @wraps(function)
    def seen(x: Tensor, threshold: Tensor, *values: Any) -> Tensor:
        if has_torch_function((x, threshold)):
            return handle_torch_function(seen, (x, threshold), x, threshold, *values)  # type: ignore[no-any-return]
        return function(x, threshold, *values)

    return seen
