"""Place of this process in a distributed run, and sums over its processes; identities in a single process."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from ftbc_pl.functional.merge import ALONE, Merge


def is_distributed() -> bool:
    """Whether a process group of more than one process is active."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_processes(values: Tensor) -> Tensor:
    """Add `values` of all processes, in place and on every process."""
    if is_distributed():
        dist.all_reduce(values)
    return values


def maximum_over_processes(values: Tensor) -> Tensor:
    """Take the element-wise maximum of `values` of all processes, in place and on every process."""
    if is_distributed():
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def merge_over_processes() -> Merge:
    """How this process's statistics become those of all processes."""
    return Merge(sum_over_processes, maximum_over_processes) if is_distributed() else ALONE


def gather_over_processes(values: Tensor, dim: int) -> Tensor:
    """Join `values` of all processes along `dim`, of any length there, in the order of the processes."""
    if not is_distributed():
        return values
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, values.cpu())
    return torch.cat(parts, dim).to(values.device)


def of_main_process(value: Any) -> Any:
    """Return the main process's `value`, which can be pickled, in every process."""
    box = [value]
    if is_distributed():
        dist.broadcast_object_list(box)
    return box[0]


def in_any_process(condition: bool, device: torch.device) -> bool:
    """Whether `condition` holds in at least one process: one answer for all, so that all go on or all raise."""
    if not is_distributed():
        return condition
    return bool(maximum_over_processes(torch.tensor([int(condition)], device=device)).item())


def process_place() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)


def is_main_process() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return process_place()[0] == 0


def progress_bar(items: Any = None, title: str = "", shown: bool = True, **settings: Any) -> Any:
    """A progress bar of the main process, where its output is a terminal.

    Args:
        items: What to go through; left out: the caller updates the bar.
        title: What is going on.
        shown: Whether to show one at all.
        **settings: Other arguments of `tqdm`.
    """
    hidden = not shown or not is_main_process()
    return tqdm(items, desc=title, disable=hidden or None, **settings)  # None: not where there is no terminal
