"""One step of a site under `balanced` in 4 launches: integrate and sum, choose the best candidate, fire."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ftbc_pl.functional.kernels.launch import Merge, alone, blocks, check_layout, launch
from ftbc_pl.functional.kernels.neuron import channels_of, fire_

_BLOCK = 1024
# Candidates for the bias are multiples of the unit (θ, or the largest θ of a layer) over 256, from −1 to 2 units.
_PER_UNIT = tl.constexpr(256)
_CANDIDATES = tl.constexpr(3 * 256 + 1)
_BINS = tl.constexpr(3 * 256 + 2)  # the last one holds the neurons that fire at no candidate
_SHARE = tl.constexpr(1 / 256)
_INTEGER = tl.constexpr(65536.0)  # errors are summed as multiples of the unit over this


@dataclass(frozen=True)
class Scale:
    """How membranes and errors map to whole numbers, the same at every step of a site; (C,) float32 each.

    Attributes:
        unit: What candidates are fractions of, in activation units.
        slope: Candidates for each activation unit of the membrane, negative: larger ones fire earlier.
        start: The first candidate at which a membrane of 0 fires.
        factor: Whole number for each activation unit of the error.
    """

    unit: Tensor
    slope: Tensor
    start: Tensor
    factor: Tensor

    @classmethod
    def of(cls, threshold: Tensor, layer: bool = False) -> "Scale":
        """Scale for thresholds θ (C,), with one unit for all channels if `layer`."""
        unit = (threshold.max().expand_as(threshold) if layer else threshold).contiguous()
        per_unit, whole = _PER_UNIT.value, _INTEGER.value
        return cls(unit, -per_unit / unit, threshold / unit * per_unit + per_unit, whole / unit)


def balanced_step_(
    current: Tensor,
    membrane: Tensor,
    threshold: Tensor,
    error: Tensor,
    activation: Tensor,
    scale: Scale,
    mean_weight: float,
    bias: Tensor,
    out: Tensor,
    channel_dim: int,
    counts: Tensor | None = None,
    add: Merge = alone,
) -> Tensor:
    """Integrate a current, choose the bias as `ftbc_pl.calibration.solvers.balanced_bias` does, to the bit, fire.

    One bias per channel; for one per layer, choose it between `integrate_and_sum_` and the neuron's `fire_`.

    Args:
        current: x[t], (B, C, ...), in activation units.
        membrane: v[t−1], (B, C, ...) float32; becomes v[t].
        threshold: θ, (C,) float32.
        error: What the output lacked up to the last step, (B, C, ...) float32; becomes that up to this one.
        activation: a, (B, C, ...).
        scale: The scale of this site.
        mean_weight: λ ≥ 0.
        bias: (C,) float32, becomes b[t].
        out: (B, C, ...), becomes θ·s[t]; may be `current` itself.
        channel_dim: Dimension of C in `membrane`.
        counts: (1,) int64, to which the number of spikes of this process is added.
        add: Adds float64 tensors of all processes in place; called once.

    Returns:
        `out`.

    Raises:
        ValueError: Another dtype, or memory that is neither contiguous nor channels last, or in two orders.
    """
    sums = add(integrate_and_sum_(current, membrane, error, activation, scale, channel_dim))
    weight = dict(MEAN_WEIGHT=float(mean_weight))
    launch(_choose, (bias.numel(),), sums, scale.unit, bias, bias.numel(), **weight, BLOCK=_BLOCK)
    return fire_(membrane, threshold, bias, out, channel_dim, error=error, counts=counts)


def integrate_and_sum_(
    current: Tensor, membrane: Tensor, error: Tensor, activation: Tensor, scale: Scale, channel_dim: int
) -> Tensor:
    """Add the current to the membrane and the activation to the error; count and sum what each candidate would fire.

    Args:
        current: x, (B, C, ...).
        membrane: v, (B, C, ...) float32; becomes u = v + x.
        error: (B, C, ...) float32; a is added to it.
        activation: a, (B, C, ...).
        scale: The scale of this site.
        channel_dim: Dimension of C in `membrane`.

    Returns:
        (2, C, 770), whole numbers in float64, of this process: the number of neurons that begin to fire at each
        candidate, and the sum of their errors.
    """
    if not membrane.dtype == error.dtype == torch.float32:
        raise ValueError(f"Expected a membrane and an error of float32, got {membrane.dtype} and {error.dtype}.")
    inner, channels = check_layout(channel_dim, membrane, current, error, activation), membrane.shape[channel_dim]
    sums = torch.zeros(2, channels, _BINS.value, dtype=torch.float64, device=membrane.device)
    launch(
        _sum,
        (blocks(membrane.numel(), _BLOCK),),
        membrane,
        current,
        error,
        activation,
        scale.slope,
        scale.start,
        scale.factor,
        sums,
        membrane.numel(),
        channels,
        inner,
        BLOCK=_BLOCK,
    )
    return sums


@triton.jit
def _round(values):
    """Round half to even, as torch does: above 2²³ there are no fractions, and adding 2²³ rounds them away below."""
    size = tl.abs(values)
    whole = tl.where(size < 8388608.0, (size + 8388608.0) - 8388608.0, size)
    return tl.where(values < 0, -whole, whole)


@triton.jit(do_not_specialize=["channels"])
def _sum(membrane, current, error, activation, slope, zero, factor, sums, size, channels, inner, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    within = tl.arange(0, BLOCK)
    inside = within < size - start
    channel = channels_of(start, within, channels, inner)
    at = start + within
    u = tl.load(membrane + at, mask=inside, other=0.0) + tl.load(current + at, mask=inside, other=0.0).to(tl.float32)
    e = tl.load(error + at, mask=inside, other=0.0) + tl.load(activation + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(membrane + at, u, mask=inside)
    tl.store(error + at, e, mask=inside)
    first = tl.ceil(u * tl.load(slope + channel) + tl.load(zero + channel))
    first = tl.minimum(tl.maximum(first, 0.0), _CANDIDATES).to(tl.int32)
    place = sums + channel * _BINS + first
    # Whole numbers in float64: sums below 2⁵³ are exact, in any order.
    tl.atomic_add(place, tl.full([BLOCK], 1.0, tl.float64), mask=inside, sem="relaxed")
    lacking = _round(e * tl.load(factor + channel)).to(tl.float64)
    tl.atomic_add(place + channels * _BINS, lacking, mask=inside, sem="relaxed")


@triton.jit(do_not_specialize=["channels"])
def _choose(sums, unit, bias, channels, MEAN_WEIGHT: tl.constexpr, BLOCK: tl.constexpr):
    channel = tl.program_id(0)
    candidate = tl.arange(0, BLOCK)
    present = candidate < _BINS
    count = tl.load(sums + channel * _BINS + candidate, mask=present, other=0.0)
    lacking = tl.load(sums + (channels + channel) * _BINS + candidate, mask=present, other=0.0) / _INTEGER
    left = tl.sum(lacking, 0) - tl.cumsum(count, 0)
    weight = tl.full([1], MEAN_WEIGHT, tl.float64) / tl.sum(count, 0)
    loss = left * left * weight + tl.cumsum(count - 2 * lacking, 0)
    loss = tl.where(candidate < _CANDIDATES, loss, float("inf"))
    # Of those that are as good, the one closest to 0, the negative one of two.
    distance = 2 * tl.abs(candidate - _PER_UNIT) + (candidate > _PER_UNIT).to(tl.int32)
    nearest = tl.min(tl.where(loss == tl.min(loss, 0), distance, 4 * BLOCK), 0)
    best = tl.where(nearest % 2 == 1, nearest // 2, -(nearest // 2))
    tl.store(bias + channel, best.to(tl.float32) * (tl.load(unit + channel) * _SHARE))
