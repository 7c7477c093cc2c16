"""Where the batch and the channels of a tensor are, followed through the operations of a network.

A convolution or a normalisation layer says which dimension is the channels'; operations that only rearrange a tensor
are asked themselves: they are applied to a marker, a tensor whose values differ along one dimension only, and the
dimension along which the result differs is where that dimension went.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ftbc_pl.tracing.operations import names

_REARRANGING = names(
    "view reshape flatten unflatten squeeze unsqueeze permute transpose swapaxes swapdims movedim moveaxis t T mT "
    "getitem select narrow index_select mean sum amax amin chunk split split_with_sizes tensor_split unbind repeat "
    "expand view_as reshape_as expand_as"
)
# No dimension holds it any more; it is a part of a dimension, between others.
_GONE, INTERLEAVED = -1, -2
_LAST = frozenset({"linear", "layer_norm", "rms_norm", "matmul"})


class Layout(NamedTuple):
    """Dimension of the batch and of the channels; None where that is not known.

    The batch is `INTERLEAVED` where it was merged into another dimension that does not begin with it.
    """

    batch: int | None = 0
    channels: int | None = None

    def channel_dim(self, ndim: int) -> int:
        """Dimension of the channels; unknown: the last one of (B, N, C), the second one of everything else."""
        if self.channels is not None and 0 < self.channels < ndim:
            return self.channels
        return 2 if ndim == 3 else 1


class BatchMixed(Exception):  # noqa: N818 - not an error by itself; the caller says what it means
    """An operation took several images of a batch together, or one out of it."""


def follow(
    name: str, before: Layout, source: Tensor, again: Callable[[Tensor], Any], outputs: Sequence[Tensor]
) -> list[Layout]:
    """Layouts of the results of an operation.

    Args:
        name: Name of the operation.
        before: Layout of its input.
        source: Its first input that depends on the network's.
        again: Applies the operation to another tensor of the same shape.
        outputs: Its results.

    Raises:
        BatchMixed: The result does not tell the images of the batch apart any more.
    """
    if any(out.ndim == 0 for out in outputs):
        raise BatchMixed
    if name in _REARRANGING:
        batch, channels = (_moved(source, dim, again, len(outputs)) for dim in before)
        if _GONE in batch:
            raise BatchMixed
        channels = [dim if dim is not None and dim >= 0 else None for dim in channels]
        return [Layout(*pair) for pair in zip(batch, channels, strict=True)]
    return [_after(name, before, source.ndim, out.ndim) for out in outputs]


def _after(name: str, before: Layout, ndim: int, new_ndim: int) -> Layout:
    if name.startswith("conv") or name in ("batch_norm", "group_norm", "instance_norm"):
        return Layout(0, 1)
    if name in _LAST and new_ndim == ndim:
        return Layout(before.batch, ndim - 1)
    if new_ndim == ndim:
        return before
    if name in ("add", "radd", "sub", "rsub", "mul", "rmul", "div"):
        # Broadcasting fills up missing dimensions in front.
        return Layout(*(None if dim is None else dim + new_ndim - ndim for dim in before))
    return Layout(None, None)


def _moved(source: Tensor, dim: int | None, again: Callable[[Tensor], Any], count: int) -> list[int | None]:
    """Where a dimension of `source` is in each of the results; None where that is not known."""
    shape = source.shape
    if dim is None or dim == INTERLEAVED or shape[dim] == 1:
        return [None] * count
    ramp = torch.arange(1.0, shape[dim] + 1, device=source.device)
    marker = ramp.view([-1 if d == dim else 1 for d in range(len(shape))]).expand(shape).contiguous()
    try:
        results = [leaf for leaf in tree_leaves(again(marker)) if isinstance(leaf, Tensor)]
    except RuntimeError:  # a view of a memory layout that the marker has not
        return [None] * count
    return [_varying(result) for result in results]


def _varying(marker: Tensor) -> int | None:
    """The only dimension along which a tensor varies; None if there are several, `_GONE` if there is none."""
    varying = [d for d in range(marker.ndim) if bool((marker != marker.narrow(d, 0, 1)).any())]
    if len(varying) != 1:
        return None if varying else _GONE
    return INTERLEAVED if bool((marker.diff(dim=varying[0]) < 0).any()) else varying[0]


def with_leaf(args: Any, kwargs: Any, old: Tensor, new: Tensor) -> tuple[Any, Any]:
    """Arguments with one tensor exchanged."""
    return tree_map(lambda leaf: new if leaf is old else leaf, (args, kwargs))  # type: ignore[no-any-return]
