"""report.html: one self-contained page about a run, readable without a network connection."""

import base64
import io
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import yaml
from matplotlib import rc_context
from matplotlib.figure import Figure

from ftbc_pl.files import write_text_atomic
from ftbc_pl.reports.figures import accuracy_figure, bias_figure, firing_rate_figure
from ftbc_pl.reports.results import RunResults, to_plain
from ftbc_pl.reports.terminal import image_count, percent, summary_line, table_steps
from ftbc_pl.sites import SiteRecord

REPORT_FILE = "report.html"
NOTHING, TIMES = "\u2013", " \u00d7 "

STYLE = """
:root { color-scheme: light; --text: #1f2630; --soft: #5b6573; --line: #e3e6ea; --ground: #f6f7f9; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); font: 15px/1.55 system-ui, "Segoe UI", sans-serif; }
main { max-width: 1020px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 0 0 4px; }
p { margin: 0 0 12px; max-width: 100ch; }
.soft { color: var(--soft); }
section, .tile { background: #fff; border: 1px solid var(--line); border-radius: 10px; }
section { padding: 20px 24px; margin-top: 20px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px; margin-top: 20px; }
.tile { padding: 12px 16px; }
.tile b { display: block; font-size: 24px; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
img { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; }
.scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; min-width: 50%; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: 5px 0 5px 20px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
thead th { border-bottom: 2px solid var(--line); }
th:first-child { text-align: left; padding-left: 0; }
tbody th { color: var(--text); font-weight: 400; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 13px; }
pre { margin: 8px 0 0; padding: 14px 16px; overflow-x: auto; background: var(--ground); border-radius: 8px; }
@media print { body { background: #fff; } section, .tile { break-inside: avoid; } }
"""


def write_report_html(results: RunResults, folder: str | os.PathLike[str]) -> Path:
    """Write report.html into `folder` and return its path."""
    path = Path(folder) / REPORT_FILE
    write_text_atomic(path, report_html(results))
    return path


def report_html(results: RunResults) -> str:
    """The page as text: figures are embedded, every text from outside is escaped."""
    sections = [_accuracy_section(results), _bias_section(results), _firing_rate_section(results)]
    sections += [_calibration_section(results), _sites_section(results), _settings_section(results)]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Spiking network report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>Spiking network report</h1>\n<p class="soft">{escape(summary_line(results))}</p>\n'
        f"{_tiles(results)}\n" + "\n".join(filter(None, sections)) + "\n</main>\n</body>\n</html>\n"
    )


def _tiles(results: RunResults) -> str:
    steps = results.num_steps
    tiles = [(percent(results.ann_accuracy), "ANN")]
    if results.accuracy_calibrated is not None:
        tiles.append((percent(results.accuracy_calibrated[-1]), f"SNN at T = {steps}, calibrated"))
    tiles.append((percent(results.accuracy_uncalibrated[-1]), f"SNN at T = {steps}, uncalibrated"))
    if results.accuracy_calibrated is not None:
        gains = [
            after - before
            for after, before in zip(results.accuracy_calibrated, results.accuracy_uncalibrated, strict=True)
        ]
        step = max(range(steps), key=gains.__getitem__)
        tiles.append((f"{100 * gains[step]:+.1f} points", f"largest gain by calibration, at t\u00a0=\u00a0{step + 1}"))
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _accuracy_section(results: RunResults) -> str:
    columns = ["t", "uncalibrated", "calibrated", "ANN"]
    rows = []
    for step in table_steps(results.num_steps):
        calibrated = results.accuracy_calibrated
        after = NOTHING if calibrated is None else percent(calibrated[step - 1])
        rows.append([str(step), percent(results.accuracy_uncalibrated[step - 1]), after, percent(results.ann_accuracy)])
    alt = f"Accuracy against timestep, of ANN and SNN. {summary_line(results)}"
    note = f"Accuracy of the prediction at timestep t, on {image_count(results)}."
    body = _image(accuracy_figure(results), alt) + _table("Accuracy at selected timesteps", columns, rows)
    return _section("Accuracy at every timestep", note, body)


