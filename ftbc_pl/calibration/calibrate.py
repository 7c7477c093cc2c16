"""Forward Temporal Bias Correction in one forward pass a batch.

The first B rows of a forward are the ANN's own stream, the other T·B rows the timesteps. Sites are visited in forward
order, so each solves for its bias on inputs that are corrected already (Wu et al., ECCV 2024, algorithm 1, without a
forward for every layer).
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from ftbc_pl.calibration.report import CalibrationReport, SiteReport
from ftbc_pl.conversion.calls import Call
from ftbc_pl.conversion.convert import to_images
from ftbc_pl.conversion.network import Simulation, SpikingNetwork
from ftbc_pl.distributed import in_any_process, is_main_process, maximum_over_processes, sum_over_processes
from ftbc_pl.functional.balanced import balanced_bias, mean_weight_for
from ftbc_pl.functional.solvers import Granularity, Solver, Target, exact_bias, heuristic_bias
from ftbc_pl.layers import SpikingNeuron


@dataclass(frozen=True)
class CalibrationOptions:
    """How the bias is solved for; see :func:`calibrate_`."""

    solver: Solver = "exact"
    granularity: Granularity = "channel"
    alpha: float = 0.5
    mean_weight: float | None = None
    horizon: int | None = None
    passes: int = 1
    num_batches: int = 1

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: One is out of range.
        """
        if self.solver not in get_args(Solver):
            raise ValueError(f"solver must be one of {', '.join(get_args(Solver))}, got {self.solver!r}.")
        if self.granularity not in ("channel", "layer"):
            raise ValueError(f"granularity must be 'channel' or 'layer', got {self.granularity!r}.")
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must lie in (0, 1], got {self.alpha}.")
        if self.mean_weight is not None and not 0 <= self.mean_weight < math.inf:
            raise ValueError(
                f"mean_weight must be finite and 0 or more, got {self.mean_weight}; solver 'exact' is the limit."
            )
        for name in ("passes", "num_batches", "horizon"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("horizon", "mean_weight"):
            if getattr(self, name) is not None and self.solver != "balanced":
                raise ValueError(f"{name} is an option of solver 'balanced'; {self.solver!r} has none.")
        if self.horizon is not None and self.mean_weight is not None:
            raise ValueError("horizon chooses mean_weight: give one of the two.")
        if self.solver != "heuristic" and self.passes > 1:
            raise ValueError(f"solver {self.solver!r} needs one pass: set passes to 1, or take more num_batches.")

    def weight(self, num_steps: int) -> float:
        """λ of ``balanced`` for a network of T = ``num_steps``: as given, or as the horizon wants it."""
        return mean_weight_for(self.horizon or num_steps) if self.mean_weight is None else self.mean_weight


class _SiteState:
    """Target and statistics of one site."""

    def __init__(self, site: SpikingNeuron) -> None:
        self.target: Target | None = None
        # What the output so far lacks, and what the ANN puts out a step; only for solvers that look at single neurons.
        self.error: Tensor | None = None
        self.activation: Tensor | None = None
        self.bias_sum = torch.zeros_like(site.temporal_bias, dtype=torch.float64)
        self.fired = torch.zeros(len(site.temporal_bias), dtype=torch.float64, device=site.threshold.device)
        self.counted = 0
        self.never = torch.ones_like(site.threshold, dtype=torch.bool)
        self.always = torch.ones_like(site.threshold, dtype=torch.bool)


class _CalibrationStep(Simulation):
    """Visitor that solves for the bias of each site and step before it fires."""

    def __init__(
        self,
        num_steps: int,
        ann_rows: bool,
        options: CalibrationOptions,
        mean_weight: float,
        states: dict[str, _SiteState],
    ) -> None:
        super().__init__(num_steps, ann_rows)
        self.options = options
        self.mean_weight = mean_weight
        self.states = states

    def neuron(self, call: Call, site: SpikingNeuron, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        if in_any_process(not bool(x.sum().isfinite()), x.device):
            raise ValueError(
                f"Site {call.name} ({call.source}) has NaN or infinite input during calibration: check the weights "
                "and the images, or train with a smaller learning rate."
            )
        return super().neuron(call, site, x, activation)

    def simulate(self, call: Call, site: SpikingNeuron, current: Tensor, out: Tensor) -> None:
        state, dim = self.states[call.name], site.channel_dim
        if self.ann_rows:
            target = Target.of(out[0], site.threshold, dim)
            state.target = target
            state.never &= target.activation <= 0
            state.always &= target.activation >= site.threshold * (1 - 1e-6)
            if self.options.solver == "balanced":
                # A copy, since the ANN may go on to overwrite its activation.
                state.activation, state.error = out[0].clone(), torch.zeros_like(out[0])
        for x, spikes in zip(current, out[self.ann_rows :], strict=True):
            step, membrane = site.step, site.membrane_like(x).add_(x)
            if state.error is not None and state.activation is not None:
                state.error.add_(state.activation)
            site.temporal_bias[step] = self.solve(membrane, site.temporal_bias[step], state, site)
            site.add_bias_(step)
            site.fire_(spikes)
            if state.error is not None:
                state.error.sub_(spikes)
            state.fired[step] += torch.count_nonzero(spikes > 0)
            state.counted += spikes.numel()

    def solve(self, membrane: Tensor, bias: Tensor, state: _SiteState, site: SpikingNeuron) -> Tensor:
        options, theta, dim = self.options, site.threshold, site.channel_dim
        if options.solver == "balanced":
            assert state.error is not None, "the first chunk carries the ANN's rows"
            return balanced_bias(membrane, state.error, theta, dim, self.mean_weight, options.granularity)
        assert state.target is not None, "the first chunk carries the ANN's rows"
        if options.solver == "exact":
            return exact_bias(membrane, state.target, theta, dim, options.granularity)
        return heuristic_bias(membrane, bias, state.target, theta, dim, options.alpha, options.granularity)


@torch.no_grad()
def calibrate_(
    snn: SpikingNetwork,
    loader: Iterable[Any],
    *,
    solver: Solver = "exact",
    granularity: Granularity = "channel",
    alpha: float = 0.5,
    mean_weight: float | None = None,
    horizon: int | None = None,
    passes: int = 1,
    num_batches: int = 1,
    progress: bool = True,
) -> CalibrationReport:
    """Set the temporal bias of every site, in place, with one forward for each batch.

    In a distributed run every process hands in its share of the batches; all end with the same biases. On any error,
    Ctrl-C included, the biases are left as they were.

    Args:
        snn: A converted network.
        loader: Training images (B, ...) or (images, labels), without augmentation.
        solver: ``exact`` makes each channel fire as often as the ANN demands: good at every step. ``balanced`` keeps
            the output of single neurons close to the ANN's as well: better after a few steps, at the cost of the first.
            ``heuristic`` is the paper's rule.
        granularity: One bias a ``channel``, or one for the whole ``layer``.
        alpha: Step size α of ``heuristic``, in (0, 1].
        mean_weight: λ ≥ 0 of ``balanced``: how much more an error of a channel's mean counts than one of a neuron.
            Default: by ``horizon``.
        horizon: Timestep whose accuracy matters to ``balanced``. Default: T.
        passes: How often ``heuristic`` goes over the batches.
        num_batches: How many batches are used. ``heuristic`` goes on from one to the next, the others average their
            biases.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: An option is out of range, the network is in 16 bits, the loader holds fewer batches, or a site has
            NaN or infinite input (it is named).
    """
    options = CalibrationOptions(solver, granularity, alpha, mean_weight, horizon, passes, num_batches)
    if horizon is not None and horizon > snn.num_steps:
        raise ValueError(f"horizon must be one of the {snn.num_steps} timesteps, got {horizon}.")
    for call, site in snn.neurons():
        if site.threshold.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"Calibration needs a network of float32 or float64, site {call.name} is {site.threshold.dtype}: call "
                "snn.float() first."
            )
    began = time.perf_counter()
    states = {call.name: _SiteState(site) for call, site in snn.neurons()}
    before = {call.name: site.temporal_bias.clone() for call, site in snn.neurons()}
    forwards = _ForwardCounter(snn)
    images = 0
    try:
        for _, site in snn.neurons():
            site.temporal_bias.zero_()
        total = options.passes * options.num_batches
        bar = tqdm(total=total, desc="Calibrating", disable=not progress or not is_main_process())
        with bar, torch.autocast(snn.device.type, enabled=False):
            for number in range(options.passes):
                for batch in _first_batches(loader, options.num_batches, snn.device):
                    rows = to_images(batch).to(snn.device)
                    images += len(rows) * (number == 0)
                    chunks = _chunks(snn, len(rows))
                    _calibrate_batch(snn, rows, chunks, options, states)
                    forwards.end_batch(len(chunks))
                    bar.update()
        if options.solver != "heuristic":
            for call, site in snn.neurons():
                site.temporal_bias.copy_(states[call.name].bias_sum / options.num_batches)
    except BaseException:
        for call, site in snn.neurons():
            site.temporal_bias.copy_(before[call.name])
        raise
    finally:
        snn.reset()
        forwards.remove()
    counted = sum_over_processes(torch.tensor([images], device=snn.device))
    seconds = time.perf_counter() - began
    sites = tuple(_site_report(call, site, states[call.name]) for call, site in snn.neurons())
    return CalibrationReport(solver, granularity, int(counted.item()), forwards.passes, seconds, sites)


def _chunks(snn: SpikingNetwork, batch_size: int) -> list[int]:
    """Timesteps to run at once; the same in all processes, which exchange sums at every site and step."""
    largest = maximum_over_processes(torch.tensor([batch_size], device=snn.device))
    return snn.chunks(int(largest.item()))


def _calibrate_batch(
    snn: SpikingNetwork,
    images: Tensor,
    chunks: list[int],
    options: CalibrationOptions,
    states: dict[str, _SiteState],
) -> None:
    snn.reset()
    ann_rows = True
    for steps in chunks:
        snn.visit(images, _CalibrationStep(steps, ann_rows, options, options.weight(snn.num_steps), states))
        ann_rows = False
    for call, site in snn.neurons():
        states[call.name].bias_sum += site.temporal_bias


def _first_batches(loader: Iterable[Any], num_batches: int, device: torch.device) -> Iterable[Any]:
    batches = iter(loader)
    for found in range(num_batches):
        batch = next(batches, None)
        if in_any_process(batch is None, device):
            raise ValueError(
                f"Calibration needs num_batches = {num_batches} batches, the loader holds {found}: lower num_batches "
                "or the batch size."
            )
        yield batch


class _ForwardCounter:
    """Counts the forwards of the network; the chunks of one simulation together are one."""

    def __init__(self, snn: SpikingNetwork) -> None:
        self.calls = self.passes = 0
        self.handle = snn.network.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1

    def end_batch(self, chunks: int) -> None:
        self.passes += -(-self.calls // chunks)
        self.calls = 0

    def remove(self) -> None:
        self.handle.remove()


def _site_report(call: Call, site: SpikingNeuron, state: _SiteState) -> SiteReport:
    theta = site.threshold
    relative = (site.temporal_bias / theta).square().mean(1).sqrt()
    totals = sum_over_processes(torch.stack([state.fired.sum(), state.fired.new_tensor(float(state.counted))]))
    return SiteReport(
        call.name,
        (theta.min().item(), theta.mean().item(), theta.max().item()),
        (totals[0] / totals[1]).item(),
        tuple(relative.tolist()),
        int(state.never.sum()),
        int(state.always.sum()),
    )
