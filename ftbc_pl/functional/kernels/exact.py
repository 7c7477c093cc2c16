"""One step of a site under `exact` in 8 launches: integrate, choose the bias from an order statistic, fire."""

from typing import Protocol

import triton
import triton.language as tl
from torch import Tensor

from ftbc_pl.functional.kernels.launch import Merge, alone, blocks, launch
from ftbc_pl.functional.kernels.neuron import fire_
from ftbc_pl.functional.kernels.selection import Ranked, rank, value_and_larger

_BLOCK = 1024


class Cut(Protocol):
    """Where to cut the membranes of a site; (C,) each, or (1,) for one cut over the whole layer."""

    @property
    def rank(self) -> Tensor:
        """Rank of the largest membrane that should not fire, int64; of the smallest one where all should."""

    @property
    def edge(self) -> Tensor:
        """Whether no neuron should fire, or all; bool."""

    @property
    def margin(self) -> Tensor:
        """Distance to keep there, for a membrane of size 1."""

    @property
    def lowest(self) -> Tensor:
        """Least bias."""

    @property
    def highest(self) -> Tensor:
        """Largest bias."""


def exact_step_(
    current: Tensor,
    membrane: Tensor,
    threshold: Tensor,
    cut: Cut,
    bias: Tensor,
    out: Tensor,
    channel_dim: int,
    counts: Tensor | None = None,
    add: Merge = alone,
    maximum: Merge = alone,
) -> Tensor:
    """Integrate a current, choose the bias as `ftbc_pl.calibration.solvers.exact_bias` does, to the bit; fire.

    Args:
        current: x[t], (B, C, ...), in activation units.
        membrane: v[t−1], (B, C, ...) float32; becomes v[t]. Fewer than 2³⁰ elements.
        threshold: θ, (C,) float32.
        cut: Where to cut.
        bias: (C,) float32, becomes b[t].
        out: (B, C, ...), becomes θ·s[t]; may be `current` itself.
        channel_dim: Dimension of C in `membrane`.
        counts: (1,) int64, to which the number of spikes of this process is added.
        add: Adds int32 tensors of all processes in place; called three times.
        maximum: Takes the element-wise maximum of int32 tensors of all processes in place; called once.

    Returns:
        `out`.

    Raises:
        ValueError: Another dtype, more elements, or memory that is neither contiguous nor channels last.
    """
    ranked = rank(membrane, current, threshold, cut.rank, channel_dim, add=add, maximum=maximum)
    choose_exact_(ranked, cut, bias)
    return fire_(membrane, threshold, bias, out, channel_dim, counts=counts)


def choose_exact_(ranked: Ranked, cut: Cut, bias: Tensor) -> Tensor:
    """Write the bias half-way between two neighbours in rank to `bias` (C,); see `exact_step_`."""
    args = (ranked.last_counts, ranked.state, ranked.ranks, cut.edge, cut.margin, cut.lowest, cut.highest, bias)
    launch(_choose, (ranked.groups,), *args, ranked.groups, blocks(bias.numel(), ranked.groups), BLOCK=_BLOCK)
    return bias


@triton.jit
def bias_of(below, above, group, edge, margin, lowest, highest):
    """The bias half-way between two neighbours in rank, or at the edge; the others are of a `Cut`."""
    middle = -(below + (above - below) * 0.5)
    at_edge = (tl.abs(below) + 1.0) * tl.load(margin + group) - below
    at_edge = tl.minimum(tl.maximum(at_edge, tl.load(lowest + group)), tl.load(highest + group))
    return tl.where(tl.load(edge + group), at_edge, middle)


@triton.jit(do_not_specialize=["groups", "width"])
def _choose(counts, state, ranks, edge, margin, lowest, highest, bias, groups, width, BLOCK: tl.constexpr):
    group = tl.program_id(0)
    below, above = value_and_larger(counts, state, ranks, group, groups)
    chosen = bias_of(below, above, group, edge, margin, lowest, highest)
    for start in range(0, width, BLOCK):
        channel = start + tl.arange(0, BLOCK)
        tl.store(bias + group * width + channel, tl.zeros([BLOCK], tl.float32) + chosen, mask=channel < width)
