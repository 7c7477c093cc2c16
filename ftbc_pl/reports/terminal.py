"""The tables that a run prints: accuracies when it ends, and its sites."""

from collections.abc import Sequence

from ftbc_pl.reports.results import RunResults
from ftbc_pl.reports.sites import site_cells
from ftbc_pl.reports.wording import closing_lines, curve_name, percent, summary_line, table_steps
from ftbc_pl.tables import text_table

__all__ = ["accuracy_table", "site_table", "summary_line", "table_steps"]

# Columns of the table of sites that a terminal has room for.
_SITE_COLUMNS = ("site", "kind", "operation", "shape", "threshold", "from", "folded", "firing rate")
_TEXT_COLUMNS = ("site", "kind", "operation", "shape", "from")


def accuracy_table(results: RunResults, steps: Sequence[int] | None = None, encoding: str | None = None) -> str:
    """Accuracy in percent ± standard error at selected steps, and lines that sum the run up.

    Args:
        results: What the run measured.
        steps: The steps to show, each in 1..T; the powers of two and T unless given.
        encoding: Encoding that the text must fit into; that of the process's output unless given.

    Raises:
        ValueError: a step is not in 1..T, or not T where there is no other.
    """
    known = results.steps
    steps = [step for step in table_steps(results.num_steps) if step in known] if steps is None else list(steps)
    outside = [step for step in steps if step not in known]
    if outside:
        raise ValueError(f"expected steps in {known[0]}..{known[-1]}, got {outside[0]}")
    columns = {"T": [str(step) for step in steps]}
    if results.schedule == "accumulate":
        columns["latency"] = [str(results.latency)]
    for key, accuracies in results.curves.items():
        columns[curve_name(key)] = [percent(accuracies[known.index(step)], results) for step in steps]
    columns["ANN"] = [percent(results.ann_accuracy, results)] * len(steps)
    last = "\n".join([*closing_lines(results), summary_line(results)])
    return text_table(columns, zip(*columns.values(), strict=True), last=last, encoding=encoding)


def site_table(results: RunResults, encoding: str | None = None) -> str:
    """One line per site: kind, operation, shape, threshold and firing rate, and one line of totals.

    Args:
        results: What the run measured.
        encoding: Encoding that the text must fit into; that of the process's output unless given.
    """
    rows = [[cells[column] for column in _SITE_COLUMNS] for cells in map(site_cells, results.sites)]
    last = str(results.conversion.get("summary", ""))
    return text_table(_SITE_COLUMNS, rows, left=_TEXT_COLUMNS, last=last, encoding=encoding)
