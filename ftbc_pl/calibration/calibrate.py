"""Forward Temporal Bias Correction in one forward pass per batch.

The first B rows of a forward are the ANN's own stream, the other T·B rows the timesteps. Sites are visited in forward
order, so each solves for its bias on inputs that are corrected already (Wu et al., ECCV 2024, algorithm 1, without a
forward for every layer). The same forwards tell how far the output of each step is from the ANN's, from which the
weights of the readout follow.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ftbc_pl.calibration.plan import plan_fits
from ftbc_pl.calibration.report import CalibrationReport
from ftbc_pl.calibration.solvers import SOLVERS, Solver
from ftbc_pl.calibration.step import CalibrationStep, SiteState
from ftbc_pl.calibration.trains import TrainStep
from ftbc_pl.calibration.weights import WeightFit
from ftbc_pl.conversion.convert import to_images
from ftbc_pl.distributed import in_any_process, maximum_over_processes, progress_bar, sum_over_processes
from ftbc_pl.functional.exit import NEVER
from ftbc_pl.functional.readout import error_products, least_squares_readout, mean_readout
from ftbc_pl.options import CalibrationOptions
from ftbc_pl.simulation import SpikingNetwork
from ftbc_pl.sites import SiteRecord


@torch.no_grad()
def calibrate_(
    snn: SpikingNetwork, loader: Iterable[Any], *, progress: bool = True, **options: Any
) -> CalibrationReport:
    """Set the temporal bias of every site and the weights of the readout, in place, with one forward for each batch.

    With `weights="ridge"` the weights of the layers are fitted as well, in the same forward, with all timesteps of
    a batch in memory; the ANN's own stay as they are. Of several batches each is fitted together with those before.

    In a distributed run every process hands in its share of the batches; all end with the same biases and weights. On
    any error, Ctrl-C included, these are left as they were.

    Args:
        snn: A converted network.
        loader: Training images (B, ...) or (images, labels), without augmentation.
        progress: Whether to show a progress bar.
        **options: `solver`, `num_batches`, `readout` and the others of
            `ftbc_pl.options.CalibrationOptions`.

    Raises:
        TypeError: A keyword is no option.
        ValueError: An option is out of range, the network is in 16 bits, the loader holds fewer batches or an empty
            one, or a site (it is named) or the output has NaN or infinite values.
    """
    chosen = CalibrationOptions.of(options, "calibrate_")
    chosen.check_horizon(snn.prediction_steps)
    _check_precision(snn)
    began = time.perf_counter()
    with _unchanged_on_error(snn), torch.autocast(snn.device.type, enabled=False):
        run = _Calibration(snn, chosen, progress)
        run.go_over(loader)
        run.finish()
    counted = sum_over_processes(torch.tensor([run.images], device=snn.device))
    return CalibrationReport(
        solver=chosen.solver,
        granularity=chosen.granularity,
        images=int(counted.item()),
        forward_passes=run.forward_passes,
        seconds=time.perf_counter() - began,
        sites=run.records(),
        readout_weights=tuple(snn.readout_weights[-1].tolist()),
        weights=() if run.fit is None else tuple(run.fit.changes),
        latency=snn.report.latency,
    )


class _Calibration:
    """The state of one calibration."""

    def __init__(self, snn: SpikingNetwork, options: CalibrationOptions, progress: bool) -> None:
        self.snn, self.options = snn, options
        self.solver: Solver = SOLVERS[options.solver](options, snn.num_steps)
        self.states = {call.name: SiteState(site) for call, site in snn.neurons()}
        self.errors: Tensor | None = None
        self.fit: WeightFit | None = None
        self.images = self.forward_passes = 0
        # One unit is one timestep of one site, so that a single batch moves the bar as well.
        self.blocks = len(snn.prediction_steps)
        self.visitor = TrainStep if snn.options.schedule == "accumulate" else CalibrationStep
        steps = options.passes * options.num_batches * len(self.states) * self.blocks
        self.bar = progress_bar(title="Calibrating", shown=progress, total=steps, unit="step")

    def go_over(self, loader: Iterable[Any]) -> None:
        """Correct the biases, batch by batch."""
        with self.bar, _counted_forwards(self.snn) as forwards:
            for number in range(self.options.passes):
                for index, batch in enumerate(_first_batches(loader, self.options.num_batches, self.snn.device)):
                    rows = to_images(batch).to(self.snn.device)
                    self.images += len(rows) * (number == 0)
                    chunks = _chunks(self.snn, rows, self.solver)
                    forwards.clear()
                    if self.options.weights == "ridge":
                        chunks = [self.blocks]  # a fit looks at all timesteps
                        self._prepare_fit(rows, is_last=index == self.options.num_batches - 1)
                        forwards.clear()
                    self._correct(rows, chunks)
                    # The chunks of one simulation together are one forward.
                    self.forward_passes += -(-len(forwards) // len(chunks))
                    forwards.clear()

    def _prepare_fit(self, images: Tensor, is_last: bool) -> None:
        plan, horizon = plan_fits(self.snn, images[:2]), self.options.horizon
        # One block holds whole trains, and there is one running mean to fit.
        horizon = horizon if self.blocks == self.snn.num_steps else None
        self.fit = WeightFit(plan, self.blocks, len(images), images.device, horizon, self.fit, is_last)
        if is_last:
            self.fit.warn_of_few_images()
        self.errors = None  # biases and readout are those of the last batch, which sees the weights fitted to all
        for state in self.states.values():
            state.forget()

    def _correct(self, images: Tensor, chunks: list[int]) -> None:
        self.snn.reset()
        parts: list[Any] = []
        for steps in chunks:
            visitor = self.visitor(steps, not parts, self.solver, self.states, self.bar.update, self.fit)
            parts.append(self.snn.visit(images, visitor, self.fit))
            visitor.check()
        for state in self.states.values():
            state.end_batch()
        if self.options.readout == "mean":
            return
        leaves = zip(*(tree_leaves(part) for part in parts), strict=True)
        outputs = [torch.cat(leaf) for leaf in leaves if isinstance(leaf[0], Tensor) and leaf[0].is_floating_point()]
        found = _relative_products(outputs) if len(outputs) > 1 else error_products(outputs[0][1:], outputs[0][0])
        # A solver that goes on from batch to batch: the last one has the biases that stay.
        self.errors = found if self.solver.continues or self.errors is None else self.errors + found

    def records(self) -> tuple[SiteRecord, ...]:
        """The records of the spiking sites, with what was found there; a GPU is waited for once."""
        records = [record for record in self.snn.report.sites if record.name in self.states]
        rows = [self.states[record.name].found() for record in records]
        found = torch.cat(rows).cpu().split([len(row) for row in rows]) if rows else ()
        return tuple(self.states[one.name].record(one, row) for one, row in zip(records, found, strict=True))

    def finish(self) -> None:
        """Set the biases to the average over the batches, where the solver does not go on, and the readout."""
        if not self.solver.continues:
            summed = self.options.num_batches if self.fit is None else 1
            for call, site in self.snn.neurons():
                site.temporal_bias.copy_(self.states[call.name].bias_sum / summed)
        if self.fit is not None:
            self.snn.corrections.replace_(self.fit.corrected)
        if self.errors is None:
            self.snn.readout_weights.copy_(mean_readout(self.blocks))
        else:
            self.snn.readout_weights.copy_(least_squares_readout(sum_over_processes(self.errors)))
        self.snn.exit_thresholds.fill_(NEVER)  # they were chosen for other predictions


def _relative_products(outputs: list[Tensor]) -> Tensor:
    """Products of the errors of several outputs (T + 1, B, ...), each relative to the size of the ANN's."""
    sizes = [output[0].double().square().sum().clamp(min=torch.finfo(torch.float32).tiny) for output in outputs]
    pairs = zip(outputs, sizes, strict=True)
    return torch.stack([error_products(output[1:], output[0]) / size for output, size in pairs]).sum(0)


