"""Measure what a comparison lacks: convert, calibrate and evaluate, with the network and the images loaded once."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from ftbc_pl.calibration import calibrate_, uncalibrated_readout
from ftbc_pl.comparisons.plan import Plan, Rule
from ftbc_pl.comparisons.store import Store
from ftbc_pl.comparisons.table import ComparisonTable, Record
from ftbc_pl.conversion import convert
from ftbc_pl.conversion.batch import check_images, images_and_labels, number_of_batches
from ftbc_pl.distributed import progress_bar, sum_over_processes
from ftbc_pl.evaluation import TimestepAccuracy
from ftbc_pl.evaluation.metric import per_step
from ftbc_pl.evaluation.predictions import single_output
from ftbc_pl.functional.readout import mean_readout, weigh
from ftbc_pl.simulation import SpikingNetwork

Loader = Callable[[], Iterable[Any]]


@torch.no_grad()
def measure_ann(ann: nn.Module, batches: Loader, device: torch.device, progress: bool) -> tuple[float, int]:
    """Accuracy of the ANN, and the number of images, over all processes.

    Raises:
        ValueError: There are no images.
    """
    metric = TimestepAccuracy(1).to(device)
    for images, labels in _batches(batches, device, "ANN", progress):
        metric.update(single_output(ann(images)).unsqueeze(0), labels)
    (accuracy,), count = computed(metric)
    return accuracy, count


@torch.no_grad()
def fill(
    table: ComparisonTable, ann: nn.Module, batches: Loader, calibration: Loader, store: Store, progress: bool
) -> None:
    """Measure whatever the table lacks, and write each measurement at once.

    Args:
        table: What was measured so far; grows.
        ann: The network, in evaluation mode, where it is to run.
        batches: Gives the batches (images, labels) to evaluate on, of this process.
        calibration: Gives the calibration batches of all draws, one draw after the other, of this process's share.
        store: Where the measurements are written.
        progress: Whether to show progress bars.

    Raises:
        ValueError: There are fewer calibration batches than the draws need, or nothing to evaluate on.
    """
    plan, device = table.plan, _device(ann)
    if table.records and store.folder is not None:
        done, number = progress_of(table, any(record.causal for record in table.records))
        rank_zero_info(f"{done} of {number} measurements are there already, in {store.folder}.")
    loader = calibration() if is_missing(table) else None
    if loader is not None:
        check_number(plan, number_of_batches(loader))
    if table.ann is None:
        table.ann, table.images = measure_ann(ann, batches, device, progress)
        store.add(table)
    if loader is None:
        return
    source = iter(loader)
    for draw in range(plan.draws):
        own = list(islice(source, plan.num_batches))
        check_number(plan, draw * plan.num_batches + len(own), draw + 1)
        for rule, snn in _to_do(table, ann, own, draw):
            done, number = progress_of(table, _is_causal(snn))
            place = f"T = {snn.num_steps}, draw {draw + 1} of {plan.draws}"
            rank_zero_info(f"Measuring {rule.name}, {place} ({done + 1} of {number}).")
            record = _measured(table, rule, snn, own, draw, batches, progress)
            table.records.append(record)
            store.add(table)


def is_missing(table: ComparisonTable) -> bool:
    """Whether a comparison lacks anything that takes a calibration."""
    return any(_missing(table, draw) for draw in range(table.plan.draws))


def progress_of(table: ComparisonTable, is_causal: bool) -> tuple[int, int]:
    """How many measurements of a comparison are done, and how many there are in all.

    Args:
        table: What was measured so far.
        is_causal: Whether the thresholds let one calibration at the largest T give the smaller ones, for rules that do.
    """
    plan = table.plan
    needed = [
        table.record(rule, steps, draw)
        for draw in range(plan.draws)
        for rule in plan.rules
        for steps in (plan.num_steps[-1:] if is_causal and rule.is_causal else plan.num_steps)
    ]
    return sum(record is not None for record in needed), len(needed)


def check_number(plan: Plan, batches: float, draws: int | None = None) -> None:
    """Check that there are calibration batches enough for some draws, left out: for all of them.

    Raises:
        ValueError: There are fewer.
    """
    if batches < (plan.draws if draws is None else draws) * plan.num_batches:
        raise ValueError(
            f"{plan.draws} draws need {plan.draws * plan.num_batches} calibration batches, the loader holds "
            f"{batches:.0f}: lower draws, num_batches or the size of the batches."
        )


def _missing(table: ComparisonTable, draw: int) -> list[tuple[Rule, int]]:
    """Rules and T that a draw lacks."""
    plan = table.plan
    pairs = [(rule, steps) for steps in reversed(plan.num_steps) for rule in plan.rules]
    return [(rule, steps) for rule, steps in pairs if table.record(rule, steps, draw) is None]


def _to_do(
    table: ComparisonTable, ann: nn.Module, batches: list[Any], draw: int
) -> Iterator[tuple[Rule, SpikingNetwork]]:
    """What a draw lacks, with a network converted for its T; the largest T first, which may serve the smaller ones."""
    snn: SpikingNetwork | None = None
    for rule, steps in _missing(table, draw):
        if table.record(rule, steps, draw) is not None:
            continue  # a calibration at a larger T has given it meanwhile
        if snn is None or snn.num_steps != steps:
            snn = _converted(table.plan, ann, steps, batches)
        yield rule, snn


def _converted(plan: Plan, ann: nn.Module, steps: int, batches: list[Any]) -> SpikingNetwork:
    snn = convert(ann, steps, batches=batches, num_batches=len(batches), **plan.conversion)
    snn.to(_device(ann))
    if plan.simulation.time_chunk is not None:
        snn.time_chunk = plan.simulation.time_chunk
    if plan.simulation.compile:
        snn.compile_neurons()
    return snn


def _measured(
    table: ComparisonTable,
    rule: Rule,
    snn: SpikingNetwork,
    own: list[Any],
    draw: int,
    batches: Loader,
    progress: bool,
) -> Record:
    """Calibrate by a rule, and evaluate with both readouts."""
    seconds = 0.0
    weights: Tensor | None
    if rule.solver is None:
        weights = uncalibrated_readout(snn, own, len(own))
    else:
        seconds = calibrate_(snn, own, progress=progress, **table.plan.options(rule)).seconds
        weights = snn.readout_weights
    assert weights is not None  # several outputs were refused when the ANN was measured
    readouts = {"mean": mean_readout(len(weights)), "least_squares": weights}
    metrics = {name: TimestepAccuracy(len(weights)).to(snn.device) for name in readouts}
    title = f"{rule.name}, T = {snn.num_steps}"
    with snn.uncalibrated() if rule.solver is None else nullcontext():
        for images, labels in _batches(batches, snn.device, title, progress):
            # One forward for all readouts: they are linear maps over the steps.
            outputs = single_output(snn(images), snn)
            for name, metric in metrics.items():
                metric.update(weigh(outputs, readouts[name]), labels)
    return Record(
        solver=rule.solver,
        weights=rule.weights,
        num_steps=snn.num_steps,
        draw=draw,
        causal=rule.is_causal and _is_causal(snn),
        accuracies={name: computed(metric)[0] for name, metric in metrics.items()},
        seconds=seconds,
    )


def _is_causal(snn: SpikingNetwork) -> bool:
    """Whether no threshold was chosen for the network's T."""
    return all(record.threshold_from != "mse" for record in snn.report.sites)


def _batches(batches: Loader, device: torch.device, title: str, progress: bool) -> Iterator[tuple[Tensor, Tensor]]:
    with torch.autocast(device.type, enabled=False):
        for batch in progress_bar(batches(), title, progress):
            images, labels = images_and_labels(batch)
            check_images(images)
            yield images.to(device), labels.to(device)


def computed(metric: TimestepAccuracy) -> tuple[list[float], int]:
    """Accuracy at each step and number of images, over all processes."""
    images = int(sum_over_processes(metric.images.clone()).item())
    if not images:
        raise ValueError("There are no images to evaluate on.")
    return per_step(metric), images


def _device(ann: nn.Module) -> torch.device:
    return next((value.device for value in ann.parameters()), torch.device("cpu"))
