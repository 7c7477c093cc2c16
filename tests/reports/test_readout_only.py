"""The network without bias but with a fitted readout: a column of its own wherever the accuracies are shown."""

from lightning.pytorch.loggers import CSVLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ftbc_pl.reports import accuracy_figure, accuracy_table, log_results
from ftbc_pl.reports.panels import accuracy_panel, key_figures
from ftbc_pl.reports.tracking import curve_rows, summary_metrics
from tests.report_results import SETTINGS, make_results

RESULTS = make_results(2, accuracy_readout_only=[0.375, 0.4375], settings=SETTINGS)


def test_the_terminal_has_it_between_the_two_others():
    assert accuracy_table(RESULTS, encoding="utf-8").splitlines()[:3] == [
        "T  uncalibrated  readout only    calibrated           ANN",
        "- ------------- ------------- ------------- -------------",
        "1  25.0 ± 1.4 %  37.5 ± 1.5 %  50.0 ± 1.6 %  90.6 ± 0.9 %",
    ]


def test_the_page_has_column_figure_and_what_it_is():
    panel = accuracy_panel(RESULTS)
    assert panel.tables[0].columns == ["t", "uncalibrated", "readout only", "calibrated", "gain", "ANN"]
    assert "Readout only: no temporal bias" in panel.note
    assert ("43.8 ± 1.6 %", "SNN at T = 2, readout only") in key_figures(RESULTS)
    assert "Readout only" not in accuracy_panel(make_results(2)).note


def test_the_figure_has_a_curve_for_each():
    labels = [line.get_label() for line in accuracy_figure(RESULTS).axes[0].get_lines()]
    assert labels == [
        "ANN (qcfs, L = 4)",
        "SNN, uncalibrated (readout mean)",
        "SNN, readout only (readout least_squares)",
        "SNN, calibrated (exact, readout least_squares)",
    ]


def test_the_legend_lies_within_the_figure():
    figure = accuracy_figure(RESULTS)
    FigureCanvasAgg(figure).draw()
    assert figure.axes[0].get_legend().get_window_extent().x1 <= figure.bbox.x1
    assert figure.axes[0].get_window_extent().width > 0.8 * figure.bbox.width


def test_the_loggers_get_it_by_its_own_key(tmp_path):
    assert [row["snn/accuracy_readout_only"] for row in curve_rows(RESULTS)] == [0.375, 0.4375]
    assert summary_metrics(RESULTS)["snn/accuracy_readout_only_T2"] == 0.4375
    logger = CSVLogger(str(tmp_path))
    log_results([logger], RESULTS, tmp_path)
    header = next(tmp_path.rglob("metrics.csv")).read_text().splitlines()[0].split(",")
    assert "snn/accuracy_readout_only" in header
