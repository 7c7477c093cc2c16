"""Figures of a run: accuracy against time, size of the temporal bias, firing rate.

They use matplotlib's object interface only, so they need no display and leave no global state behind.
"""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, PercentFormatter

from ftbc_pl.reports.results import RunResults
from ftbc_pl.reports.sites import bias_by_site, rate_by_site
from ftbc_pl.reports.wording import curve_label, facts, table_steps, title

# Okabe and Ito's palette: told apart by readers with any common colour vision.
CALIBRATED, UNCALIBRATED, ANN = "#0072B2", "#D55E00", "#333333"
CURVES = {
    "uncalibrated": ("s-", UNCALIBRATED),
    "readout_only": ("v-", "#CC79A7"),
    "calibrated": ("o-", CALIBRATED),
}
OTHERS = ("^-", "#009E73")
GRID, TEXT = "#E3E6EA", "#3C4450"
WIDTH = 9.0
ROW_HEIGHT = 0.19
# From this T on a linear axis would squeeze the first steps, where calibration matters most.
LOG_AXIS_FROM = 12
LONGEST_LABEL = 44
LONGEST_TITLE = 110


def accuracy_figure(results: RunResults) -> Figure:
    """Accuracy at t = 1..T of each spiking network and of the ANN, in bands of one standard error."""
    figure, axes = _new_figure(results, height=4.8)
    steps = np.array(results.steps)
    style: dict[str, Any] = {"linewidth": 2.2, "markersize": 5.5 if results.num_steps <= 16 else 3.5, "clip_on": False}
    error = results.standard_error(results.ann_accuracy)
    axes.axhspan(results.ann_accuracy - error, results.ann_accuracy + error, color=ANN, alpha=0.1, linewidth=0)
    activation = facts(results).get("activation")
    label = f"ANN ({activation})" if activation else "ANN"
    axes.axhline(results.ann_accuracy, color=ANN, linestyle=(0, (5, 3)), linewidth=1.5, label=label)
    for key, accuracies in results.curves.items():
        form, colour = CURVES.get(key, OTHERS)
        low, high = np.array([(p - results.standard_error(p), p + results.standard_error(p)) for p in accuracies]).T
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(steps, accuracies, form, color=colour, label=curve_label(results, key), zorder=4, **style)
    if results.early_exit is not None:
        place = results.early_exit["mean_steps"], results.early_exit["accuracy"]
        axes.plot(*place, "*", color=OTHERS[1], markersize=14, label="SNN, early exit (mean step)", zorder=5)
    _step_axis(axes, results.num_steps)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.set_xlabel("timestep t")
    axes.set_ylabel(f"accuracy ({results.split})")
    axes.grid(color=GRID, linewidth=0.8)
    narrow: dict[str, Any] = {"fontsize": 9, "handlelength": 1.8, "columnspacing": 1.4, "borderpad": 0.2}
    legend = axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, labelcolor=TEXT, **narrow)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def bias_figure(results: RunResults) -> Figure:
    """Root mean square of the temporal bias relative to the threshold, a row per site, a column per step.

    Raises:
        ValueError: no site has a temporal bias, because calibration was switched off.
    """
    sites = bias_by_site(results)
    if not sites:
        raise ValueError("expected at least one calibrated site, got none: calibrate the network to draw its bias")
    return _heat_map(results, sites, "temporal bias, RMS / threshold")


def error_figure(results: RunResults) -> Figure:
    """What each site adds to the error, relative to the ANN's activation, a row per site, a column per step.

    Raises:
        ValueError: the run was not diagnosed.
    """
    if not results.diagnosis:
        raise ValueError("expected results with a diagnosis, got none: pass one to collect_results")
    sites = [(site["name"], site["own_error"]) for site in results.diagnosis["sites"]]
    return _heat_map(results, sites, "error that the site adds, relative to the ANN's activation")


def energy_figure(results: RunResults) -> Figure:
    """Accuracy at t = 1..T against the energy up to t, as a share of the ANN's, a curve per convention.

    Raises:
        ValueError: energy was not measured.
    """
    if not results.energy:
        raise ValueError("expected results with energy, got none: pass a cost to collect_results")
    figure, axes = _new_figure(results, height=4.0)
    accuracies = next(reversed(results.curves.values()))
    for (name, part), colour in zip(results.energy["conventions"].items(), (CALIBRATED, UNCALIBRATED), strict=False):
        axes.plot(part["ratio"], accuracies, "o-", color=colour, label=name)
    axes.axvline(1, color=ANN, linestyle=(0, (5, 3)), linewidth=1.5, label="energy of the ANN")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.set_xlabel("energy up to t, as a share of the ANN's")
    axes.set_ylabel(f"accuracy ({results.split})")
    axes.grid(color=GRID, linewidth=0.8)
    axes.legend(frameon=False, labelcolor=TEXT, fontsize=9)
    return figure


