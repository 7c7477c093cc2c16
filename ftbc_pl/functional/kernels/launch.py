"""How a kernel is launched, and how the tensors it gets lie in memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOST = 2**30  # elements of a membrane that the kernels of a solver take: they count in 32 bits
Merge = Callable[[Tensor], Tensor]  # merges a tensor of all processes in place, such as a sum over them


def alone(values: Tensor) -> Tensor:
    """Merge the values of a single process: there is nothing to do."""
    return values


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Run `kernel` on the device of its first argument, without fused multiply-add, which rounds once, not twice."""
    device = args[0].device
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            kernel[grid](*args, **options, enable_fp_fusion=False)
    else:
        kernel[grid](*args, **options, enable_fp_fusion=False)


def blocks(size: int, block: int) -> int:
    """Number of blocks that hold `size` elements."""
    return -(-size // block)


def inner_size(channel_dim: int, *tensors: Tensor) -> int | None:
    """Distance in memory between neighbouring channels of tensors (B, C, ...) of one shape: 1 if channels are last.

    Returns:
        S, where element i of memory belongs to channel (i // S) mod C; None unless all tensors are dense in the same
        order, channels last or not at all moved.
    """
    if all(values.is_contiguous() for values in tensors):
        return tensors[0].shape[channel_dim + 1 :].numel()
    if all(values.movedim(channel_dim, -1).is_contiguous() for values in tensors):
        return 1
    return None


def supports(channel_dim: int, membrane: Tensor, *others: Tensor) -> bool:
    """Whether kernels take one step of a site under a solver: its membrane (B, C, ...), and others of that shape."""
    fits = membrane.dtype == torch.float32 and membrane.numel() < MOST
    return fits and inner_size(channel_dim, membrane, *others) is not None


def check_layout(channel_dim: int, *tensors: Tensor) -> int:
    """`inner_size`, where there must be one.

    Raises:
        ValueError: There is none.
    """
    inner = inner_size(channel_dim, *tensors)
    if inner is None:
        strides = " and ".join(str(values.stride()) for values in tensors)
        raise ValueError(
            f"Expected tensors (B, C, ...) that are contiguous, or whose channels are last in memory, with C in "
            f"dimension {channel_dim}; got strides {strides}. Copy them to one of these layouts."
        )
    return inner
