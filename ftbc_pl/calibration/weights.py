"""Weights of the layers fitted in closed form in the forward that calibrates, by ridge regression.

At a site the inputs of its layers are at hand for all timesteps. What the running means of its current lack of the
ANN's input is fitted jointly for t = 1, 2, 4 … T (weight t²), or for one horizon; the range that ridge regression takes
from the mean current is given back, and the correction is added to the currents, so that the sites behind see what the
corrected network will put out. See `ftbc_pl.functional.ridge` and docs/ridge.md.

A layer that belongs to no site is fitted to its own output in the ANN. Memory: the inputs of the layers of one site at
all timesteps, the sums of `ftbc_pl.functional.ridge_sums`, and a second copy of the weights that change; of several
batches also the sums of all sites.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ftbc_pl.calibration.plan import Plan, SitePlan, Term
from ftbc_pl.calibration.report import BATCH_INSIDE, NO_LAYER, OWN_OUTPUT, SEES_IMAGE, WeightChange
from ftbc_pl.distributed import process_place, sum_over_processes
from ftbc_pl.functional.expansion import Moments, expansion
from ftbc_pl.functional.neuron import per_channel
from ftbc_pl.functional.patches import Affine, Identity
from ftbc_pl.functional.patches import Term as Geometry
from ftbc_pl.functional.ridge import RidgeFit, correction, solve_ridge
from ftbc_pl.functional.ridge_sums import Design, SplitSums, joint_sums
from ftbc_pl.simulation.corrections import Changed, LayerArguments, Place
from ftbc_pl.tracing import Call

EXPAND = True  # chosen on validation images, see docs/ridge.md
FEWEST_IMAGES = 50
ENOUGH_IMAGES = 200
_EXACT = 1e-10  # an error with less than that part of the target's squares is rounding
_BLOCKS = 8  # timesteps to correct at once: what is added takes as much memory as the currents
_OPTIONS = ("stride", "padding", "dilation", "groups")
_TRANSPOSED_OPTIONS = ("stride", "padding", "output_padding", "groups", "dilation")


class WeightFit:
    """Fits the weights of one network while its calibration batch runs through it.

    Attributes:
        corrected: The new tensors so far, as of `ftbc_pl.simulation.corrections.Corrections`.
        changes: What the report says of each layer.
    """

    def __init__(
        self,
        plan: Plan,
        num_steps: int,
        batch_size: int,
        device: torch.device,
        horizon: int | None = None,
        earlier: "WeightFit | None" = None,
        is_last: bool = True,
    ) -> None:
        """Prepare the fit.

        Args:
            plan: Which layers are fitted to what.
            num_steps: T.
            batch_size: Images of this process.
            device: Where they are.
            horizon: t of the running means that are fitted; None: 1, 2, 4 … T together.
            earlier: The fit of the batches before, whose sums count as well.
            is_last: Whether no batch follows, for which sums would be kept.
        """
        self.plan, self.num_steps = plan, num_steps
        powers = {2**power for power in range(num_steps.bit_length()) if 2**power < num_steps}
        self.steps = [horizon] if horizon else sorted(powers | {num_steps})
        rank, processes = process_place()
        sizes = torch.zeros(processes, dtype=torch.int64, device=device)
        sizes[rank] = batch_size
        counted = sum_over_processes(sizes).tolist()
        self.first, self.images, self.own = sum(counted[:rank]), sum(counted), batch_size
        self.local = {changed.place: (changed, path) for changed, path in plan.local.items()}
        self.awaited: dict[Place, list[Changed]] = {}
        for site in plan.sites.values():
            for term in site.terms:
                self.awaited.setdefault(term.changed.place, []).append(term.changed)
        self.is_last = is_last
        self.sums: dict[Changed, SplitSums] = {} if earlier is None else earlier.sums
        self.seen: int = self.images + (0 if earlier is None else earlier.seen)
        self.kept: dict[Changed, _Kept] = {}
        self.corrected: dict[Changed, tuple[Tensor, ...]] = {}
        unfitted = {SEES_IMAGE: plan.exact, NO_LAYER: plan.others, BATCH_INSIDE: plan.mixed}
        self.changes = [WeightChange(layer=path, target=why) for why, paths in unfitted.items() for path in paths]

    def warn_of_few_images(self) -> None:
        """Warn if there are fewer images than make sense."""
        if self.seen < FEWEST_IMAGES:
            warnings.warn(
                f"weights='ridge' fits weights to {self.seen} calibration images: they may serve those images only. "
                f"Take {ENOUGH_IMAGES} (batch_size={ENOUGH_IMAGES}), at least {FEWEST_IMAGES}.",
                stacklevel=6,  # where calibrate_ is called
            )

    def around(self, place: Place, function: Callable[..., Any]) -> Callable[..., Any]:
        """Fit a layer to its own output, or keep what a site will look at."""
        if place in self.local:
            return partial(self._local, place, function)
        return partial(self._keep, place, function) if place in self.awaited else function

    def are_all_in(self, counts: Mapping[str, int]) -> bool:
        """Whether all layers of the plan were called."""
        return all(counts.get(place.function, 0) > place.ordinal for place in (*self.local, *self.awaited))

    def _keep(self, place: Place, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        for changed in self.awaited[place]:
            self.kept[changed] = _Kept.of(changed, args, kwargs)
        return function(*args, **kwargs)

    def _local(self, place: Place, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        changed, path = self.local[place]
        self.kept[changed] = _Kept.of(changed, args, kwargs)
        out = function(*args, **kwargs)
        self._fit(SitePlan((Term(changed, path),), False), "", out, changed.channel_dim)
        return out

    def at_site(self, call: Call, x: Tensor) -> None:
        """Fit the layers that end in a site, and correct its currents, behind the ANN's rows of x, (rows, C, ...)."""
        if call.name in self.plan.sites:
            self._fit(self.plan.sites[call.name], call.name, x, call.channel_dim)

    def _fit(self, plan: SitePlan, site: str, x: Tensor, channel_dim: int) -> None:
        kept = [self.kept.pop(term.changed) for term in plan.terms]
        blocks = x.unflatten(0, (self.num_steps + 1, -1))
        z, currents = blocks[0], blocks[1:]
        streams = [one.x.unflatten(0, (self.num_steps + 1, -1))[1:] for one in kept]
        design = Design(tuple(one.geometry for one in kept), channel_dim)
        each = len(z) // max(1, self.own)  # rows of an image: its tokens, where these are rows of the batch
        sums = joint_sums(design, streams, currents, z, self.steps, first=self.first, images=self.images, each=each)
        sums = sums.mapped(sum_over_processes)
        sums = self._with_earlier(plan.terms[0].changed, sums)
        target = _moments(z, channel_dim)
        try:
            fit = solve_ridge(design, sums)
        except ValueError as error:
            raise ValueError(f"Layer {plan.terms[0].path}: {error}") from error
        if _is_exact(sums, target):
            self._report(plan, site, [0.0] * len(kept), fit)
            return
        scale = torch.ones_like(target.mean)
        if plan.complete and EXPAND:
            means = [stream.mean(0) for stream in streams]
            mean = currents.mean(0) + correction(design, fit, means).to(currents.dtype)
            scale, _ = expansion(target, _moments(mean, channel_dim))
        # What is multiplied with 0 on its way to the site can't correct it.
        reached = torch.stack([one.scale(term).abs() > _EXACT for one, term in zip(kept, plan.terms, strict=True)])
        usable = reached.all(0)
        relative: list[float | None] = []
        for one, term, change, stream in zip(kept, plan.terms, fit.changes, streams, strict=True):
            before = one.before.double()
            factor = torch.where(usable, one.scale(term), 1)
            own = one.by_channel(scale - 1) * before + one.by_channel(scale / factor) * change
            own = own * one.by_channel(usable.double())
            for some, inputs in zip(currents.split(_BLOCKS), stream.split(_BLOCKS), strict=True):
                added = one.geometry.apply(inputs.flatten(0, 1), own * one.by_channel(factor), channel_dim)
                some += added.view_as(some)
            after = torch.empty_like(one.before).copy_(before + own)  # in the same memory layout
            self.corrected[term.changed] = (after, *one.bias())
            relative.append(float(own.norm() / before.norm()) if before.any() else None)
        self._add_constant(plan, kept, usable, currents, target, channel_dim)
        self._report(plan, site, relative, fit)

    def _with_earlier(self, site: Changed, sums: SplitSums) -> SplitSums:
        """Add the sums of the batches before, and keep those of a site for the batches to come."""
        earlier = self.sums.pop(site, None)
        sums = sums if earlier is None else sums + earlier
        if not self.is_last:
            self.sums[site] = sums
        return sums

    def _add_constant(
        self,
        plan: SitePlan,
        kept: Sequence["_Kept"],
        usable: Tensor,
        currents: Tensor,
        target: Moments,
        channel_dim: int,
    ) -> None:
        """Give the mean of the currents that of the ANN, by the bias of the first layer."""
        missing = torch.where(usable, target.mean - _moments(currents.mean(0), channel_dim).mean, 0)
        currents += per_channel(missing.to(currents.dtype), currents.ndim - 1, channel_dim)
        one, term = next(pair for pair in zip(kept, plan.terms, strict=True) if pair[1].changed.operand < 0)
        weight, bias = self.corrected[term.changed]
        own = missing / torch.where(usable, one.scale(term), 1)
        self.corrected[term.changed] = weight, (bias.double() + own).to(bias.dtype)

    def _report(self, plan: SitePlan, site: str, relative: Sequence[float | None], fit: RidgeFit) -> None:
        before = float(fit.before.sum())
        for term, change in zip(plan.terms, relative, strict=True):
            self.changes.append(
                WeightChange(
                    layer=term.path if term.changed.operand < 0 else f"shortcut of {site}",
                    target=site or OWN_OUTPUT,
                    change=change,
                    penalty=fit.penalty if fit.penalty < torch.inf else None,
                    left=float(fit.after.sum()) / before if before > 0 else 1.0,
                    left_held_out=fit.held_out,
                )
            )


