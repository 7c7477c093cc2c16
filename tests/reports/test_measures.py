"""Energy, early exit and diagnosis reach results.json, the page, the terminal and the logs."""

from dataclasses import replace

import pytest

from ftbc_pl import calibrate_, choose_exit_, convert, diagnose, evaluate, evaluate_exit, measure_energy
from ftbc_pl.evaluation import Accuracies
from ftbc_pl.reports import accuracy_table, read_results_json, report_html, write_results_json
from ftbc_pl.reports.collect import collect_results
from ftbc_pl.reports.figures import energy_figure, error_figure
from ftbc_pl.reports.tracking import SUMMARY_KEYS, curve_rows, summary_metrics
from tests.digits import classifier, digits
from tests.report_results import make_results

STEPS = 4


@pytest.fixture(scope="module")
def measured():
    batch, labels = digits()
    loader = [(batch[800:1200], labels[800:1200])]
    snn = convert(classifier(), STEPS, batches=[batch[:100]])
    report = calibrate_(snn, [batch[:100]], progress=False)
    choose_exit_(snn, loader, loss=0.02, progress=False)
    accuracy = evaluate(snn, loader, progress=False).tolist()
    with snn.uncalibrated():
        before = measure_energy(snn, loader, progress=False)
    return collect_results(
        snn, Accuracies(1.0, accuracy, accuracy, 400), report, "test", {},
        energy=measure_energy(snn, loader, progress=False), energy_uncalibrated=before,
        early_exit=evaluate_exit(snn, loader, progress=False),
        diagnosis=diagnose(snn, loader, progress=False),
    )  # fmt: skip


def test_results_json_holds_them_and_gives_them_back(measured, tmp_path):
    assert read_results_json(write_results_json(measured, tmp_path)) == measured
    assert len(measured.energy["sops"]) == STEPS
    assert sum(measured.early_exit["images_by_step"]) == 400
    assert len(measured.diagnosis["sites"]) == 2


def test_the_terminal_has_two_lines_of_energy_one_of_early_exit_and_the_advice(measured):
    lines = accuracy_table(measured, encoding="utf-8").splitlines()
    plain = accuracy_table(make_results(STEPS), encoding="utf-8").splitlines()
    assert len(lines) == len(plain) + 2 + 1 + 2
    assert "synaptic operations" in lines[-6]
    assert "(45nm)" in lines[-5]
    assert "(neuromorphic)" in lines[-5]
    assert f"({measured.energy['uncalibrated']['sops'][-1]:,.0f} without calibration)" in lines[-6]
    assert lines[-4].startswith("Early exit")
    assert f"{100 * measured.early_exit['ratio']['45nm']:.1f} % of the ANN's energy (45nm)" in lines[-4]
    assert lines[-1].startswith("Accuracy on")


def test_the_page_shows_them(measured):
    page = report_html(measured)
    for text in (
        "Horowitz",
        "Memory traffic is not counted",
        "Early exit",
        "Where the accuracy is lost",
        "energy / ANN",
        f"{measured.early_exit['mean_steps']:.2f} (early exit)",
        "Spikes and synaptic operations by site and step",
        "without calibration",
    ):
        assert text in page
    without = report_html(make_results(STEPS))
    assert "Horowitz" not in without
    assert "Early exit" not in without
    assert "Where the accuracy is lost" not in without


def test_the_logs_have_a_curve_and_flat_keys(measured):
    rows, summary = curve_rows(measured), summary_metrics(measured)
    ratio = measured.energy["conventions"]["45nm"]["ratio"]
    assert [row["snn/energy_ratio"] for row in rows] == ratio
    assert [row["snn/sops"] for row in rows] == measured.energy["sops"]
    assert [row["snn/sops_uncalibrated"] for row in rows] == measured.energy["uncalibrated"]["sops"]
    before = measured.energy["uncalibrated"]["ratio"]["45nm"]
    assert [row["snn/energy_ratio_uncalibrated"] for row in rows] == before
    assert summary["snn/energy_ratio_T4"] == summary["snn/energy_ratio_final"] == ratio[3]
    assert summary["snn/exit_energy_ratio"] == measured.early_exit["ratio"]["45nm"] <= ratio[3]
    assert summary["snn/sops_T1"] == measured.energy["sops"][0]
    assert summary["snn/exit_mean_steps"] == measured.early_exit["mean_steps"]
    assert "snn/energy_ratio" not in curve_rows(make_results(STEPS))[0]
    with_latency = replace(measured, latency=8, accuracy_readout_only=measured.accuracy_calibrated)
    assert all(SUMMARY_KEYS.fullmatch(key) for key in summary | summary_metrics(with_latency))  # a sweep takes them


def test_what_was_not_measured_can_not_be_drawn():
    for draw in (energy_figure, error_figure):
        with pytest.raises(ValueError, match="got none"):
            draw(make_results(STEPS))
