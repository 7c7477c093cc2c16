"""The schedule `accumulate` from the command line: its latency stands wherever its accuracy does."""

import csv
import json

import pytest
import torch

from ftbc_pl import calibrate_, choose_exit_, convert, diagnose, evaluate_exit, load_snn, measure_energy, save_snn
from ftbc_pl.cli import main
from ftbc_pl.export import ExportError, export_nir, export_onnx
from ftbc_pl.io.description import checksums
from ftbc_pl.reports import accuracy_table, read_results_json, report_html
from ftbc_pl.reports.tracking import curve_rows, summary_metrics
from tests.digits import classifier, digits
from tests.pipeline import QUICK, results
from tests.report_results import make_results

WAITS = "accumulate: the answer takes 8 timesteps"


def spiking(num_steps=4, schedule="accumulate"):
    snn = convert(classifier(8), num_steps, schedule=schedule, example=digits()[0][:2])
    calibrate_(snn, [digits()[0][:100]], progress=False)
    return snn


@pytest.mark.slow
@pytest.mark.usefixtures("own_folder")
def test_the_command_line_runs_on_digits(caplog):
    quick = [*QUICK, "--ftbc.schedule=accumulate"]
    main(["fit", *quick, "--ftbc.output_dir=out"])
    found = results("out")
    assert (found["schedule"], found["latency"], found["num_steps"]) == ("accumulate", 19 * 4, 4)
    assert [len(found["accuracy"][key]) for key in ("uncalibrated", "calibrated")] == [1, 1]
    printed = caplog.text
    assert "schedule accumulate: the answer takes 76 timesteps" in printed
    with open("out/report.html", encoding="utf-8") as file:
        assert "accumulate: the answer takes 76 timesteps" in file.read()
    main(["validate", *quick, "--snn_path=out", "--ftbc.output_dir=again"])
    assert results("again")["accuracy"] == found["accuracy"]
    main(["predict", *quick, "--snn_path=out", "--output=predictions.csv"])
    with open("predictions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["decided_at"] for row in rows} == {"4"}
    assert {"class", "class_T4"} <= rows[0].keys()
    assert "class_T1" not in rows[0]


def test_results_say_the_latency(tmp_path):
    one = {"accuracy_uncalibrated": [0.25], "accuracy_calibrated": [0.5], "sites": [], "latency": 8}
    found = make_results(4, schedule="accumulate", **one)
    table = accuracy_table(found, encoding="utf-8")
    assert table.splitlines()[0].split() == ["T", "latency", "uncalibrated", "calibrated", "ANN"]
    assert table.splitlines()[2].split()[:2] == ["4", "8"]
    assert WAITS in table
    with pytest.raises(ValueError, match=r"expected steps in 4\.\.4, got 2"):
        accuracy_table(found, [2])
    assert WAITS in report_html(found)
    assert [row["snn/T"] for row in curve_rows(found)] == [4]
    metrics = summary_metrics(found)
    assert metrics["snn/latency"] == 8
    assert metrics["snn/accuracy_T4"] == 0.5
    assert "snn/accuracy_T1" not in metrics
    (tmp_path / "results.json").write_text(json.dumps(found.to_json()))
    assert read_results_json(tmp_path / "results.json") == found
    with pytest.raises(ValueError, match="one number per step, 1, got 4"):
        make_results(4, schedule="accumulate", sites=[])


def test_streaming_results_are_as_they_were():
    found = make_results(4, latency=4)
    assert "accumulate" not in accuracy_table(found)
    assert "accumulate" not in report_html(found)
    assert summary_metrics(found)["snn/latency"] == 4
    assert "snn/latency" not in summary_metrics(make_results(4))  # files of before


def test_files_of_before_load_as_stream(tmp_path):
    snn = spiking(schedule="stream")
    save_snn(snn, tmp_path / "snn")
    description = json.loads((tmp_path / "snn.json").read_text())
    assert description["conversion"].pop("schedule") == "stream"
    description["checksums"] = checksums(description)
    (tmp_path / "snn.json").write_text(json.dumps(description))
    loaded = load_snn(tmp_path / "snn", ann=classifier(8))
    assert loaded.options.schedule == "stream"
    assert torch.equal(loaded(digits()[0][:8]), snn(digits()[0][:8]))
    description["conversion"]["schedule"] = "wave"
    description["checksums"] = checksums(description)
    (tmp_path / "snn.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="'stream' or 'accumulate'"):
        load_snn(tmp_path / "snn", ann=classifier(8))


def test_what_needs_every_step_is_refused(tmp_path):
    snn, (images, labels) = spiking(), digits()
    with pytest.raises(ValueError, match="Early exit needs the schedule 'stream'"):
        choose_exit_(snn, [images[:100]], 0.5, progress=False)
    with pytest.raises(ValueError, match="Early exit needs the schedule 'stream'"):
        evaluate_exit(snn, [(images[:100], labels[:100])], progress=False)
    for export in (export_nir, export_onnx):
        with pytest.raises(ExportError, match="schedule='stream'"):
            export(snn, tmp_path / "file")
    with pytest.raises(ValueError, match="schedule must be 'stream' or 'accumulate'"):
        spiking(schedule="wave")


def test_energy_counts_the_spikes_of_whole_trains():
    snn, images = spiking(), digits()[0][:20]
    cost = measure_energy(snn, [images], progress=False)
    for row, (_, site) in enumerate(snn.neurons()):
        fired = []
        handle = site.register_forward_hook(
            lambda site, _, out, fired=fired: fired.append((out.double() / site.quantum.view(1, 1, -1, 1, 1)).round())
        )
        snn(images)
        handle.remove()
        assert cost.site_spikes[row].tolist() == [float(fired[0].sum()) / 20]
    streaming = measure_energy(spiking(schedule="stream"), [images], progress=False)
    assert cost.sops.shape == (1,)
    assert cost.num_steps == 4
    assert cost.macs.tolist() == streaming.macs[-1:].tolist()
    assert cost.membrane_updates.tolist() == streaming.membrane_updates[-1:].tolist()
    assert str(cost).splitlines()[2].split()[0] == "4"
    # As many spikes in all, but for those that fire early: within a tenth.
    assert float(cost.spikes[0]) == pytest.approx(float(streaming.spikes[-1]), rel=0.1)


def test_diagnosis_compares_the_means():
    images = digits()[0]
    exact = convert(classifier(8), 8, schedule="accumulate", example=images[:2])
    found = diagnose(exact, [images[800:900]], progress=False)
    assert found.error.shape == (2, 1)
    assert found.error.max() < 1e-6
    coarse = diagnose(spiking(2), [images[800:900]], progress=False)
    assert (coarse.own_error > 0.05).all()
    assert "at T = 2" in str(coarse)
