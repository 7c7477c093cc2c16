"""Sums from which weights are fitted: Gram matrices of the inputs of a site and products with what it lacks.

Sums of parts (batches, chunks, processes) add up to those of the whole. Every fifth image is held out, in sums of its
own, by which the penalty is chosen.

Memory, in numbers of float64: G·n² for a Gram matrix, where n is the number of unknowns of an output channel and G that
of groups, and n·C for the products of each output channel. Two such sets are held; a fit takes about seven more. G·n²
is at most `LARGEST`² (0.2 GB): beyond, unknowns are fitted in parts. Patches are built a slice of images at a time.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ftbc_pl.functional.patches import Term, at_positions, sampled_positions, sampled_rows

LARGEST = 5120  # unknowns of one fit; a 3×3 convolution of 512 channels with a projection of 256 beside it has 4864
ROWS = 30_000
HELD_OUT = 5  # every fifth image
_SLICE = 2**23  # patches at once, in numbers: 64 MB


@dataclass(frozen=True)
class Design:
    """The streams that add up to the input of a site.

    Terms with the fewest groups are fitted by one matrix a group, shared by the channels of the group. All others
    (identity shortcuts, depthwise layers beside dense ones) are columns of a channel's own, fitted jointly with those.

    Attributes:
        terms: Layers and identities whose outputs are added; all have the same number of output channels.
        channel_dim: Dimension of the channels in the sum, and in the identities.
        largest: Unknowns of one fit. Beyond, they are fitted in parts, which average.
    """

    terms: tuple[Term, ...]
    channel_dim: int = 1
    largest: int = LARGEST

    def __post_init__(self) -> None:
        """Check the terms.

        Raises:
            ValueError: There are none, or they differ in their number of channels.
        """
        found = {term.out_channels for term in self.terms}
        if len(found) != 1:
            raise ValueError(f"expected terms with one number of output channels, got {sorted(found)}; check the site.")

    @property
    def channels(self) -> int:
        """Number of output channels C."""
        return self.terms[0].out_channels

    @property
    def groups(self) -> int:
        """Number of groups G."""
        return min(term.groups for term in self.terms)

    def is_shared(self, term: Term) -> bool:
        """Whether the channels of a group share the matrix of a term."""
        return term.groups == self.groups

    @property
    def unknowns(self) -> int:
        """Shared columns of a group."""
        return sum(term.columns for term in self.terms if self.is_shared(term))

    @property
    def own_columns(self) -> tuple[int, ...]:
        """Columns of a channel's own, of each term that has such."""
        return tuple(term.columns for term in self.terms if not self.is_shared(term))

    @cached_property
    def parts(self) -> tuple[int, int]:
        """Number J and size m of the parts in which shared columns are fitted: G·J·m² is at most `largest`²."""
        if self.groups * self.unknowns**2 <= self.largest**2:
            return 1, self.unknowns
        size = max(1, self.largest**2 // (self.groups * self.unknowns))
        count = -(-self.unknowns // size)
        return count, -(-self.unknowns // count)


@dataclass(frozen=True)
class RidgeSums:
    """Sums over rows, that is over positions of images; float64.

    Axes: τ, timesteps whose running means are fitted jointly, each with a constant of its own; G groups; J parts of m
    shared columns; C channels, c of a group; q columns of a channel's own.

    Attributes:
        rows: Weight of all rows, (τ,).
        shared: Shared columns, (τ, G, J, m).
        own: Own columns, (τ, G, c, q).
        error: What the site's input lacks, (τ, G, c).
        shared_shared: Products, (G, J, m, m).
        shared_own: Products, (G, J, m, c, q).
        shared_error: Products, (G, J, m, c).
        own_own: Products, (G, c, q, q).
        own_error: Products, (G, c, q).
        error_error: Squares, (G, c).
    """

    rows: Tensor
    shared: Tensor
    own: Tensor
    error: Tensor
    shared_shared: Tensor
    shared_own: Tensor
    shared_error: Tensor
    own_own: Tensor
    own_error: Tensor
    error_error: Tensor

    def tensors(self) -> Iterator[Tensor]:
        """All sums."""
        return (getattr(self, one.name) for one in fields(self))

    def __add__(self, other: "RidgeSums") -> "RidgeSums":
        return RidgeSums(*(one + two for one, two in zip(self.tensors(), other.tensors(), strict=True)))

    @classmethod
    def zeros(cls, design: Design, device: torch.device) -> "RidgeSums":
        """Sums of no rows, for one τ."""
        (parts, size), groups = design.parts, design.groups
        channels, own = design.channels // groups, sum(design.own_columns)
        shapes: list[tuple[int, ...]] = [
            (1,),
            (1, groups, parts, size),
            (1, groups, channels, own),
            (1, groups, channels),
            (groups, parts, size, size),
            (groups, parts, size, channels, own),
            (groups, parts, size, channels),
            (groups, channels, own, own),
            (groups, channels, own),
            (groups, channels),
        ]
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def add_(self, shared: Tensor, own: Tensor, error: Tensor) -> None:
        """Add rows: shared columns (G, J, rows, m), own ones (G, c, rows, q), error (G, c, rows)."""
        self.rows.add_(error.shape[-1])
        self.shared.add_(shared.sum(-2))
        self.own.add_(own.sum(-2))
        self.error.add_(error.sum(-1))
        transposed, flat = shared.transpose(-1, -2), own.permute(0, 2, 1, 3).flatten(2).unsqueeze(1)
        self.shared_shared.add_(transposed @ shared)
        self.shared_own.add_((transposed @ flat).view_as(self.shared_own))
        self.shared_error.add_(transposed @ error.transpose(1, 2).unsqueeze(1))
        self.own_own.add_(own.transpose(-1, -2) @ own)
        self.own_error.add_((own.transpose(-1, -2) @ error.unsqueeze(-1)).squeeze(-1))
        self.error_error.add_(error.square().sum(-1))


@dataclass(frozen=True)
class SplitSums:
    """Sums of the images that are fitted, and of those that choose the penalty."""

    training: RidgeSums
    held_out: RidgeSums

    def __add__(self, other: "SplitSums") -> "SplitSums":
        return SplitSums(self.training + other.training, self.held_out + other.held_out)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "SplitSums":
        """Apply `function`, such as a sum over processes, to each sum."""
        # Processes add up memory, whose order may follow the number of images: so contiguous.
        both = (map(Tensor.contiguous, one.tensors()) for one in (self.training, self.held_out))
        return SplitSums(*(RidgeSums(*map(function, sums)) for sums in both))


def ridge_sums(
    design: Design,
    inputs: Sequence[Tensor],
    error: Tensor,
    *,
    first: int = 0,
    images: int | None = None,
    rows: int = ROWS,
    each: int = 1,
) -> SplitSums:
    """Sum up what a fit needs.

    Args:
        design: The terms of the site.
        inputs: Input of each term, its mean over time: (B, C_in, ...), of linear layers (B, ..., C_in), of identities
            as `error`.
        error: R = z − x̄, what the mean current lacks of the ANN's input of the site, (B, C, ...).
        first: Index of the first of these images among all images.
        images: How many images there are in all (over batches and processes). Default: B.
        rows: Most positions that are looked at, of all images together.
        each: Rows of the batch that belong to one image, one after the other: 1, or its number of tokens.

    Returns:
        Sums for one τ.
    """
    batch, dim = len(error), design.channel_dim
    count = math.prod(error.shape[1:]) // error.shape[dim]
    numbers = torch.arange(first * each, first * each + batch, device=error.device)
    images = images or batch // each
    positions = sampled_positions(count, numbers, each * images, rows)
    width = max(1, design.groups * design.unknowns + design.channels * sum(design.own_columns))
    step = max(1, _SLICE // (width * positions.shape[1]))
    held_out, taken = numbers // each % HELD_OUT == HELD_OUT - 1, sampled_rows(numbers, each, images, rows)
    found = []
    for mask in (taken & ~held_out, taken & held_out):
        sums = RidgeSums.zeros(design, error.device)
        images_of_set = mask.nonzero().flatten()
        # Splitting nothing would give a slice without images.
        for chosen in images_of_set.split(step) if len(images_of_set) else ():
            places = positions[chosen]
            shared, own = _columns(design, [x[chosen] for x in inputs], places)
            lacking = at_positions(error[chosen], places, dim).flatten(0, 1).T.double()
            sums.add_(shared, own, lacking.unflatten(0, (design.groups, -1)))
        found.append(sums)
    return SplitSums(*found)


def joint_sums(
    design: Design,
    streams: Sequence[Tensor],
    currents: Tensor,
    target: Tensor,
    steps: Sequence[int],
    weights: Sequence[float] | None = None,
    *,
    rows: int = ROWS,
    **sampling: Any,
) -> SplitSums:
    """Sum up what one fit needs that serves the running means up to several timesteps.

    The rows are divided among these, so it costs as much as one of them; beside the arguments, it holds one running
    sum of each stream and of the currents.

    Args:
        design: The terms of the site.
        streams: Input of each term at each step, (T, B, ...).
        currents: x, (T, B, C, ...).
        target: z, the ANN's input of the site, (B, C, ...).
        steps: The t whose running means are fitted, in 1 … T, ascending; 1, 2, 4 … T are enough to serve all.
        weights: How much an error at each of them counts. Default: t², as what a mean over t steps lacks falls
            with 1/t; with equal weights the first steps, which lack most, would decide alone.
        rows: Most positions that are looked at, of all images and timesteps together.
        **sampling: `first`, `images` and `each` of `ridge_sums`.

    Returns:
        Sums for all τ in `steps`.

    Raises:
        ValueError: The steps are not as they should be.
    """
    if not steps or list(steps) != sorted(set(steps)) or steps[0] < 1 or steps[-1] > len(currents):
        raise ValueError(f"expected ascending steps in 1 … {len(currents)}, got {list(steps)}; name each t once.")
    sums, running = [torch.zeros_like(stream[0]) for stream in streams], torch.zeros_like(currents[0])
    found, begin = [], 0
    for t in steps:
        for total, stream in zip(sums, streams, strict=True):
            total += stream[begin:t].sum(0)
        running += currents[begin:t].sum(0)
        begin = t
        means, error = [total / t for total in sums], target - running / t
        found.append(ridge_sums(design, means, error, rows=max(1, rows // len(steps)), **sampling))
    factors = list(weights or [float(t * t) for t in steps])
    return SplitSums(_joined([s.training for s in found], factors), _joined([s.held_out for s in found], factors))


def _columns(design: Design, inputs: Sequence[Tensor], positions: Tensor) -> tuple[Tensor, Tensor]:
    """Shared (G, J, rows, m) and own columns (G, c, rows, q) at `positions` (B, P) of the images."""
    shared, own = [], []
    for term, x in zip(design.terms, inputs, strict=True):
        patches = term.patches(x, positions, design.channel_dim).double()
        if design.is_shared(term):
            shared.append(patches)
        else:
            own.append(patches.repeat_interleave(design.channels // term.groups, 1))
    parts, size = design.parts
    columns = torch.cat(shared, 2)
    # Columns of zeros make the parts equally large; nothing is fitted to them.
    columns = torch.nn.functional.pad(columns, (0, parts * size - columns.shape[2]))
    together = torch.cat(own, 2) if own else columns.new_zeros(len(columns), design.channels, 0)
    return (
        columns.unflatten(2, (parts, size)).permute(1, 2, 0, 3).contiguous(),
        together.transpose(0, 1).contiguous().unflatten(0, (design.groups, -1)),
    )


def _joined(found: Sequence[RidgeSums], weights: Sequence[float]) -> RidgeSums:
    """Weighted sums of several timesteps as one: first moments side by side, products added."""
    joined = []
    for number, several in enumerate(zip(*(sums.tensors() for sums in found), strict=True)):
        scaled = [weight * one for weight, one in zip(weights, several, strict=True)]
        # The first four fields have the axis τ.
        joined.append(torch.cat(scaled) if number < 4 else torch.stack(scaled).sum(0))
    return RidgeSums(*joined)
