"""The panels of what was measured beside the accuracy: energy, early exit, and where the accuracy is lost."""

from collections.abc import Mapping, Sequence
from typing import Any

from ftbc_pl.reports.figures import energy_figure, error_figure
from ftbc_pl.reports.parts import Drawing, Listing, Panel, Table
from ftbc_pl.reports.results import RunResults
from ftbc_pl.reports.sites import NOTHING
from ftbc_pl.reports.wording import closing_lines, diagnosis_lines, exit_ratios, image_count, percent

_MOST_STEPS = 16  # that a table of sites has columns for


def exit_rows(results: RunResults, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """A row of early exit at the mean of its steps, under the columns of the table of accuracies."""
    if results.early_exit is None:
        return []
    found = results.early_exit
    cells = {
        "t": f"{found['mean_steps']:.2f} (early exit)",
        "calibrated": percent(found["accuracy"], results),
        "ANN": percent(results.ann_accuracy, results),
    }
    cells |= {f"energy / ANN, {name}": f"{100 * ratio:.1f} %" for name, ratio in exit_ratios(results)}
    return [tuple(cells.get(column, NOTHING) for column in columns)]


def early_exit_panel(results: RunResults) -> Panel | None:
    """What early exit does."""
    if results.early_exit is None:
        return None
    found = results.early_exit
    rows = [
        ("accuracy", percent(found["accuracy"], results)),
        ("mean number of steps", f"{found['mean_steps']:.2f}"),
        ("90 % of the images within", str(found["percentile_90"])),
        ("decisions that differ from those at T", f"{100 * found['loss']:.2f} %"),
    ]
    rows += [(f"energy / ANN, {name}", f"{100 * ratio:.1f} %") for name, ratio in exit_ratios(results)]
    rows += [(f"images that stop at t = {t}", f"{count:,}") for t, count in enumerate(found["images_by_step"], 1)]
    note = "An image stops at the first step whose prediction is confident enough; see the star in the first figure."
    return Panel(
        title="Early exit", note=note, tables=[Table(label="Early exit", columns=["fact", "value"], rows=rows)]
    )


def energy_panel(results: RunResults) -> Panel | None:
    """Synaptic operations, MACs and energy up to each step."""
    if results.energy is None:
        return None
    cost = results.energy
    columns = {
        "t": [str(t) for t in results.steps],
        "synaptic operations": [f"{value:,.0f}" for value in cost["sops"]],
        "MACs": [f"{value:,.0f}" for value in cost["macs"]],
        "additions in neurons": [f"{value:,.0f}" for value in cost["neuron_operations"]],
        "firing rate": [f"{value:.4f}" for value in cost["firing_rate"]],
    }
    if "uncalibrated" in cost:
        columns["without calibration"] = [f"{value:,.0f}" for value in cost["uncalibrated"]["sops"]]
    for name, part in cost["conventions"].items():
        columns[f"µJ, {name}"] = [f"{1e6 * value:.3g}" for value in part["joules"]]
        columns[f"ANN cheaper above rate, {name}"] = [_rate(value) for value in part["break_even_rate"]]
    sources = "; ".join(f"{name}: {part['source']}" for name, part in cost["conventions"].items())
    ann = ", ".join(f"{1e6 * part['ann_joules']:.3g} µJ ({name})" for name, part in cost["conventions"].items())
    few = cost["images"] < results.images
    counted = f"{cost['images']:,} images that are spread over the " if few else ""
    note = (
        f"For an image, up to t, counted on {counted}{image_count(results)}; without calibration: its synaptic "
        f"operations. The ANN has {cost['ann_macs']:,.0f} MACs, {ann}. MACs of the SNN: once in the first layer, since "
        "the image is the same at every step, and at every step in layers that get values, no spikes, such as those "
        "behind rate-exact sites (max pooling). Firing rates are means over synapses. The ANN is cheaper at firing "
        "rates above that of its column: never, where no rate makes it so; always, where the MACs alone cost more. "
        "Additions in neurons (updates, biases, resets) are not priced. "
        f"{cost['not_counted']} {sources}."
    )
    alt = f"Accuracy against energy. {' '.join(closing_lines(results)[:2])}"
    table = Table(label="Operations and energy", columns=list(columns), rows=list(zip(*columns.values(), strict=True)))
    drawing = Drawing(figure=energy_figure(results), alt=alt)
    return Panel(title="Energy", note=note, drawings=[drawing], tables=[table, _site_energy(results.energy)])


def _rate(break_even: float) -> str:
    """A firing rate of break-even, where there is one in 0..1."""
    if break_even <= 0:
        return "always"
    return "never" if break_even >= 1 else f"{break_even:.3g}"


def _site_energy(cost: Mapping[str, Any]) -> Table:
    """Spikes and synaptic operations of each site, at all steps together and at each."""
    total = max(cost["sops"][-1], 1.0)
    steps = [f"at t\u00a0=\u00a0{t}" for t in range(1, min(len(cost["sops"]), _MOST_STEPS) + 1)]
    rows = [
        [
            site["name"],
            f"{sum(site['spikes']):,.0f}",
            f"{sum(site['sops']):,.0f}",
            f"{100 * sum(site['sops']) / total:.1f} %",
            *(f"{value:,.0f}" for value in site["sops"][: len(steps)]),
        ]
        for site in cost["sites"]
    ]
    columns = ["site", "spikes", "synaptic operations", "share", *steps]
    return Table(label="Spikes and synaptic operations by site and step", columns=columns, rows=rows)


def diagnosis_panel(results: RunResults) -> Panel | None:
    """What each site adds to the error, and what would help."""
    if not results.diagnosis:
        return None
    advice = diagnosis_lines(results)
    alt = f"Heat map of the error that each site adds at each step. {' '.join(advice)}"
    listing = Listing(label="What needs mending", text="\n".join(advice))
    note = "Norm of what the neurons of a site add, given their real input, divided by that of the ANN's activation."
    drawing = Drawing(figure=error_figure(results), alt=alt)
    return Panel(title="Where the accuracy is lost", note=note, drawings=[drawing], listings=[listing])
