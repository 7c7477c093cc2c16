"""The tables that a run prints: accuracies when it ends, and its sites."""

import codecs
import io
import sys
from collections.abc import Iterable, Sequence

from rich.box import Box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from ftbc_pl.reports.results import RunResults
from ftbc_pl.reports.sites import site_cells
from ftbc_pl.reports.wording import percent, summary_line, table_steps

__all__ = ["accuracy_table", "site_table", "summary_line", "table_steps"]

# A line of dashes below the titles, blanks between columns: nothing that an encoding could lack.
_BOX = Box("    \n    \n -  \n    \n    \n    \n    \n    \n", ascii=True)
_ASCII = str.maketrans({"±": "+/-", "×": "x", "≤": "<=", "–": "-", "…": "..."})
_WIDTH = 100_000  # wider than any table, so that nothing is cut
# Columns of the table of sites that a terminal has room for.
_SITE_COLUMNS = ("site", "kind", "operation", "shape", "threshold", "from", "folded", "firing rate")
_TEXT_COLUMNS = ("site", "kind", "operation", "shape", "from")


def accuracy_table(results: RunResults, steps: Sequence[int] | None = None, encoding: str | None = None) -> str:
    """Accuracy in percent ± standard error at selected steps, and one line that sums the run up.

    Args:
        results: What the run measured.
        steps: The steps to show, each in 1..T; the powers of two and T unless given.
        encoding: Encoding that the text must fit into; that of the process's output unless given.

    Raises:
        ValueError: a step is not in 1..T.
    """
    steps = table_steps(results.num_steps) if steps is None else list(steps)
    outside = [step for step in steps if not 1 <= step <= results.num_steps]
    if outside:
        raise ValueError(f"expected steps in 1..{results.num_steps}, got {outside[0]}")
    columns = {"T": [str(step) for step in steps]}
    for key, accuracies in results.curves.items():
        columns[key] = [percent(accuracies[step - 1], results) for step in steps]
    columns["ANN"] = [percent(results.ann_accuracy, results)] * len(steps)
    return _render(columns, zip(*columns.values(), strict=True), summary_line(results), encoding)


def site_table(results: RunResults, encoding: str | None = None) -> str:
    """One line per site: kind, operation, shape, threshold and firing rate, and one line of totals.

    Args:
        results: What the run measured.
        encoding: Encoding that the text must fit into; that of the process's output unless given.
    """
    rows = [[cells[column] for column in _SITE_COLUMNS] for cells in map(site_cells, results.sites)]
    return _render(_SITE_COLUMNS, rows, str(results.conversion.get("summary", "")), encoding)


def _render(titles: Iterable[str], rows: Iterable[Sequence[str]], last: str, encoding: str | None) -> str:
    """A table as text, of the width that it needs, whatever the terminal's: logs and tests read it too."""
    plain = not _is_unicode(encoding)
    table = Table(box=_BOX, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    for name in titles:
        justify: JustifyMethod = "left" if name in _TEXT_COLUMNS else "right"
        table.add_column(_cell(name, plain), justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(text, plain) for text in row))
    text = io.StringIO()
    Console(file=text, width=_WIDTH, color_system=None, force_jupyter=False).print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join([*lines, "", _cell(last, plain).plain]).rstrip()


def _cell(text: str, plain: bool) -> Text:
    """A `Text`, so that a name in brackets is not read as markup; in ASCII characters only if it is to be `plain`."""
    text = text.replace("\u00a0", " ")  # nothing breaks lines here, and who searches a log types a blank
    return Text(text.translate(_ASCII).encode("ascii", "backslashreplace").decode() if plain else text)


def _is_unicode(encoding: str | None) -> bool:
    """Whether an encoding, that of the process's output unless given, has every character."""
    # Logging writes to stderr, `print` to stdout; either is None where a process has no console.
    streams = (sys.stdout, sys.stderr) if encoding is None else ()
    names = [encoding] if encoding else [getattr(stream, "encoding", None) or "utf-8" for stream in streams]
    return all(codecs.lookup(name).name.startswith("utf-") for name in names)
