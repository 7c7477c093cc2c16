"""The panels of report.html: each is a function that takes the results and says what to show, without any HTML.

`PANELS.append(my_panel)` adds one; a function that returns None shows nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from ftbc_pl.options import RunOptions
from ftbc_pl.registry import SOLVERS
from ftbc_pl.reports.cost_panels import diagnosis_panel, early_exit_panel, energy_panel, exit_rows
from ftbc_pl.reports.figures import accuracy_figure, bias_figure, firing_rate_figure
from ftbc_pl.reports.parts import Drawing, Listing, Panel, Table
from ftbc_pl.reports.results import RunResults, to_plain
from ftbc_pl.reports.sites import NOTHING, bias_by_site, rate_by_site, site_cells
from ftbc_pl.reports.wording import curve_name, few_images, gain_error, image_count, latency, percent, summary_line

ROWS_SIDE_BY_SIDE = 16


def key_figures(results: RunResults) -> list[tuple[str, str]]:
    """The few numbers at the head of the page, each with what it is."""
    steps, curves = results.num_steps, results.curves
    shown = [(percent(results.ann_accuracy, results), "ANN")]
    shown += [
        (percent(curves[key][-1], results), f"SNN at T = {steps}, {curve_name(key)}{latency(results)}")
        for key in reversed(curves)
    ]  # the calibrated network first: it is what the run was for
    if "calibrated" in curves:
        gain = f"{100 * _gains(results)[-1]:+.1f} ± {100 * gain_error(results):.1f} points"
        shown.append((gain, f"gain by calibration at T\u00a0=\u00a0{steps}"))
    return shown


def accuracy_panel(results: RunResults) -> Panel:
    """Accuracy at every timestep, as a figure and in numbers."""
    columns = {"t": [str(step) for step in results.steps]}
    if results.schedule == "accumulate":
        columns["latency"] = [str(results.latency)]
    for key, accuracies in results.curves.items():
        columns[curve_name(key)] = [percent(accuracy, results) for accuracy in accuracies]
    if "calibrated" in results.curves:
        columns["gain"] = [f"{100 * gain:+.1f}" for gain in _gains(results)]
    if results.energy is not None:
        for name, part in results.energy["conventions"].items():
            columns[f"energy / ANN, {name}"] = [f"{100 * ratio:.1f} %" for ratio in part["ratio"]]
    columns["ANN"] = [percent(results.ann_accuracy, results)] * len(results.steps)
    rows = [*zip(*columns.values(), strict=True), *exit_rows(results, list(columns))]
    gain = "; gain of the calibrated over the uncalibrated network in points" if "gain" in columns else ""
    blocks = [rows[first : first + ROWS_SIDE_BY_SIDE] for first in range(0, len(rows), ROWS_SIDE_BY_SIDE)]
    return Panel(
        title="Accuracy at every timestep",
        note=(
            f"Accuracy of the prediction at timestep t, on {image_count(results)}, "
            f"± its standard error √(p(1−p)/n){gain}. All networks saw the same images, so that "
            f"differences between them are surer than this.{_readout_only(results)} {few_images(results)}".strip()
        ),
        drawings=[
            Drawing(
                figure=accuracy_figure(results),
                alt=f"Accuracy against timestep, of ANN and SNN. {summary_line(results)}",
            )
        ],
        tables=[
            Table(label=f"Accuracy at t = {block[0][0]} to {block[-1][0]}", columns=list(columns), rows=block)
            for block in blocks
        ],
    )


def bias_panel(results: RunResults) -> Panel:
    """Size of the temporal bias, by site and step."""
    title, sites = "Size of the temporal bias by layer and step", bias_by_site(results)
    if not sites:
        return Panel(title=title, note="Calibration is switched off: the network has no temporal bias.")
    largest, step, name = max(
        (size, step, name) for name, sizes in sites for step, size in zip(results.steps, sizes, strict=True)
    )
    alt = (
        f"Heat map of the temporal bias of {len(sites)} sites over {len(results.steps)} steps. "
        f"The largest is {largest:.3g} thresholds, at {name}, step {step}."
    )
    note = "Root mean square over channels, in units of the threshold. Layers run from the input (top) to the output."
    return Panel(title=title, note=note, drawings=[Drawing(figure=bias_figure(results), alt=alt)])


def firing_rate_panel(results: RunResults) -> Panel | None:
    """Firing rate of each site that has one."""
    rates = [rate for _, rate in rate_by_site(results)]
    if not rates:
        return None
    alt = f"Bar chart of the firing rates of {len(rates)} sites, from {min(rates):.3f} to {max(rates):.3f}."
    note = "Mean number of spikes per neuron and step, layers from the input (top) to the output."
    drawing = Drawing(figure=firing_rate_figure(results), alt=alt)
    return Panel(title="Firing rate by layer", note=note, drawings=[drawing])


def calibration_panel(results: RunResults) -> Panel | None:
    """Everything that the calibration says about itself."""
    if results.calibration is None:
        return None
    names = {"images": "calibration images", "readout_weights": "weight of each step in the prediction at T"}
    rows = [(names.get(key, key.replace("_", " ")), _fact(key, value)) for key, value in results.calibration.items()]
    table = Table(label="Calibration", columns=["fact", "value"], rows=rows)
    note = (
        "What it was and what it cost. A dead channel is 0 in the ANN for all calibration images; the mean of a "
        "saturated one is at its threshold or above in every batch, so that its neurons can't fire often enough."
    )
    return Panel(title="Calibration", note=note, tables=[table])


def weights_panel(results: RunResults) -> Panel | None:
    """What became of the weights of each layer."""
    if not results.weights:
        return None
    columns = ["layer", "fitted to", "change", "penalty", "error left", "error left, held out"]
    rows = [
        [
            str(one["layer"]) or "(network)",
            str(one["target"]),
            NOTHING if one["change"] is None else f"{100 * one['change']:.1f} %",
            NOTHING if one["penalty"] is None else f"{one['penalty']:g}",
            f"{100 * one['left']:.1f} %",
            f"{100 * one['left_held_out']:.1f} %",
        ]
        for one in results.weights
    ]
    note = (
        "Weights of the timesteps, fitted by ridge regression; the ANN keeps its own. Change: norm of the change over "
        "that of the weights, unless these were 0. Error left: part of the squared error, but for its mean, of the "
        "running means of the input of the site (or of the layer's own output) up to all fitted timesteps that the fit "
        "leaves before the range is given back, on the images fitted to and on the fifth that chose the penalty. "
        "Layers that end in the same site share these."
    )
    table = Table(label="Weights of the layers", columns=columns, rows=rows)
    return Panel(title="Fitted weights", note=note, tables=[table])


def sites_panel(results: RunResults) -> Panel | None:
    """What became of each site."""
    cells = [site_cells(site) for site in results.sites]
    if not cells:
        return None
    note = (
        "Kind: a spiking site hands on spikes; a rate-exact one (max pooling, say) is computed on means over the steps "
        "and hands on values. Origin: whether a module, one that is called several times, or a function call in the "
        "code of the network is replaced, and where. Shape of one step's input without the batch; threshold as minimum "
        "/ mean / maximum over channels, and where it comes from; numbers of normalisation layers folded into the "
        "layers before the site; bias as the root mean "
        f"square over channels, in thresholds, at the first step and at T = {results.num_steps}."
    )
    table = Table(label="Sites of the network", columns=list(cells[0]), rows=[list(row.values()) for row in cells])
    summary = str(results.conversion.get("summary", ""))
    return Panel(title=f"Sites ({len(cells)})", note=f"{summary} {note}".strip(), tables=[table])


def settings_panel(results: RunResults) -> Panel | None:
    """The configuration, and the versions of the packages."""
    listings = []
    if results.settings:
        settings = yaml.safe_dump(to_plain(_effective(results.settings)), sort_keys=False, allow_unicode=True)
        listings.append(Listing(label="Settings, as YAML", text=settings))
    if results.versions:
        versions = "\n".join(f"{name} {version}" for name, version in results.versions.items())
        listings.append(Listing(label="Versions", text=versions))
    return Panel(title="Settings", listings=listings) if listings else None


# In the order of the page.
PANELS: list[Callable[[RunResults], Panel | None]] = [
    accuracy_panel,
    early_exit_panel,
    energy_panel,
    diagnosis_panel,
    bias_panel,
    firing_rate_panel,
    calibration_panel,
    weights_panel,
    sites_panel,
    settings_panel,
]


def _effective(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those defaults of the section ftbc that are options of other solvers."""
    section = settings.get("ftbc")
    if not isinstance(section, Mapping) or section.get("solver") not in list(SOLVERS):
        return dict(settings)
    own = SOLVERS[section["solver"]].options
    foreign = {option for name in SOLVERS for option in SOLVERS[name].options} - set(own)
    kept = {
        name: value
        for name, value in section.items()
        if name not in foreign or value != getattr(RunOptions, name, None)
    }
    return {**settings, "ftbc": kept}


def _readout_only(results: RunResults) -> str:
    if "readout_only" not in results.curves:
        return ""
    return " Readout only: no temporal bias, but the steps weighed by least squares; the rest of the gain is the bias."


def _gains(results: RunResults) -> list[float]:
    """What the calibration adds to the accuracy at each step."""
    before, after = results.curves["uncalibrated"], results.curves["calibrated"]
    return [b - a for a, b in zip(before, after, strict=True)]


def _fact(key: str, value: Any) -> str:
    if key == "seconds" and isinstance(value, int | float):
        return f"{value:.2f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(f"{item:.3f}" if isinstance(item, float) else str(to_plain(item)) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(to_plain(value))