def _check_precision(snn: SpikingNetwork) -> None:
    for call, site in snn.neurons():
        if site.threshold.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"Calibration needs a network of float32 or float64, site {call.name} is {site.threshold.dtype}: call "
                "snn.float() first."
            )


@contextmanager
def _unchanged_on_error(snn: SpikingNetwork) -> Iterator[None]:
    """Start from biases of zero and the ANN's weights; give what was before back if anything goes wrong."""
    calibrated = [*(site.temporal_bias for _, site in snn.neurons()), snn.readout_weights]
    before, corrections = [values.clone() for values in calibrated], snn.corrections.content()
    try:
        snn.corrections.replace_({})
        for _, site in snn.neurons():
            site.temporal_bias.zero_()
        yield
    except BaseException:
        for values, old in zip(calibrated, before, strict=True):
            values.copy_(old)
        snn.corrections.replace_(corrections)
        raise
    finally:
        snn.reset()


def _chunks(snn: SpikingNetwork, images: Tensor, solver: Solver) -> list[int]:
    """Timesteps to run at once; the same in all processes, which exchange sums at every site and step."""
    largest = int(maximum_over_processes(torch.tensor([len(images)], device=snn.device)).item())
    if not largest:
        raise ValueError("Expected images in each batch to calibrate with, got an empty batch: check the loader.")
    # The ANN's rows, what a solver works with and, where single neurons matter, what they put out and what they lack.
    chunk = snn.chunk(largest, images, more_rows=1, more_neurons=1 + 2 * solver.single_neurons)
    chunk = -int(maximum_over_processes(torch.tensor([-chunk], device=snn.device)).item())
    full, rest = divmod(len(snn.prediction_steps), chunk)
    return [chunk] * full + ([rest] if rest else [])


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


@contextmanager
def _counted_forwards(snn: SpikingNetwork) -> Iterator[list[None]]:
    """Give a list that grows by one entry with each forward of the network."""
    calls: list[None] = []
    handle = snn.network.register_forward_hook(lambda *_: calls.append(None))
    try:
        yield calls
    finally:
        handle.remove()
