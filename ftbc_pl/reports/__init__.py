"""Results of a run as data, page, table, figures and logged metrics."""

from ftbc_pl.reports.figures import accuracy_figure, bias_figure, firing_rate_figure
from ftbc_pl.reports.html import write_report_html
from ftbc_pl.reports.results import (
    RunResults,
    read_results_json,
    write_results_json,
)
from ftbc_pl.reports.terminal import accuracy_table
from ftbc_pl.reports.tracking import log_results

__all__ = [
    "RunResults",
    "accuracy_figure",
    "accuracy_table",
    "bias_figure",
    "firing_rate_figure",
    "log_results",
    "read_results_json",
    "write_report_html",
    "write_results_json",
]
