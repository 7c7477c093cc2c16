"""Report, the ANN's accuracy and firing rates from Python are those of the command line."""

import pytest
import torch

from ftbc_pl import (
    calibrate_,
    convert,
    evaluate,
    evaluate_ann,
    evaluate_beside_ann,
    measure_firing_rates,
    write_report,
)
from ftbc_pl.reports import read_results_json
from tests.networks import images, small_cnn


def snn_and_data():
    batch = images(20)
    ann = small_cnn()
    labels = ann(batch).argmax(1)
    labels[:5] = (labels[:5] + 1) % 10
    return convert(ann, num_steps=3, batches=[batch]), [(batch[:12], labels[:12]), (batch[12:], labels[12:])]


def test_accuracies_beside_the_ann_are_those_measured_one_by_one():
    snn, data = snn_and_data()
    calibrate_(snn, data, progress=False)
    found = evaluate_beside_ann(snn, data, progress=False)
    assert found.ann == evaluate_ann(snn, data, progress=False) == 0.75
    assert found.calibrated == evaluate(snn, data, progress=False).tolist()
    with snn.uncalibrated():
        assert found.uncalibrated == evaluate(snn, data, progress=False).tolist()


def test_an_empty_loader_is_said():
    snn, _ = snn_and_data()
    with pytest.raises(ValueError, match="nothing to evaluate: the loader is empty"):
        evaluate_ann(snn, [], progress=False)


def test_firing_rates_are_spikes_per_neuron_and_step():
    snn, data = snn_and_data()
    rates = measure_firing_rates(snn, data, progress=False)
    spikes = []
    first = next(site for _, site in snn.neurons())
    first.register_forward_hook(lambda site, args, out: spikes.append(out / site.theta(out.ndim - 1, out.dtype)))
    snn.time_chunk = 3
    for batch, _ in data:
        snn(batch)
    expected = torch.cat(spikes, 1).double().flatten(1).mean(1)
    assert list(rates) == [call.name for call, _ in snn.neurons()]
    torch.testing.assert_close(next(iter(rates.values())), expected)


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_report_is_written(calibrated, tmp_path):
    snn, data = snn_and_data()
    report = calibrate_(snn, data, progress=False) if calibrated else None
    accuracies = evaluate_beside_ann(snn, data, calibrated=calibrated, progress=False)
    page = write_report(tmp_path / "new", snn, accuracies, calibration=report, split="test", settings={"seed": 7})
    assert page == tmp_path / "new" / "report.html"
    assert "SNN at T = 3" in page.read_text()
    results = read_results_json(tmp_path / "new" / "results.json")
    assert (results.ann_accuracy, results.split, results.settings) == (0.75, "test", {"seed": 7})
    assert results.accuracy_calibrated == accuracies.calibrated


def test_a_report_of_a_calibration_needs_its_record(tmp_path):
    snn, data = snn_and_data()
    calibrate_(snn, data, progress=False)
    with pytest.raises(ValueError, match="accuracy_calibrated and calibration both given or both None"):
        write_report(tmp_path / "new", snn, evaluate_beside_ann(snn, data, progress=False))
    assert not (tmp_path / "new").exists()
