"""How affine operations pass spikes on: of how many spikes each element of a result is made.

Operations that have no weights hand spikes on, whatever they scale them by, since a scale belongs into the weights
behind it: a sum hands on the spikes of all its terms, average pooling those of its window, a view all of them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ftbc_pl.tracing.operations import names, operation_name

WEIGHTED = names(
    "matmul rmatmul bmm mm mv addmm baddbmm addbmm einsum linear conv1d conv2d conv3d conv_transpose1d "
    "conv_transpose2d conv_transpose3d convolution bilinear inner outer tensordot"
)
_ELEMENTWISE = names(
    "add radd iadd sub rsub isub subtract neg positive mul rmul imul multiply div truediv itruediv idiv divide "
    "true_divide batch_norm dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout contiguous clone "
    "to type_as float double half bfloat16 cpu cuda alias"
)
# Linear along each dimension behind (B, C) by itself.
_SEPARABLE = names(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample"
)


class Arguments:
    """The arguments of a call of a torch function, with places for the streams among them."""

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: Any, positions: tuple[int, ...]) -> None:
        """Take a call apart.

        Args:
            function: The torch function.
            args: Its arguments.
            kwargs: Its keyword arguments.
            positions: Where the streams are among the flattened arguments.
        """
        self.function, self.name = function, operation_name(function)
        self.leaves, self.structure = tree_flatten((args, kwargs))
        self.positions = positions

    def call(self, function: Callable[..., Any], streams: list[Tensor], constant: float) -> Any:
        """Call `function` with other streams, and with `constant` in every other tensor of numbers."""
        replaced = [
            torch.full_like(leaf, constant, dtype=streams[0].dtype)
            if isinstance(leaf, Tensor) and leaf.is_floating_point()
            else leaf
            for leaf in self.leaves
        ]
        for position, stream in zip(self.positions, streams, strict=True):
            replaced[position] = stream
        args, kwargs = tree_unflatten(replaced, self.structure)
        return function(*args, **kwargs)


def weigh_by_ones(arguments: Arguments, counts: list[Tensor]) -> Tensor:
    """How many spikes reach each element of the result of a layer with weights, each by a weight of its own."""

    def unscaled(*args: Any, **kwargs: Any) -> Tensor:
        """Without the factors of `addmm` and the like, which belong into the weights."""
        return arguments.function(*args, **{k: v for k, v in kwargs.items() if k not in ("alpha", "beta")})  # type: ignore[no-any-return]

    return arguments.call(unscaled, counts, 1.0)  # type: ignore[no-any-return]


def pass_on(arguments: Arguments, counts: list[Tensor], results: list[Tensor]) -> list[Tensor]:
    """Counts of the results of an operation without weights.

    Args:
        arguments: The call.
        counts: Of how many spikes the elements of each stream are made.
        results: What the call has returned.
    """
    name = arguments.name
    if name in _ELEMENTWISE:
        total = counts[0]
        for count in counts[1:]:
            total = total + count
        return [total.expand(results[0].shape)]
    if name in _SEPARABLE:
        return [_separable(arguments, counts[0])]
    if name == "pad" or name == "constant_pad_nd":
        return [arguments.call(_pad, counts, 0.0)]
    own: dict[str, Callable[..., Any]] = {"mean": torch.sum, "where": _where, "masked_fill": _masked_fill}
    copies = [count.clone() for count in counts]  # for calls that overwrite
    return [
        leaf
        for leaf in tree_leaves(arguments.call(own.get(name, arguments.function), copies, 0.0))
        if isinstance(leaf, Tensor)
    ]


def _separable(arguments: Arguments, count: Tensor) -> Tensor:
    """Sum over what each element of the result depends on, one dimension after the other."""
    shape = count.shape
    for dim in range(2, count.ndim):
        size = shape[dim]
        basis = torch.eye(size, dtype=count.dtype, device=count.device)
        basis = basis.view(size, 1, *(size if d == dim else 1 for d in range(2, len(shape))))
        depends = arguments.call(arguments.function, [basis.expand(size, 1, *shape[2:]).contiguous()], 0.0) != 0
        depends = depends.movedim(dim, 1).flatten(2).any(2)
        count = torch.tensordot(count, depends.to(count.dtype), ([dim], [0])).movedim(-1, dim)
    return count


def _pad(count: Tensor, pad: Any, mode: str = "constant", value: Any = None) -> Tensor:
    return F.pad(count, pad, mode if isinstance(mode, str) else "constant")


def _where(condition: Tensor, first: Any, second: Any) -> Tensor:
    first, second = (leaf if isinstance(leaf, Tensor) else 0.0 for leaf in (first, second))
    return torch.where(condition, first, second)


def _masked_fill(count: Tensor, mask: Tensor, value: Any) -> Tensor:
    return count.masked_fill(mask, 0.0)