class _Kept:
    """What a fit needs of a call: its input rows and its geometry."""

    def __init__(self, x: Tensor, geometry: Geometry, before: Tensor, own_bias: Tensor | None) -> None:
        self.x, self.geometry, self.before, self.own_bias = x, geometry, before, own_bias

    @classmethod
    def of(cls, changed: Changed, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> "_Kept":
        if changed.operand >= 0:
            x = args[changed.operand]
            channels = x.shape[changed.channel_dim]
            return cls(x, Identity(channels), x.new_ones(channels), None)
        call = LayerArguments(args, kwargs)
        return cls(call.input, _geometry(changed.function, call), call.weight, call.bias)

    def scale(self, term: Term) -> Tensor:
        """What the output is multiplied with on its way, (C,) float64."""
        ones = torch.ones(self.geometry.out_channels, dtype=torch.float64, device=self.x.device)
        return ones if term.scale is None else ones * term.scale

    def by_channel(self, values: Tensor) -> Tensor:
        """View values of output channels (C,) so that they broadcast to the weights."""
        if isinstance(self.geometry, Affine) and self.geometry.transposed:
            groups, shape = self.geometry.groups, self.geometry.weight_shape
            spread = values.view(groups, 1, -1).expand(groups, shape[0] // groups, -1)
            return spread.reshape(shape[:2] + (1,) * (len(shape) - 2))
        return values.view(-1, *[1] * (self.before.ndim - 1))

    def bias(self) -> tuple[Tensor, ...]:
        """The bias of a layer, zeros if it has none; nothing of an identity."""
        if isinstance(self.geometry, Identity):
            return ()
        return (self.before.new_zeros(self.geometry.out_channels) if self.own_bias is None else self.own_bias.clone(),)


def _geometry(function: str, call: LayerArguments) -> Affine:
    if function == "linear":
        return Affine.linear(call.weight.shape)
    transposed = "transpose" in function
    options = dict(zip(_TRANSPOSED_OPTIONS if transposed else _OPTIONS, call.more, strict=False)) | call.options
    make = Affine.transposed_convolution if transposed else Affine.convolution
    return make(call.weight.shape, **options)  # type: ignore[arg-type]


def _moments(values: Tensor, channel_dim: int) -> Moments:
    """Moments of `values` (B, C, ...) over all processes."""
    own = Moments.of(values, channel_dim)
    return Moments(*(sum_over_processes(one) for one in (own.count, own.sums, own.squares)))


def _is_exact(sums: SplitSums, target: Moments) -> bool:
    """Whether the currents lack nothing but rounding."""
    total = sums.training + sums.held_out
    scale = total.rows.sum() * (target.squares / target.count).sum()
    return bool(total.error_error.sum() <= _EXACT * scale)
