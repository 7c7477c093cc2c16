"""A forward for a batch shape that came before, replayed as one CUDA graph: no Python and no launches per operation."""

import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

_EAGER = 2  # forwards of a shape before its graph is recorded: they compile kernels and choose algorithms


class Replay:
    """The CUDA graphs of one network.

    A graph reads the memory that it was recorded with. So it belongs to a shape, and to the places of all weights and
    buffers: a network that was moved, or given other tensors, records anew.
    """

    def __init__(self) -> None:
        """Start without graphs."""
        self._seen: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor, Any]] = {}
        self._works = True

    def __deepcopy__(self, memo: dict[int, Any]) -> "Replay":
        return Replay()  # a copy of the network has weights of its own

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def run(self, forward: Callable[[Tensor], Any], images: Tensor, modules: list[nn.Module], *key: Hashable) -> Any:
        """Run `forward` on images (B, ...), by its graph once there is one.

        Args:
            forward: Without a result that depends on the data, and without gradients.
            images: (B, ...); on a GPU, or nothing is recorded.
            modules: All modules whose tensors the forward reads.
            *key: What else the forward depends on.
        """
        if not (self._works and images.is_cuda) or torch.cuda.is_current_stream_capturing():
            return forward(images)
        places = tuple(
            tensor.data_ptr()
            for module in modules
            for tensor in (*module._parameters.values(), *module._buffers.values())
            if tensor is not None
        )
        signature = (images.shape, images.stride(), images.dtype, images.device, places, *key)
        if signature not in self._graphs:
            self._seen[signature] += 1
            if self._seen[signature] <= _EAGER:
                return forward(images)
            self._seen.clear()
            self._graphs.clear()  # one at a time: each holds the memory of a forward
            if not self._record(forward, images, signature):
                return forward(images)
        graph, static, outputs = self._graphs[signature]
        static.copy_(images)
        graph.replay()
        return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, outputs)

    def _record(self, forward: Callable[[Tensor], Any], images: Tensor, signature: Hashable) -> bool:
        static, graph = images.clone(), torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                outputs = forward(static)
        except RuntimeError as error:
            self._works = False
            warnings.warn(
                f"This network can't be recorded as a CUDA graph, so its operations are launched one by one: {error}",
                stacklevel=2,
            )
            return False
        self._graphs[signature] = graph, static, outputs
        return True