def _heat_map(results: RunResults, sites: Sequence[tuple[str, Sequence[float]]], label: str) -> Figure:
    size = np.array([steps for _, steps in sites])
    figure = Figure(figsize=(WIDTH, 1.9 + ROW_HEIGHT * len(sites)), layout="constrained")
    _title(figure, results)
    scale, axes = figure.subplots(2, 1, height_ratios=(0.13, ROW_HEIGHT * len(sites)))
    _tidy(axes)
    # A few large values, typical for first steps, would otherwise hide all differences among the others.
    top = float(np.percentile(size, 98)) or float(size.max()) or 1.0
    edges = (results.steps[0] - 0.5, results.steps[-1] + 0.5, len(sites) - 0.5, -0.5)
    image = axes.imshow(size, aspect="auto", cmap="YlGnBu", vmin=0, vmax=top, extent=edges, interpolation="none")
    _site_axis(axes, [name for name, _ in sites])
    ticks = _linear_ticks(results.num_steps) if len(results.steps) > 1 else list(results.steps)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.set_xlabel("timestep t")
    extend = "max" if size.max() > top else "neither"
    bar = figure.colorbar(image, cax=scale, orientation="horizontal", extend=extend, extendfrac=0.02)
    bar.outline.set_visible(False)
    scale.tick_params(colors=TEXT, length=2, top=True, labeltop=True, bottom=False, labelbottom=False)
    scale.set_title(label, color=TEXT, fontsize=10)
    return figure


def firing_rate_figure(results: RunResults) -> Figure:
    """Spikes per neuron and step, a bar per site.

    Raises:
        ValueError: no site has a firing rate.
    """
    sites = rate_by_site(results)
    if not sites:
        raise ValueError("expected at least one site with a firing rate, got none: measure them on the spiking network")
    names, rates = zip(*sites, strict=True)
    figure, axes = _new_figure(results, height=1.5 + ROW_HEIGHT * len(sites))
    bars = axes.barh(range(len(sites)), rates, height=0.72, color=CALIBRATED)
    axes.bar_label(bars, fmt="{:.3f}", padding=3, fontsize=7.5, color=TEXT)
    _site_axis(axes, names)
    axes.set_ylim(len(sites) - 0.4, -0.6)
    axes.set_xlim(0, 1.1 * max(rates) or 1.0)
    axes.set_xlabel("firing rate (spikes per neuron and step)")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    return figure


def _new_figure(results: RunResults, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    _title(figure, results)
    axes = figure.subplots()
    _tidy(axes)
    return figure, axes


def _title(figure: Figure, results: RunResults) -> None:
    lines = [part for line in title(results).splitlines() for part in textwrap.wrap(line, LONGEST_TITLE)]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10, color=TEXT, parse_math=False)


def _tidy(axes: Axes) -> None:
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(colors=TEXT, length=0)
    axes.xaxis.label.set_color(TEXT)
    axes.yaxis.label.set_color(TEXT)


def _linear_ticks(num_steps: int) -> list[int]:
    if num_steps <= 16:
        return list(range(1, num_steps + 1))
    spacing = 1 << (math.ceil(num_steps / 12) - 1).bit_length()
    return [1, *range(spacing, num_steps + 1, spacing)]


def _step_axis(axes: Axes, num_steps: int) -> None:
    if num_steps >= LOG_AXIS_FROM:
        axes.set_xscale("log", base=2)
        ticks = table_steps(num_steps)
        # T itself is left out where its label would touch that of the power of two before it.
        if len(ticks) > 1 and ticks[-1] < 1.25 * ticks[-2]:
            ticks.pop(-2)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.minorticks_off()
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlim(0.94, num_steps * 1.06)
    else:
        axes.xaxis.set_major_locator(FixedLocator(range(1, num_steps + 1)))
        axes.set_xlim(0.8, num_steps + 0.2)


def _site_axis(axes: Axes, names: Sequence[str]) -> None:
    # The end of a module path tells sites apart, the start is what they share.
    labels = [name if len(name) <= LONGEST_LABEL else "…" + name[1 - LONGEST_LABEL :] for name in names]
    axes.set_yticks(range(len(labels)), labels, fontsize=8, parse_math=False)
