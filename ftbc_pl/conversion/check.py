"""A check of a conversion that does not know how the conversion was made.

Every neuron is replaced by one that takes the mean of its inputs over time, applies the ANN's activation and hands it
on spread unevenly over time, with random weights for every element and step of mean 1. If everything between the sites
is affine or rate-exact, each site sees the ANN's values in the mean, to rounding. Whatever was missed breaks that.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ftbc_pl.conversion.errors import ConversionError
from ftbc_pl.conversion.network import Simulation, SpikingNetwork
from ftbc_pl.conversion.trace import Call
from ftbc_pl.layers import SpikingNeuron

_STEPS = 3
_TOLERANCE = 1e-8


class _UnevenSpread(Simulation):
    """Visitor of B rows of the ANN and K·B rows whose mean over time should equal them."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__(_STEPS, ann_rows=True)
        self.generator = generator
        self.diverging: str | None = None

    def neuron(self, call: Call, site: SpikingNeuron, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        blocks = self.unfold(x, call.static[0])
        if self.diverging is None and _differ(blocks):
            self.diverging = f"{call.name} ({call.source})"
        out = self.output(call, x)
        out[0].copy_(activation(blocks[0].clone()))
        weights = torch.rand(self.num_steps, *out.shape[1:], generator=self.generator, dtype=torch.float64)
        weights = weights.div_(weights.mean(0)).to(out)
        torch.mul(out[0], weights, out=out[1:])
        return out.flatten(0, 1)


@torch.no_grad()
def check_conversion(snn: SpikingNetwork, images: Tensor) -> None:
    """Check that a spiking network computes the ANN in the mean over time.

    Args:
        snn: The spiking network; turned to float64 for the check and back.
        images: A small batch (B, ...).

    Raises:
        ConversionError: Something between the sites is neither affine nor rate-exact; names the first diverging site.
    """
    visitor = _UnevenSpread(torch.Generator().manual_seed(0))
    dtypes = {name: value.dtype for name, value in snn.state_dict(keep_vars=True).items()}
    originals = {name: value.data for name, value in snn.state_dict(keep_vars=True).items()}
    try:
        snn.double()
        snn.reset()
        outputs = snn.visit(images.double(), visitor)
    finally:
        for name, value in snn.state_dict(keep_vars=True).items():
            value.data = originals[name].to(dtypes[name])
        snn.reset()
    diverging = visitor.diverging
    if diverging is None and any(_differ(out) for out in tree_leaves(outputs)):
        diverging = "the output, after the last site"
    if diverging is not None:
        raise ConversionError(
            [
                f"{diverging}: the mean over time differs from the ANN's value, so an operation before it is neither "
                "linear nor converted; write it with torch functions that appear in the conversion report"
            ]
        )


def _differ(blocks: Tensor) -> bool:
    """Whether the mean of the blocks behind the first one differs from the first one by more than rounding."""
    ann, mean = blocks[0], blocks[1:].mean(0)
    scale = ann.abs().max().clamp(min=1e-30)
    return not bool(((mean - ann).abs().max() / scale) < _TOLERANCE)
