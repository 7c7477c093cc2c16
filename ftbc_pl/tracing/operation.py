"""One call of a torch function on tensors that depend on the network's input, as it was before it ran."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ftbc_pl.tracing.layout import Layout, with_leaf
from ftbc_pl.tracing.operations import is_inplace, names, operation_name

_SIZES = names("shape size len numel nelement nbytes zeros_like ones_like empty_like full_like rand_like randn_like")


class Operation:
    """One call.

    Attributes:
        function: The torch function.
        name: Its name without the underscores of in-place and operator variants.
        ordinal: How many calls of the same function precede it in the forward.
        args: Its arguments.
        kwargs: Its keyword arguments.
        positions: Where the streams are among the flattened arguments.
        streams: The tensors that depend on the network's input.
    """

    static: tuple[bool, ...]
    layout: Layout
    shape: torch.Size
    inplace: bool

    def __init__(
        self, function: Callable[..., Any], ordinal: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Find the streams among the arguments."""
        self.function, self.ordinal, self.args, self.kwargs = function, ordinal, args, kwargs
        self.name = operation_name(function)
        leaves = tree_leaves((args, kwargs))
        self.positions = tuple(i for i, leaf in enumerate(leaves) if is_stream(leaf))
        self.streams = tuple(leaves[i] for i in self.positions)

    def remember(self) -> None:
        """Keep what the streams are before an operation in place changes them."""
        self.static = tuple(stream._ftbc_static for stream in self.streams)  # type: ignore[attr-defined]
        self.layout = self.streams[0]._ftbc_layout  # type: ignore[attr-defined]
        self.shape = self.streams[0].shape
        self.inplace = is_inplace(self.function, self.args, self.kwargs)

    def reads_size(self) -> bool:
        """Whether the call tells how large a tensor is, or makes one that is as large."""
        return self.name in _SIZES

    def reads_batch_size(self) -> bool:
        """Whether the call tells how many images there are before the first sites, or makes a tensor with as many rows.

        What it returns is the number of rows of one timestep where everything up to here is computed once for all.
        """
        stream = self.streams[0]
        if not self.reads_size() or not getattr(stream, "_ftbc_static", False):
            return False
        dim = self.kwargs.get("dim", self.args[1] if self.name == "size" and len(self.args) > 1 else None)
        batch = stream._ftbc_layout.batch  # type: ignore[attr-defined]
        return not isinstance(dim, int) or batch is None or dim % stream.ndim == batch

    def run(self) -> Any:
        """Call the function."""
        return self.function(*self.args, **self.kwargs)

    def run_with(self, marker: Tensor) -> Any:
        """Call the function with another tensor in the place of the first stream."""
        args, kwargs = with_leaf(self.args, self.kwargs, self.streams[0], marker)
        return self.function(*args, **kwargs)


def is_stream(leaf: Any) -> bool:
    """Whether a value is a tensor that depends on the network's input."""
    if not isinstance(leaf, Tensor) or hasattr(leaf, "_ftbc_constant"):
        return False
    # A leaf of autograd without a tag is a parameter that no module of the network holds.
    return hasattr(leaf, "_ftbc_static") or (leaf.requires_grad and not leaf.is_leaf)
