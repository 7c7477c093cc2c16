"""What happens at the sites of a network while timesteps of a batch run through its forward as rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ftbc_pl.layers import SpikingNeuron, TemporalDifference
from ftbc_pl.tracing.calls import Call


@dataclass(frozen=True)
class StreamFunction:
    """A call as a function of those of its tensors that depend on the input.

    Attributes:
        run: The function.
        in_parts: Whether some of the rows may be handed to it; if not, what else it takes has as many rows. To be
            asked only where it matters: under export a comparison of sizes would fix the size of the batch.
    """

    run: Callable[..., Tensor]
    in_parts: Callable[[], bool]

    def __call__(self, *streams: Tensor) -> Tensor:
        """Call it."""
        return self.run(*streams)


class Visitor(Protocol):
    """What happens at the sites during one forward of the ANN's code."""

    def neuron(self, call: Call, site: SpikingNeuron, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the output of a spiking site for its input `x`; `activation` is what the ANN would do."""

    def rate_exact(
        self, call: Call, site: TemporalDifference, inputs: list[Tensor], function: StreamFunction
    ) -> Tensor:
        """Return the output of a rate-exact site."""


class Simulation:
    """Visitor that runs K timesteps in K·B rows, behind B rows of the ANN's own stream if `ann_rows`."""

    def __init__(self, num_steps: int, ann_rows: bool = False) -> None:
        """Create the visitor for K = `num_steps`."""
        self.num_steps = num_steps
        self.ann_rows = ann_rows

    @property
    def rows(self) -> int:
        """Number of blocks of B rows."""
        return self.num_steps + self.ann_rows

    def unfold(self, x: Tensor, static: bool) -> Tensor:
        """View rows as (blocks, B, ...)."""
        return x.unsqueeze(0).expand(self.rows, *x.shape) if static else x.unflatten(0, (self.rows, -1))

    def output(self, call: Call, x: Tensor) -> Tensor:
        """Memory for the output of a site, (blocks, B, ...): its input's if the ANN overwrites that."""
        if call.inplace and not call.static[0]:
            return x.unflatten(0, (self.rows, -1))
        if call.static[0]:
            return _blocks_like(x, self.rows)
        return torch.empty_like(x).unflatten(0, (self.rows, -1))

    def neuron(self, call: Call, site: SpikingNeuron, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """Simulate the neurons of a site; the ANN's rows get the ANN's activation."""
        blocks, out = self.unfold(x, call.static[0]), self.output(call, x)
        if self.ann_rows:
            out[0].copy_(activation(blocks[0].clone()))
        self.simulate(call, site, blocks[self.ann_rows :], out)
        return out.flatten(0, 1)

    def simulate(self, call: Call, site: SpikingNeuron, current: Tensor, out: Tensor) -> None:
        """Write θ·s behind the ANN's rows of `out` (blocks, B, C, ...)."""
        site(current, out[self.ann_rows :])

    def rate_exact(
        self, call: Call, site: TemporalDifference, inputs: list[Tensor], function: StreamFunction
    ) -> Tensor:
        """Apply the rate-exact replacement; what is the same at every step needs none."""
        if all(call.static):
            return function(*inputs)
        blocks = [self.unfold(x, static) for x, static in zip(inputs, call.static, strict=True)]
        ann: list[Tensor] = []

        def with_ann_rows(*means: Tensor) -> Tensor:
            if ann:  # a later part of the timesteps
                return function(*means)
            # In one call, since what else it takes may have as many rows: zeros like the input, queries for each image.
            rows = [torch.cat([block[0], mean]) for block, mean in zip(blocks, means, strict=True)]
            first, others = function(*rows).unflatten(0, (len(rows[0]) // len(blocks[0][0]), -1)).tensor_split([1])
            ann.append(first)
            return others.flatten(0, 1)

        run = with_ann_rows if self.ann_rows else function
        spikes = site(run, *(block[self.ann_rows :] for block in blocks), in_parts=function.in_parts)
        out = torch.cat([*ann, spikes]).flatten(0, 1)
        return inputs[0].copy_(out) if call.inplace and not call.static[0] else out


def _blocks_like(x: Tensor, blocks: int) -> Tensor:
    """Uninitialised (blocks, *x.shape) in the memory layout of `x` (channels_last, say) with time in front."""
    like = torch.empty_like(x)
    strides = (like.numel(), *like.stride())
    return torch.empty_strided((blocks, *like.shape), strides, dtype=x.dtype, device=x.device)