def _bias_section(results: RunResults) -> str:
    sites = [site for site in results.sites if site.temporal_bias_rms]
    title = "Size of the temporal bias by layer and step"
    if not sites:
        return _section(title, "Calibration is switched off: the network has no temporal bias.", "")
    largest, step, name = max(
        (size, step, site.name) for site in sites for step, size in enumerate(site.temporal_bias_rms, 1)
    )
    alt = (
        f"Heat map of the temporal bias of {len(sites)} sites over {results.num_steps} steps. "
        f"The largest is {largest:.3g} thresholds, at {name}, step {step}."
    )
    note = "Root mean square over channels, in units of the threshold. Layers run from the input (top) to the output."
    return _section(title, note, _image(bias_figure(results), alt))


def _firing_rate_section(results: RunResults) -> str:
    rates = [site.firing_rate for site in results.sites if site.firing_rate is not None]
    if not rates:
        return ""
    alt = f"Bar chart of the firing rates of {len(rates)} sites, from {min(rates):.3f} to {max(rates):.3f}."
    note = "Mean number of spikes per neuron and step, layers from the input (top) to the output."
    return _section("Firing rate by layer", note, _image(firing_rate_figure(results), alt))


def _calibration_section(results: RunResults) -> str:
    if results.calibration is None:
        return ""
    names = {"images": "calibration images", "readout_weights": "weight of each step in the prediction at T"}
    facts = [(names.get(key, key.replace("_", " ")), _fact(key, value)) for key, value in results.calibration.items()]
    return _section("Calibration", "What it was and what it cost.", _table("Calibration", ["fact", "value"], facts))


def _sites_section(results: RunResults) -> str:
    if not results.sites:
        return ""
    columns = ["site", "kind", "operation", "origin", "shape", "threshold", "from", "folded", "firing rate"]
    columns += ["bias, RMS at t = 1", f"at t = {results.num_steps}"]
    rows = [_site_row(site) for site in results.sites]
    note = (
        "Shape of one step's input without the batch; threshold as minimum / mean / maximum over channels, and where "
        "it comes from; numbers of normalisation layers folded into the layers before the site."
    )
    summary = str(results.conversion.get("summary", ""))
    return _section(f"Sites ({len(rows)})", f"{summary} {note}".strip(), _table("Sites of the network", columns, rows))


def _site_row(site: SiteRecord) -> list[str]:
    threshold, bias = site.threshold, site.temporal_bias_rms
    spread = NOTHING
    if threshold is not None:
        values = [f"{value:.3g}" for value in (threshold.min, threshold.mean, threshold.max)]
        spread = values[0] if len(set(values)) == 1 else " / ".join(values)
    rate = NOTHING if site.firing_rate is None else f"{site.firing_rate:.3f}"
    ends = (f"{bias[0]:.3f}", f"{bias[-1]:.3f}") if bias else (NOTHING, NOTHING)
    origin = f"{site.origin}, {site.source}" if site.source else site.origin
    bound = "" if site.upper is None else f" \u2264 {site.upper:g}"
    shape, folded = TIMES.join(map(str, site.shape)), f"{site.folded:,}" if site.folded else NOTHING
    made = [site.operation or NOTHING, origin or NOTHING, shape, spread, site.threshold_from + bound or NOTHING, folded]
    return [site.name, site.kind, *made, rate, *ends]


def _settings_section(results: RunResults) -> str:
    parts = []
    if results.settings:
        settings = yaml.safe_dump(to_plain(results.settings), sort_keys=False, allow_unicode=True)
        parts.append(_preformatted("Settings, as YAML", settings))
    if results.versions:
        versions = "\n".join(f"{name} {version}" for name, version in results.versions.items())
        parts.append(_preformatted("Versions", versions))
    return _section("Settings", "", "".join(parts)) if parts else ""


def _section(title: str, note: str, body: str) -> str:
    paragraph = f'<p class="soft">{escape(note)}</p>\n' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{paragraph}{body}\n</section>"


def _table(label: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    # A scrolling region must be reachable by keyboard, hence the tabindex and the label.
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>\n"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">\n'
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>"
    )


def _preformatted(label: str, text: str) -> str:
    return f'<pre tabindex="0" role="region" aria-label="{escape(label)}">{escape(text)}</pre>'


def _fact(key: str, value: object) -> str:
    if key == "seconds" and isinstance(value, int | float):
        return f"{value:.2f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(f"{item:.3f}" for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(to_plain(value))


def _image(figure: Figure, alt: str) -> str:
    # As a data URI rather than inline: matplotlib's element ids would clash among several figures of one page.
    content = io.BytesIO()
    with rc_context({"svg.hashsalt": "ftbc_pl"}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(alt)}">\n'
