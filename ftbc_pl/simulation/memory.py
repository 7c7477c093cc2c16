"""How much memory a forward takes, and how much there is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_SHARE = 2  # half of what is free: convolutions need memory of their own
_PLACES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")


class HeldBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, as long as these tensors live.

    Attributes:
        peak: The most bytes that were held at a time.
    """

    def __init__(self) -> None:
        """Start with nothing held."""
        super().__init__()
        self.peak = 0
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and count what is there then."""
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        self._held = {key: (ref, size) for key, (ref, size) in self._held.items() if not ref.expired()}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in given:
                storage = leaf.untyped_storage()
                self._held[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self._held.values()))
        return result


@torch.no_grad()
def bytes_per_row(network: Callable[[Tensor], Any], images: Tensor) -> int:
    """Most bytes that a forward of `network` holds for each of the images (B, ...), found out with two of them."""
    few = images[:2].clone()
    with HeldBytes() as held:
        network(few)
    return -(-held.peak // max(1, len(few)))


def free_bytes(device: torch.device) -> int | None:
    """Half of the memory that is free on a device; None where nobody says how much that is."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch has taken and does not use is free as well.
        return (free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) // _SHARE
    available = [amount for amount in (_of_machine(), _of_container()) if amount is not None]
    return min(available) // _SHARE if device.type == "cpu" and available else None


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)


def _of_container() -> int | None:
    try:
        most, used = (Path(place).read_text().strip() for place in _PLACES)
    except OSError:
        return None
    return max(0, int(most) - int(used)) if most.isdigit() else None
