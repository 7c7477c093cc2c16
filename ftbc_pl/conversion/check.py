"""A check of a conversion that does not know how the conversion was made.

Every neuron is replaced by one that takes the mean of its inputs over time, applies the ANN's activation and hands it
on spread unevenly over time, with random weights for every element and step of mean 1. If everything between the sites
is affine or rate-exact, each site sees the ANN's values in the mean, to rounding. Whatever was missed breaks that.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from ftbc_pl.conversion.errors import ConversionError
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


class _Double(TorchFunctionMode):
    """While active, casts to another floating-point type lead to float64, so that they round nothing."""

    _CASTS = {Tensor.float, Tensor.half, Tensor.bfloat16}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map(_to_double, (args, kwargs or {}))
        return (Tensor.double if func in self._CASTS else func)(*args, **kwargs)

    def __enter__(self) -> "_Double":
        self._before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        torch.set_default_dtype(self._before)


def _to_double(leaf: Any) -> Any:
    return torch.float64 if isinstance(leaf, torch.dtype) and leaf.is_floating_point else leaf


@torch.no_grad()
def check_conversion(snn: SpikingNetwork, images: Tensor) -> None:
    """Check that a spiking network computes the ANN in the mean over time.

    Args:
        snn: The spiking network; a copy in float64 is checked.
        images: A small batch (B, ...).

    Raises:
        ConversionError: Something between the sites is neither affine nor rate-exact; names the first diverging site.
    """
    visitor = _UnevenSpread(torch.Generator().manual_seed(0))
    double = copy.deepcopy(snn).double()
    double.reset()
    with _Double():
        outputs = double.visit(images.double(), visitor)
        reference = double.network(images.double())
    diverging = visitor.diverging
    pairs = zip(tree_leaves(outputs), tree_leaves(reference), strict=True)
    if diverging is None and any(_differ(out, exact) for out, exact in pairs if isinstance(out, Tensor)):
        diverging = "the output, after the last site"
    if diverging is not None:
        raise ConversionError(
            [
                f"{diverging}: the mean over time differs from the ANN's value: an operation between it and the site "
                "before is neither linear nor a site of its own, or it mixes the images of a batch"
            ]
        )


def _differ(blocks: Tensor, reference: Tensor | None = None) -> bool:
    """Whether the first block, the mean of the others and the ANN run by itself differ by more than rounding."""
    ann, mean = blocks[0], blocks[1:].mean(0)
    scale = ann.abs().max().clamp(min=1e-30)
    errors = [mean - ann] if reference is None else [mean - ann, reference - ann]
    return not all(bool((error.abs().max() / scale) < _TOLERANCE) for error in errors)
