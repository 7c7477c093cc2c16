"""Quantisation-clip-floor-shift activation (Bu et al., "Optimal ANN-SNN conversion for high-accuracy and
ultra-low-latency spiking neural networks", ICLR 2022, eq. 15)."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function


class _QCFS(torch.autograd.Function):
    """h(x) = (θ/L)·clip(⌊x·L/θ + ½⌋, 0, L), the floor passed straight through in the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward(x, threshold)
        ctx.levels = levels
        y = x * (levels / threshold)
        y = y.add_(0.5).floor_().clamp_(0, levels)
        return y.mul_(threshold / levels)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grad_outputs
        x, threshold = ctx.saved_tensors
        levels = ctx.levels
        # u = x·L/θ + ½ before the floor. With the floor replaced by the identity, the derivative to x is 1 for
        # 0 ≤ u ≤ L and 0 outside. The chain rule to θ gives h/θ − x/θ inside (h and x differ only by the shift and
        # the rounding), 1 above the clip and 0 below it.
        scaled = x * (levels / threshold)
        shifted = scaled + 0.5
        inside = (shifted >= 0) & (shifted <= levels)
        grad_x = grad * inside if ctx.needs_input_grad[0] else None
        grad_threshold = None
        if ctx.needs_input_grad[1]:
            quantised = shifted.floor().clamp_(0, levels)
            per_element = quantised.sub_(scaled.mul_(inside)).mul_(grad)
            grad_threshold = (per_element.sum(dtype=torch.float32) / levels).to(threshold.dtype)
        return grad_x, grad_threshold, None


def qcfs(x: Tensor, threshold: Tensor, levels: int) -> Tensor:
    """Quantise activations to ``levels`` steps below ``threshold``: (θ/L)·clip(⌊x·L/θ + ½⌋, 0, L).

    Bu et al. (ICLR 2022), eq. 15 with the shift ½. The gradient to ``x`` is 1 where 0 ≤ x·L/θ + ½ ≤ L (bounds
    included) and 0 elsewhere; the gradient to ``threshold`` follows from the chain rule with the floor as identity.

    Args:
        x: Pre-activations of any shape, in activation units.
        threshold: Scalar tensor θ > 0, in activation units.
        levels: Number of quantisation levels L ≥ 1.

    Returns:
        Activations of the shape and dtype of ``x``, in [0, θ].
    """
    if has_torch_function((x, threshold)):
        return handle_torch_function(qcfs, (x, threshold), x, threshold, levels)
    return _QCFS.apply(x, threshold.to(x.dtype), levels)  # type: ignore[no-untyped-call,no-any-return]
