"""Calibration by the schedule `accumulate`: each solver's rule on the sum of the currents, against naive ones."""

import math

import pytest
import torch
from torch import nn

from ftbc_pl import calibrate_, convert, evaluate, load_snn, save_snn
from ftbc_pl.calibration import CalibrationReport
from ftbc_pl.io import load_calibration
from tests.digits import classifier, digits
from tests.networks import images, small_cnn

STEPS, ROWS, CHANNELS = 4, 60, 3


def one_site(**options):
    """A network whose only site sees images as they are."""
    ann = nn.Sequential(nn.ReLU(), nn.Linear(CHANNELS, 2)).double()
    snn = convert(ann, STEPS, schedule="accumulate", example=batch(), measure=False, **options).double()
    ((_, site),) = snn.neurons()
    site.threshold.copy_(torch.tensor([0.8, 1.0, 1.3]))
    return snn, site


def batch():
    return torch.randn(ROWS, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def fired(x, threshold, bias, v0=0.5):
    """Mean output of one neuron by the formula."""
    count = min(max(math.floor(STEPS * (x + bias) / threshold + v0), 0), STEPS)
    return threshold * count / STEPS


def outputs(site, bias):
    """Mean outputs (B, C) of all neurons, one after the other."""
    return torch.tensor(
        [
            [fired(x, theta, b) for x, theta, b in zip(row, site.threshold.tolist(), bias.tolist(), strict=True)]
            for row in batch().tolist()
        ],
        dtype=torch.float64,
    )


def test_exact_meets_the_mean_to_one_spike():
    snn, site = one_site()
    calibrate_(snn, [batch()], progress=False)
    missing = (outputs(site, site.temporal_bias[0]) - batch().relu()).mean(0)
    assert (missing.abs() <= site.threshold / (2 * STEPS * ROWS) + 1e-12).all()
    assert (outputs(site, 0 * site.threshold) - batch().relu()).mean(0).abs().max() > 0.01


def test_exact_meets_the_mean_of_a_layer():
    snn, site = one_site()
    calibrate_(snn, [batch()], granularity="layer", progress=False)
    assert (site.temporal_bias == site.temporal_bias[0, 0]).all()
    missing = ((outputs(site, site.temporal_bias[0]) - batch().relu()) / site.threshold).sum()
    assert missing.abs() <= 1 / (2 * STEPS) + 1e-12


def test_heuristic_takes_steps_against_the_error_of_the_mean():
    snn, site = one_site()
    calibrate_(snn, [batch()], solver="heuristic", alpha=0.5, passes=2, progress=False)
    expected = torch.zeros(CHANNELS, dtype=torch.float64)
    for _ in range(2):
        expected = expected - 0.5 * (outputs(site, expected) - batch().relu()).mean(0)
    torch.testing.assert_close(site.temporal_bias[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("granularity", ["channel", "layer"])
def test_balanced_is_the_best_of_all_candidates(granularity):
    snn, site = one_site()
    calibrate_(snn, [batch()], solver="balanced", mean_weight=2.0, granularity=granularity, progress=False)
    unit = (site.threshold.max().expand(CHANNELS) if granularity == "layer" else site.threshold) / STEPS

    def losses(bias):
        error = batch().relu() - outputs(site, bias)
        error = error.reshape(-1, 1) if granularity == "layer" else error
        return error.square().sum(0) + 2.0 * len(error) * error.mean(0).square()

    best = torch.stack([losses(unit * k / 256) for k in range(-256, 513)]).amin(0)
    # Errors are summed as whole numbers of θ/T/65536.
    torch.testing.assert_close(losses(site.temporal_bias[0]), best, rtol=1e-4, atol=0)
    assert (losses(0 * unit) > best).any()


def test_batches_are_averaged_and_dead_channels_counted():
    snn, site = one_site()
    silent = batch()
    silent[:, 1] = -silent[:, 1].abs()
    found = []
    for part in (silent[:30], silent[30:]):
        calibrate_(snn, [part], progress=False)
        found.append(site.temporal_bias.clone())
    report = calibrate_(snn, [silent[:30], silent[30:]], num_batches=2, progress=False)
    torch.testing.assert_close(site.temporal_bias, (found[0] + found[1]) / 2)
    assert report.dead_channels == 1


def test_both_readouts_are_the_mean():
    for readout in ("mean", "least_squares"):
        snn = convert(classifier(8), 4, schedule="accumulate", example=digits()[0][:2])
        report = calibrate_(snn, [digits()[0][:100]], readout=readout, progress=False)
        assert snn.readout_weights.tolist() == [[1.0]]
        assert report.readout_weights == (1.0,)
        logits = snn(digits()[0][:8])
        assert torch.equal(snn.readout(logits), logits)


def test_report_counts_spikes_and_says_the_latency(tmp_path):
    images_, _ = digits()
    snn = convert(classifier(), 4, schedule="accumulate", batches=[images_[:100]])
    report = calibrate_(snn, [images_[:100]], progress=False)
    assert report.latency == 8
    assert "accumulate: the answer takes 8 timesteps" in str(report)
    assert CalibrationReport.from_dict(report.to_dict()) == report
    first, counts = report.sites[0], []
    snn.sites[0].register_forward_hook(lambda site, _, out: counts.append(out / site.quantum.view(1, 1, -1, 1, 1)))
    snn(images_[:100])
    assert first.firing_rate == pytest.approx(float(counts[0].double().round().mean()) / 4, abs=1e-12)
    assert len(first.temporal_bias_rms) == 1
    save_snn(snn, tmp_path / "snn", report=report)
    loaded = load_snn(tmp_path / "snn", ann=classifier())
    assert torch.equal(loaded(images_[:50]), snn(images_[:50]))
    assert load_calibration(tmp_path / "snn") == report
    streaming = calibrate_(convert(classifier(4), 4, example=images_[:2]), [images_[:50]], progress=False)
    assert "latency" not in streaming.to_dict()


@pytest.mark.parametrize("solver", ["exact", "balanced", "heuristic"])
def test_calibration_leaves_what_is_exact(solver):
    images_, _ = digits()
    ann = classifier(4)
    snn = convert(ann, 4, schedule="accumulate", example=images_[:2])
    calibrate_(snn, [images_[:100]], solver=solver, progress=False)
    torch.testing.assert_close(snn(images_[100:200])[0], ann(images_[100:200]), rtol=0, atol=1e-5)


def test_fitted_weights_are_those_of_the_mean_current(tmp_path):
    images_, _ = digits()
    ann = classifier()
    before = [parameter.clone() for parameter in ann.parameters()]
    snn = convert(ann, 2, schedule="accumulate", batches=[images_[:200]])
    report = calibrate_(snn, [images_[:200]], weights="ridge", progress=False)
    assert any(one.change for one in report.weights)
    assert all(one.left <= 1 for one in report.weights)
    assert all(torch.equal(a, b) for a, b in zip(before, snn.network.parameters(), strict=True))
    save_snn(snn, tmp_path / "snn", report=report)
    assert torch.equal(load_snn(tmp_path / "snn", ann=ann)(images_[:50]), snn(images_[:50]))


def test_calibration_helps_where_there_are_few_steps():
    images_, labels = digits()
    test = [(images_[1000:], labels[1000:])]
    snn = convert(classifier(), 2, schedule="accumulate", batches=[images_[:200]], v0=0.0)
    before = evaluate(snn, test, progress=False)
    assert before.shape == (1,)
    calibrate_(snn, [images_[:200]], progress=False)
    assert evaluate(snn, test, progress=False) > before


def test_an_error_leaves_the_network_as_it_was():
    snn = convert(small_cnn(), 4, schedule="accumulate", batches=[images()])
    calibrate_(snn, [images()], progress=False)
    kept = {name: values.clone() for name, values in snn.state_dict().items()}
    broken = images()
    broken[0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        calibrate_(snn, [broken], progress=False)
    assert all(torch.equal(values, kept[name]) for name, values in snn.state_dict().items())
