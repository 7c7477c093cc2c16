"""report.html: one self-contained page about a run, readable without a network connection."""

import base64
import io
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from matplotlib import rc_context
from matplotlib.figure import Figure

from ftbc_pl.files import write_text_atomic
from ftbc_pl.reports.panels import PANELS, key_figures
from ftbc_pl.reports.results import RESULTS_FILE, RunResults
from ftbc_pl.reports.wording import facts, summary_line

REPORT_FILE = "report.html"
TEMPLATE = "report.html.j2"
# What a run leaves beside its report, in the order in which the page links to it.
NEIGHBOURS = (RESULTS_FILE, "config.yaml", "snn.json", "snn.safetensors")


def write_report_html(results: RunResults, folder: str | os.PathLike[str]) -> Path:
    """Write report.html into `folder`, with links to the files that are there already, and return its path."""
    path = Path(folder) / REPORT_FILE
    files = [name for name in NEIGHBOURS if (path.parent / name).is_file()]
    write_text_atomic(path, report_html(results, files))
    return path


def report_html(results: RunResults, files: Sequence[str] = ()) -> str:
    """The page as text: figures are embedded, every text from outside is escaped.

    Args:
        results: What the run measured.
        files: Names of files beside the page, to link to.
    """
    return _template().render(
        summary=summary_line(results),
        facts=facts(results),
        key_figures=key_figures(results),
        panels=[panel for panel in (make(results) for make in PANELS) if panel is not None],
        links={name: name for name in files} | {f"logs: {name}": place for name, place in results.links.items()},
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("ftbc_pl", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"data_uri": _data_uri, "href": _href}
    return environment.get_template(TEMPLATE)


def _data_uri(figure: Figure) -> str:
    # As a data URI rather than inline: matplotlib's element ids would clash among several figures of one page.
    content = io.BytesIO()
    with rc_context({"svg.hashsalt": "ftbc_pl"}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"


def _href(place: str) -> str:
    """Where a link goes: a web address as it is; all else is a path, in which a colon makes no `javascript:`."""
    return place if place.startswith(("http://", "https://")) else quote(place)
