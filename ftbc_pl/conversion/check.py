"""A check of a conversion that does not know how the conversion was made.

Every neuron is replaced by one that takes the mean of its inputs over time, applies the ANN's activation and hands it
on spread unevenly over time, with random weights for every element and step of mean 1. If everything between the sites
is affine or rate-exact, each site sees the ANN's values in the mean, to rounding. Whatever was missed breaks that.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ftbc_pl.conversion.copies import first_line
from ftbc_pl.conversion.diagnosis import fixed_size
from ftbc_pl.conversion.errors import ConversionError
from ftbc_pl.conversion.precision import Double
from ftbc_pl.layers import SpikingNeuron
from ftbc_pl.simulation.network import SpikingNetwork
from ftbc_pl.simulation.visitors import Simulation
from ftbc_pl.tracing.calls import Call

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
            self.diverging = call.place
        out = self.output(call, x)
        out[0].copy_(activation(blocks[0].clone()))
        weights = torch.rand(
            self.num_steps, *out.shape[1:], generator=self.generator, dtype=torch.float64, device=self.generator.device
        )
        weights = weights.div_(weights.mean(0)).to(out)
        torch.mul(out[0], weights, out=out[1:])
        return out.flatten(0, 1)


@torch.no_grad()
def check_conversion(snn: SpikingNetwork, images: Tensor) -> None:
    """Check that a spiking network computes the ANN in the mean over time.

    Args:
        snn: The spiking network; a copy in float64 is checked.
        images: A small batch (B, ...).

    Raises:
        ConversionError: Something between the sites is neither affine nor rate-exact; names the first diverging site.
            Or the forward does not run on the rows of several timesteps.
    """
    visitor = _UnevenSpread(torch.Generator().manual_seed(0))
    double = copy.deepcopy(snn).double()
    double.reset()
    with Double():
        reference = double.network(images.double())
        try:
            outputs = double.visit(images.double(), visitor)
        except Exception as error:
            raise ConversionError.of_network(_failure(double.network, images.double(), error)) from error
    diverging = visitor.diverging
    pairs = zip(tree_leaves(outputs), tree_leaves(reference), strict=True)
    if diverging is None and any(_differs(out, exact) for out, exact in pairs if isinstance(out, Tensor)):
        diverging = "the output, after the last site"
    if diverging is not None:
        raise ConversionError(
            [
                f"{diverging}: the mean over time differs from the ANN's value: an operation between it and the site "
                "before is neither linear nor a site of its own, or it mixes the images of a batch"
            ]
        )


def _differs(blocks: Tensor, reference: Tensor) -> bool:
    """Whether outputs differ from the ANN's by more than rounding, or in shape."""
    return blocks.shape[1:] != reference.shape or _differ(blocks, reference)


def _differ(blocks: Tensor, reference: Tensor | None = None) -> bool:
    """Whether the first block, the mean of the others and the ANN run by itself differ by more than rounding."""
    ann, mean = blocks[0], blocks[1:].mean(0)
    scale = ann.abs().max().clamp(min=1e-30)
    errors = [mean - ann] if reference is None else [mean - ann, reference - ann]
    return not all(bool((error.abs().max() / scale) < _TOLERANCE) for error in errors)


def _failure(network: nn.Module, images: Tensor, error: Exception) -> str:
    """Why the forward of a network does not run on more rows than images."""
    count = len(images)
    try:
        network(torch.cat([images, images]))
    except Exception as other:
        return fixed_size(count, 2 * count, other)
    return f"its forward does not run with timesteps as rows of the batch: {first_line(error)}"
