"""Quantisation-clip-floor-shift activation: one kernel forward, one backward and a sum of what its programs found.

The formula of `ftbc_pl.functional.qcfs`, worked out in 32 bits where `x` has 16.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ftbc_pl.functional.kernels.launch import blocks, launch

_BLOCK = 2048


class QCFS(torch.autograd.Function):
    """h(x) = (θ/L)·clip(⌊x·L/θ + ½⌋, 0, L), the floor passed straight through in the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor, levels: int) -> Tensor:
        """Quantise `x` of any shape; `threshold` is a scalar tensor."""
        y = torch.empty_like(x)
        if y.stride() != x.stride():  # not dense
            x = torch.empty_like(x).copy_(x)
        launch(_forward, (blocks(x.numel(), _BLOCK),), x, threshold, y, x.numel(), levels, BLOCK=_BLOCK)
        ctx.save_for_backward(x, threshold)
        ctx.levels = levels
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """Gradient to `x`: 0 at and beyond the bounds. That to `threshold`: the same to the bit each time."""
        (grad,) = grad_outputs
        x, threshold = ctx.saved_tensors
        if grad.stride() != x.stride():
            grad = torch.empty_like(x).copy_(grad)
        grad_x, programs = torch.empty_like(x), blocks(x.numel(), _BLOCK)
        partial = grad.new_empty(programs, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        launch(_backward, (programs,), grad, x, threshold, grad_x, partial, x.numel(), ctx.levels, BLOCK=_BLOCK)
        return grad_x, None if partial is None else partial.sum().to(threshold.dtype), None


def supports(x: Tensor) -> bool:
    """Whether the kernels take the dtype of `x`."""
    return x.dtype in (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def _quantise(x, threshold, levels):
    """Position z = x·L/θ, and the level min(max(⌊z + ½⌋, 0), L)."""
    # A reciprocal, then a product: what torch makes of L/θ.
    z = x.to(tl.float32) * (tl.div_rn(1.0, threshold) * levels)
    return z, tl.minimum(tl.maximum(tl.floor(z + 0.5), 0.0), levels)


@triton.jit(do_not_specialize=["levels"])
def _forward(x, threshold, out, size, levels, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    within = tl.arange(0, BLOCK)
    inside = within < size - start
    theta, L = tl.load(threshold).to(tl.float32), levels.to(tl.float32)
    _, level = _quantise(tl.load(x + start + within, mask=inside, other=0.0), theta, L)
    tl.store(out + start + within, (level * tl.div_rn(theta, L)).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["levels"])
def _backward(grad, x, threshold, grad_x, partial, size, levels, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    within = tl.arange(0, BLOCK)
    inside = within < size - start
    theta, L = tl.load(threshold).to(tl.float32), levels.to(tl.float32)
    z, level = _quantise(tl.load(x + start + within, mask=inside, other=0.0), theta, L)
    passed = tl.load(grad + start + within, mask=inside, other=0.0)
    # Inside the clip the floor counts as the identity.
    identity = (z > -0.5) & (z < L - 0.5)
    tl.store(grad_x + start + within, tl.where(identity, passed, 0.0).to(grad_x.dtype.element_ty), mask=inside)
    if partial is not None:
        # The chain rule to θ gives h/θ − x/θ inside (the shift and the rounding), 1 = h/θ above and 0 below.
        to_threshold = level - tl.where(identity, z, 0.0)
        total = tl.sum(tl.where(inside, passed.to(tl.float32) * to_threshold, 0.0))
        tl.store(partial + tl.program_id(0), tl.div_rn(total, L))
