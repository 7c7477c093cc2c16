"""Figures of a run: accuracy against time, size of the temporal bias, firing rate.

They use matplotlib's object interface only, so they need no display and leave no global state behind.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, PercentFormatter

from ftbc_pl.reports.results import RunResults
from ftbc_pl.reports.terminal import table_steps

# Okabe and Ito's palette: told apart by readers with any common colour vision.
CALIBRATED, UNCALIBRATED, ANN = "#0072B2", "#D55E00", "#333333"
GRID, TEXT = "#E3E6EA", "#3C4450"
WIDTH = 9.0
ROW_HEIGHT = 0.19
# From this T on a linear axis would squeeze the first steps, where calibration matters most.
LOG_AXIS_FROM = 12
LONGEST_LABEL = 44


def accuracy_figure(results: RunResults) -> Figure:
    """Accuracy at t = 1..T, uncalibrated and calibrated, with the ANN's as a line."""
    figure, axes = _new_figure(height=4.4)
    steps = np.arange(1, results.num_steps + 1)
    style: dict[str, Any] = {"linewidth": 2.2, "markersize": 5.5 if results.num_steps <= 16 else 3.5, "clip_on": False}
    axes.axhline(results.ann_accuracy, color=ANN, linestyle=(0, (5, 3)), linewidth=1.5, label="ANN")
    if results.accuracy_calibrated is not None:
        axes.plot(
            steps, results.accuracy_calibrated, "o-", color=CALIBRATED, label="SNN, calibrated", zorder=4, **style
        )
    axes.plot(steps, results.accuracy_uncalibrated, "s-", color=UNCALIBRATED, label="SNN, uncalibrated", **style)
    _step_axis(axes, results.num_steps)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.set_xlabel("timestep t")
    axes.set_ylabel(f"accuracy ({results.split})")
    axes.grid(color=GRID, linewidth=0.8)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, labelcolor=TEXT, fontsize=10)
    return figure


def bias_figure(results: RunResults) -> Figure:
    """Root mean square of the temporal bias relative to the threshold, a row a site, a column a step.

    Raises:
        ValueError: no site has a temporal bias, because calibration was switched off.
    """
    sites = [site for site in results.sites if site.temporal_bias_rms]
    if not sites:
        raise ValueError("expected at least one calibrated site, got none: calibrate the network to draw its bias")
    size = np.array([site.temporal_bias_rms for site in sites])
    figure = Figure(figsize=(WIDTH, 1.5 + ROW_HEIGHT * len(sites)), layout="constrained")
    scale, axes = figure.subplots(2, 1, height_ratios=(0.13, ROW_HEIGHT * len(sites)))
    _tidy(axes)
    # A few large values, typical for first steps, would otherwise hide all differences among the others.
    top = float(np.percentile(size, 98)) or float(size.max()) or 1.0
    edges = (0.5, results.num_steps + 0.5, len(sites) - 0.5, -0.5)
    image = axes.imshow(size, aspect="auto", cmap="YlGnBu", vmin=0, vmax=top, extent=edges, interpolation="none")
    _site_axis(axes, [site.name for site in sites])
    axes.xaxis.set_major_locator(FixedLocator(_linear_ticks(results.num_steps)))
    axes.set_xlabel("timestep t")
    extend = "max" if size.max() > top else "neither"
    bar = figure.colorbar(image, cax=scale, orientation="horizontal", extend=extend, extendfrac=0.02)
    bar.outline.set_visible(False)
    scale.tick_params(colors=TEXT, length=2, top=True, labeltop=True, bottom=False, labelbottom=False)
    scale.set_title("temporal bias, RMS / threshold", color=TEXT, fontsize=10)
    return figure


def firing_rate_figure(results: RunResults) -> Figure:
    """Spikes per neuron and step, a bar a site.

    Raises:
        ValueError: no site has a firing rate.
    """
    sites = [(site.name, site.firing_rate) for site in results.sites if site.firing_rate is not None]
    if not sites:
        raise ValueError("expected at least one site with a firing rate, got none: measure them on the spiking network")
    names, rates = zip(*sites, strict=True)
    figure, axes = _new_figure(height=1.1 + ROW_HEIGHT * len(sites))
    bars = axes.barh(range(len(sites)), rates, height=0.72, color=CALIBRATED)
    axes.bar_label(bars, fmt="{:.3f}", padding=3, fontsize=7.5, color=TEXT)
    _site_axis(axes, names)
    axes.set_ylim(len(sites) - 0.4, -0.6)
    axes.set_xlim(0, 1.1 * max(rates) or 1.0)
    axes.set_xlabel("firing rate (spikes per neuron and step)")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    return figure


def _new_figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    _tidy(axes)
    return figure, axes


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
