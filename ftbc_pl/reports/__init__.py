"""Results of a run as data, page, table, figures and logged metrics."""

from ftbc_pl.reports.figures import accuracy_figure, bias_figure, firing_rate_figure
from ftbc_pl.reports.html import report_html, write_report_html
from ftbc_pl.reports.panels import PANELS
from ftbc_pl.reports.parts import Drawing, Listing, Panel, Table
from ftbc_pl.reports.results import (
    RunResults,
    read_results_json,
    write_results_json,
)
from ftbc_pl.reports.terminal import accuracy_table, site_table
from ftbc_pl.reports.tracking import log_results, logger_links
from ftbc_pl.reports.write import write_report

__all__ = [
    "PANELS",
    "Drawing",
    "Listing",
    "Panel",
    "RunResults",
    "Table",
    "accuracy_figure",
    "accuracy_table",
    "bias_figure",
    "firing_rate_figure",
    "log_results",
    "logger_links",
    "read_results_json",
    "report_html",
    "site_table",
    "write_report",
    "write_report_html",
    "write_results_json",
]
