"""Forward Temporal Bias Correction in one forward pass a batch.

The first B rows of a forward are the ANN's own stream, the other T·B rows the timesteps. Sites are visited in forward
order, so each solves for its bias on inputs that are corrected already (Wu et al., ECCV 2024, algorithm 1, without a
forward for every layer). The same forwards tell how far the output of each step is from the ANN's, from which the
weights of the readout follow.
"""

import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ftbc_pl.calibration.options import CalibrationOptions, Readout
from ftbc_pl.calibration.report import CalibrationReport, SiteReport
from ftbc_pl.calibration.step import CalibrationStep, SiteState
from ftbc_pl.conversion.calls import Call
from ftbc_pl.conversion.convert import to_images
from ftbc_pl.conversion.network import SpikingNetwork
from ftbc_pl.distributed import in_any_process, is_main_process, maximum_over_processes, sum_over_processes
from ftbc_pl.functional.readout import error_products, least_squares_readout, mean_readout
from ftbc_pl.functional.solvers import Granularity, Solver
from ftbc_pl.layers import SpikingNeuron


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
    readout: Readout = "least_squares",
    progress: bool = True,
) -> CalibrationReport:
    """Set the temporal bias of every site and the weights of the readout, in place, with one forward for each batch.

    In a distributed run every process hands in its share of the batches; all end with the same biases and weights. On
    any error, Ctrl-C included, these are left as they were.

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
        readout: ``least_squares`` weighs the outputs of the steps so that the prediction at each t comes closest to the
            ANN's output; ``mean`` is their plain mean, as in the papers. Networks that are no classifier of one output
            (B, classes) keep the mean.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: An option is out of range, the network is in 16 bits, the loader holds fewer batches, or a site (it
            is named) or the output has NaN or infinite values.
    """
    options = CalibrationOptions(solver, granularity, alpha, mean_weight, horizon, passes, num_batches, readout)
    if horizon is not None and horizon > snn.num_steps:
        raise ValueError(f"horizon must be one of the {snn.num_steps} timesteps, got {horizon}.")
    for call, site in snn.neurons():
        if site.threshold.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"Calibration needs a network of float32 or float64, site {call.name} is {site.threshold.dtype}: call "
                "snn.float() first."
            )
    began = time.perf_counter()
    states = {call.name: SiteState(site) for call, site in snn.neurons()}
    calibrated = [*(site.temporal_bias for _, site in snn.neurons()), snn.readout_weights]
    before = [values.clone() for values in calibrated]
    errors: Tensor | None = None
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
                    found = _calibrate_batch(snn, rows, chunks, options, states)
                    # `heuristic` goes on from batch to batch: the last one has the biases that stay.
                    if found is not None and options.solver != "heuristic" and errors is not None:
                        found += errors
                    errors = found
                    forwards.end_batch(len(chunks))
                    bar.update()
        if options.solver != "heuristic":
            for call, site in snn.neurons():
                site.temporal_bias.copy_(states[call.name].bias_sum / options.num_batches)
        if errors is None:
            snn.readout_weights.copy_(mean_readout(snn.num_steps))
        else:
            snn.readout_weights.copy_(least_squares_readout(sum_over_processes(errors)))
    except BaseException:
        for values, old in zip(calibrated, before, strict=True):
            values.copy_(old)
        raise
    finally:
        snn.reset()
        forwards.remove()
    counted = sum_over_processes(torch.tensor([images], device=snn.device))
    seconds = time.perf_counter() - began
    sites = tuple(_site_report(call, site, states[call.name]) for call, site in snn.neurons())
    readout_weights = tuple(snn.readout_weights[-1].tolist())
    return CalibrationReport(solver, granularity, int(counted.item()), forwards.passes, seconds, sites, readout_weights)


def _chunks(snn: SpikingNetwork, batch_size: int) -> list[int]:
    """Timesteps to run at once; the same in all processes, which exchange sums at every site and step."""
    largest = maximum_over_processes(torch.tensor([batch_size], device=snn.device))
    return snn.chunks(int(largest.item()))


def _calibrate_batch(
    snn: SpikingNetwork,
    images: Tensor,
    chunks: list[int],
    options: CalibrationOptions,
    states: dict[str, SiteState],
) -> Tensor | None:
    """Correct the biases on one batch; returns the products of the output's errors, if the readout is made of them."""
    snn.reset()
    parts: list[Any] = []
    for steps in chunks:
        visitor = CalibrationStep(steps, not parts, options, options.weight(snn.num_steps), states)
        parts.append(snn.visit(images, visitor))
    for call, site in snn.neurons():
        states[call.name].bias_sum += site.temporal_bias
    if options.readout == "mean" or not isinstance(parts[0], Tensor) or parts[0].ndim != 3:
        return None
    outputs = torch.cat(parts)
    return error_products(outputs[1:], outputs[0])


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


def _site_report(call: Call, site: SpikingNeuron, state: SiteState) -> SiteReport:
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
