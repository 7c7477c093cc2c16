"""Weights in closed form: by ridge regression, the input of a site is brought closest to the ANN's.

    D, d, k = argmin Σ ‖R − D·P − d ⊙ S − k‖² + λ·m·‖D‖² + λ·Σ_c S_c·d_c²

R = z − x̄ is what the mean current of the site lacks, P the patches of the mean inputs of its layers, side by side, S
its identity shortcut; m the mean of the diagonal of the centred Gram matrix and S_c the centred squares of channel c.
D by Cholesky, d by the Schur complement, k from the means. λ is chosen by the images that are held out. The normal
equations of ridge regression (Hoerl and Kennard, 1970) need nothing but sums, see `ftbc_pl.functional.ridge_sums`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ftbc_pl.functional.ridge_sums import Design, RidgeSums, SplitSums

PENALTIES = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 10.0)
_CONSTANT = 1e-10  # a column with less variance than that part of its squares is constant, but for rounding
_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class RidgeFit:
    """What is added to the weights of the terms of a site.

    Attributes:
        changes: Of each term: D in the shape of its weights, or d (C,) of an identity; float64.
        constant: k, (τ, C) float64: what is added to the running mean up to each fitted timestep.
        penalty: λ; infinite where nothing is changed.
        before: Squared error (centred) of each channel on all images, (C,).
        after: The same with the changes; if the columns were fitted in parts, no more than that.
        held_out: Part of the squared error of the held-out images that the fit to the others leaves; 1: no gain.
    """

    changes: tuple[Tensor, ...]
    constant: Tensor
    penalty: float
    before: Tensor
    after: Tensor
    held_out: float


class _Solution(NamedTuple):
    """D (G, J, m, c) and d (G, J, c, q)."""

    shared: Tensor
    own: Tensor


class _Products(NamedTuple):
    """Centred products, with the axes of `RidgeSums`."""

    shared_shared: Tensor
    shared_own: Tensor
    shared_error: Tensor
    own_own: Tensor
    own_error: Tensor
    error_error: Tensor

    @classmethod
    def of(cls, sums: RidgeSums, about: RidgeSums) -> "_Products":
        """Centre `sums` about the means of `about`."""
        totals, means, rest = (sums.shared, sums.own, sums.error), [], []
        for one, other in zip(totals, (about.shared, about.own, about.error), strict=True):
            means.append(other / _spread(about.rows.clamp(min=_TINY), one.ndim))
            rest.append(one - _spread(sums.rows, one.ndim) * means[-1])

        def centred(products: Tensor, axes: str, one: int, two: int) -> Tensor:
            # Σ(a − α)(b − β) = Σab − Σa·β − α·(Σb − Nβ)
            left = products - torch.einsum(axes, totals[one], means[two])
            return left.sub_(torch.einsum(axes, means[one], rest[two]))

        return cls(
            centred(sums.shared_shared, "tgjm,tgjn->gjmn", 0, 0),
            centred(sums.shared_own, "tgjm,tgcq->gjmcq", 0, 1),
            centred(sums.shared_error, "tgjm,tgc->gjmc", 0, 2),
            centred(sums.own_own, "tgcp,tgcq->gcpq", 1, 1),
            centred(sums.own_error, "tgcq,tgc->gcq", 1, 2),
            centred(sums.error_error, "tgc,tgc->gc", 2, 2),
        )

    def without_constants(self, sums: RidgeSums) -> "_Products":
        """Take out, in place, columns that are constant (but for rounding), of which nothing can be learned."""
        for products, raw, others in (
            (self.shared_shared, sums.shared_shared, (self.shared_own, self.shared_error)),
            (self.own_own, sums.own_own, (self.own_error,)),
        ):
            spread, squares = (values.diagonal(dim1=-2, dim2=-1) for values in (products, raw))
            constant = spread <= _CONSTANT * squares
            products.masked_fill_(constant.unsqueeze(-1) | constant.unsqueeze(-2), 0)
            for other in others:
                other.masked_fill_(constant.view(*constant.shape, *[1] * (other.ndim - constant.ndim)), 0)
            if products is self.own_own:
                self.shared_own.masked_fill_(constant.unsqueeze(1).unsqueeze(1), 0)
        return self

    def errors(self, solution: _Solution) -> Tensor:
        """Squared error of each channel, (G, c); of parts, their mean, which that of the averaged solution is below."""
        shared, own = solution
        seen = torch.einsum("gjmcq,gjmc->gjcq", self.shared_own, shared)
        linear = (shared * self.shared_error.sub(self.shared_shared @ shared, alpha=0.5)).sum(-2)
        alone = torch.einsum("gcpq,gjcq->gjcp", self.own_own, own)
        linear += (own * (self.own_error.unsqueeze(1) - seen - alone / 2)).sum(-1)
        return (self.error_error.unsqueeze(1) - 2 * linear).mean(1)


def solve_ridge(design: Design, sums: SplitSums, penalties: Sequence[float] = PENALTIES) -> RidgeFit:
    """Fit the changes of the weights.

    The penalty is the one with which a fit to the training sums has the least error on the held-out ones; weights stay
    as they are unless that is less than without a change, so also where there are too few images to tell. The changes
    are then fitted to all sums. A channel whose error would grow stays as it is.

    Args:
        design: The terms of the site.
        sums: The sums of all images, added over batches and processes.
        penalties: The λ to choose from.

    Raises:
        ValueError: A sum is NaN or infinite.
    """
    if not all(bool(one.isfinite().all()) for split in (sums.training, sums.held_out) for one in split.tensors()):
        raise ValueError(
            "expected finite inputs and currents to fit weights to, got NaN or infinite ones; check the weights and "
            "the images."
        )
    penalty, left = _chosen_penalty(design, sums, penalties)
    total = sums.training + sums.held_out
    products = _Products.of(total, total)
    if penalty < torch.inf:
        solution = _solve(products.without_constants(total), design, penalty)
    else:
        solution = _no_change(design, total)
    before, after = products.error_error, products.errors(solution)
    worse = ~(after <= before)
    solution = _Solution(
        solution.shared.masked_fill(worse[:, None, None, :], 0), solution.own.masked_fill(worse[:, None, :, None], 0)
    )
    changes, constant = _as_changes(design, total, solution)
    after = torch.where(worse, before, after)
    return RidgeFit(changes, constant, penalty, before.flatten(), after.flatten(), left)


def correction(design: Design, fit: RidgeFit, inputs: Sequence[Tensor]) -> Tensor:
    """What the changes add to the currents of a site, without the constant.

    Args:
        design: The terms of the site.
        fit: The changes.
        inputs: Input of each term, of any number of rows: (rows, C_in, ...).

    Returns:
        (rows, C, ...).
    """
    parts = [
        term.apply(x, change, design.channel_dim)
        for term, x, change in zip(design.terms, inputs, fit.changes, strict=True)
    ]
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


def constant_per_step(fit: RidgeFit, steps: Sequence[int], num_steps: int) -> Tensor:
    """What to add at each step so that the running means up to `steps`, those of the fit, get their constants.

    Returns:
        (T, C) float64, added to the current (or to the temporal bias). The same from one fitted timestep to the next,
        and as before the last one after it.
    """
    times = fit.constant.new_tensor([0, *steps])
    totals = torch.cat([fit.constant.new_zeros(1, fit.constant.shape[1]), times[1:, None] * fit.constant])
    slopes = totals.diff(dim=0) / times.diff()[:, None]
    return torch.stack([slopes[min(sum(t > step for step in steps), len(steps) - 1)] for t in range(1, num_steps + 1)])


def _chosen_penalty(design: Design, sums: SplitSums, penalties: Sequence[float]) -> tuple[float, float]:
    """λ with the least error on the held-out images, and the part of it that is left; infinite if none helps."""
    products = _Products.of(sums.training, sums.training).without_constants(sums.training)
    unseen = _Products.of(sums.held_out, sums.training)
    unchanged = float(unseen.error_error.sum())
    best, least = torch.inf, unchanged
    # From the largest: of equal ones, the safest.
    for penalty in sorted(penalties, reverse=True):
        found = float(unseen.errors(_solve(products, design, penalty)).sum())
        if found < least:
            best, least = penalty, found
    return best, max(0.0, least / unchanged) if unchanged > 0 else 1.0


def _solve(products: _Products, design: Design, penalty: float) -> _Solution:
    """Minimise the squared error with a penalty."""
    gram = products.shared_shared.clone()
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal += _scale(diagonal, penalty)
    both = torch.cat([products.shared_error, products.shared_own.flatten(-2)], -1)
    solved = torch.cholesky_solve(both, torch.linalg.cholesky_ex(gram).L)
    alone, seen = solved.split([products.shared_error.shape[-1], products.shared_own[0, 0, 0].numel()], -1)
    if not design.own_columns:
        return _Solution(alone, alone.new_zeros(*alone.shape[:2], alone.shape[-1], 0))
    seen = seen.view_as(products.shared_own)
    schur = products.own_own.unsqueeze(1) - torch.einsum("gjmcp,gjmcq->gjcpq", products.shared_own, seen)
    own = products.own_own.diagonal(dim1=-2, dim2=-1)
    added = torch.cat([_scale(one, penalty) for one in own.split(list(design.own_columns), -1)], -1)
    schur.diagonal(dim1=-2, dim2=-1).add_(added.unsqueeze(1))
    right = products.own_error.unsqueeze(1) - torch.einsum("gjmcq,gjmc->gjcq", products.shared_own, alone)
    gains = torch.cholesky_solve(right.unsqueeze(-1), torch.linalg.cholesky_ex(schur).L).squeeze(-1)
    return _Solution(alone - torch.einsum("gjmcq,gjcq->gjmc", seen, gains), gains)


def _scale(diagonal: Tensor, penalty: float) -> Tensor:
    """λ·m for each column (..., m): m is the mean of those that are not constant; 1 where all are, as all else is 0."""
    known = (diagonal > 0).sum(-1, keepdim=True)
    mean = diagonal.sum(-1, keepdim=True) / known.clamp(min=1)
    return torch.where(known > 0, penalty * mean, 1).expand_as(diagonal).clone()


def _no_change(design: Design, sums: RidgeSums) -> _Solution:
    shared = torch.zeros_like(sums.shared_error)
    return _Solution(shared, shared.new_zeros(*shared.shape[:2], shared.shape[-1], sum(design.own_columns)))


def _spread(values: Tensor, ndim: int) -> Tensor:
    """View (τ,) so that it broadcasts along the first of `ndim` dimensions."""
    return values.view(-1, *[1] * (ndim - 1))


def _as_changes(design: Design, sums: RidgeSums, solution: _Solution) -> tuple[tuple[Tensor, ...], Tensor]:
    """The change of each term, and the constants (τ, C) that follow from the means."""
    parts = solution.shared.shape[1]
    # The squared error of an average is at most the average of the squared errors, so parts never do harm.
    average, own = solution.shared / parts, solution.own.mean(1)
    given = torch.einsum("tgjm,gjmc->tgc", sums.shared, average) + torch.einsum("tgcq,gcq->tgc", sums.own, own)
    constant = (sums.error - given) / _spread(sums.rows.clamp(min=_TINY), 3)
    columns = average.flatten(1, 2)
    changes, begin, own_begin = [], 0, 0
    for term in design.terms:
        if design.is_shared(term):
            changes.append(term.shaped(columns[:, begin : begin + term.columns]))
            begin += term.columns
        else:
            mine = own.flatten(0, 1)[:, own_begin : own_begin + term.columns]
            changes.append(term.shaped(mine.unflatten(0, (term.groups, -1)).transpose(1, 2)))
            own_begin += term.columns
    return tuple(changes), constant.flatten(1)
