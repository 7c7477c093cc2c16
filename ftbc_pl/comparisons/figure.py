"""The picture of a comparison: accuracy against T, a curve for each rule and readout."""

import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, PercentFormatter

from ftbc_pl.comparisons.plan import Rule
from ftbc_pl.comparisons.table import READOUTS, ComparisonTable

# Okabe and Ito's palette: told apart by readers with any common colour vision.
_COLOURS = ("#D55E00", "#009E73", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = {"mean": ("o", (0, (4, 2))), "least_squares": ("s", "-")}
_GRID, _TEXT = "#E3E6EA", "#3C4450"
_LONGEST_TITLE = 110


def comparison_figure(table: ComparisonTable) -> Figure:
    """Accuracy against T with standard deviations, dashed for the readout by the mean, and the ANN's as a line."""
    figure = Figure(figsize=(9.0, 5.2), layout="constrained")
    title = f"{table.title()}: " if table.facts else ""
    head = textwrap.wrap(f"{title}{table.images:,} {table.split} images, {_spread(table)}", _LONGEST_TITLE)
    figure.suptitle("\n".join(head), x=0.01, ha="left", fontsize=10, color=_TEXT, parse_math=False)
    axes = figure.subplots()
    for number, rule in enumerate(table.plan.rules):
        for readout in READOUTS:
            steps, means, deviations = _curve(table, rule, readout)
            marker, line = _STYLES[readout]
            axes.errorbar(
                steps, means, deviations, marker=marker, linestyle=line, markersize=5, capsize=3, linewidth=1.8,
                color=_COLOURS[number % len(_COLOURS)], label=f"{rule.name}, readout {readout}",
            )  # fmt: skip
    if table.ann is not None:
        axes.axhline(table.ann, color="#333333", linestyle=(0, (5, 3)), linewidth=1.5, label="ANN")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(table.plan.num_steps))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.set_xlabel("timesteps T", color=_TEXT)
    axes.set_ylabel(f"accuracy ({table.split})", color=_TEXT)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(colors=_TEXT, length=0)
    legend = axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, labelcolor=_TEXT, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _curve(table: ComparisonTable, rule: Rule, readout: str) -> tuple[list[int], list[float], list[float]]:
    found = {steps: table.accuracies(rule, readout, steps) for steps in table.plan.num_steps}
    found = {steps: values for steps, values in found.items() if values}
    means = [float(np.mean(values)) for values in found.values()]
    return list(found), means, [float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for values in found.values()]


def _spread(table: ComparisonTable) -> str:
    return f"± sd over {table.plan.draws} draws" if table.plan.draws > 1 else "one draw"
