"""Sums over the processes of a distributed run; identities in a single process."""

import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether a process group of more than one process is active."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_processes(values: Tensor) -> Tensor:
    """Add ``values`` of all processes, in place and on every process."""
    if is_distributed():
        dist.all_reduce(values)
    return values


def maximum_over_processes(values: Tensor) -> Tensor:
    """Take the element-wise maximum of ``values`` of all processes, in place and on every process."""
    if is_distributed():
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def is_main_process() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return not is_distributed() or dist.get_rank() == 0
