"""Quantisation-clip-floor-shift activation (Bu et al., "Optimal ANN-SNN conversion for high-accuracy and
ultra-low-latency spiking neural networks", ICLR 2022, eq. 15).
"""

from typing import Any

import torch
from torch import Tensor

from ftbc_pl.functional import kernels
from ftbc_pl.functional.traceable import traceable


class _QCFS(torch.autograd.Function):
    """h(x) = (θ/L)·clip(⌊x·L/θ + ½⌋, 0, L), the floor passed straight through in the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor, levels: int) -> Tensor:
        z = x * (levels / threshold)
        y = (z + 0.5).floor_().clamp_(0, levels).mul_(threshold / levels)
        ctx.save_for_backward(z, y, threshold)
        ctx.levels = levels
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (grad,) = grad_outputs
        z, y, threshold = ctx.saved_tensors
        # Inside the clip −½ < x·L/θ < L − ½ the floor counts as the identity. One fused kernel: 0 at and beyond bounds.
        grad_x = torch.ops.aten.hardtanh_backward(grad, z, -0.5, ctx.levels - 0.5)
        if not ctx.needs_input_grad[1]:
            return grad_x, None, None
        # The chain rule to θ gives h/θ − x/θ inside (the shift and the rounding), 1 = h/θ above and 0 below.
        grad_threshold = _inner(grad, y) / threshold - _inner(grad_x, z) / ctx.levels
        return grad_x, grad_threshold.to(threshold.dtype), None


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of two tensors (B, ...), added up in at least 32 bits."""
    accumulate = torch.promote_types(a.dtype, torch.float32)
    if a.dtype == accumulate or torch.compiler.is_compiling() or a.ndim < 2 or a.stride() != b.stride():
        return (a * b).sum(dtype=accumulate)
    # In 16 bits the sum would first copy the product to 32 bits. A matrix product adds up in 32 bits as it goes and
    # rounds only the result of each row.
    order = sorted(range(1, a.ndim), key=a.stride, reverse=True)
    rows = a.permute(0, *order).reshape(len(a), 1, -1)  # views, channels last or not
    columns = b.permute(0, *order).reshape(len(b), -1, 1)
    return (rows @ columns).sum(dtype=accumulate)


@traceable
def qcfs(x: Tensor, threshold: Tensor, levels: int) -> Tensor:
    """Quantise activations to `levels` steps below `threshold`: (θ/L)·clip(⌊x·L/θ + ½⌋, 0, L).

    Bu et al. (ICLR 2022), eq. 15 with the shift ½. The gradient to `x` is 1 where 0 < x·L/θ + ½ < L (bounds
    excluded) and 0 elsewhere; the gradient to `threshold` follows from the chain rule with the floor as identity.

    Args:
        x: Pre-activations of any shape, in activation units.
        threshold: Scalar tensor θ > 0, in activation units.
        levels: Number of quantisation levels L ≥ 1.

    Returns:
        Activations of the shape and dtype of `x`, in [0, θ].
    """
    # Compiled code becomes few kernels by itself.
    if not torch.compiler.is_compiling() and kernels.available(x.device):
        from ftbc_pl.functional.kernels.qcfs import QCFS, supports  # imports Triton

        if supports(x):
            return QCFS.apply(x, threshold.to(x.device), levels)  # type: ignore[no-untyped-call,no-any-return]
    return _QCFS.apply(x, threshold.to(x.dtype), levels)  # type: ignore[no-untyped-call,no-any-return]
