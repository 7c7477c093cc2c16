"""A calibrated network with fewer steps predicts what it did at these, to the bit; mean and readout follow."""

import pytest
import torch

from ftbc_pl import calibrate_, choose_exit_, convert, load_snn, measure_energy, save_snn
from ftbc_pl.simulation.shorten import reads_mean, shorten_, use_mean_readout_
from tests.networks import images, small_cnn


def calibrated(**options):
    batch = images(20)
    snn = convert(small_cnn().eval(), num_steps=6, batches=[batch])
    return snn, calibrate_(snn, [batch], progress=False, **options), batch


@pytest.mark.parametrize("options", [{}, {"weights": "ridge"}, {"readout": "mean"}], ids=["exact", "ridge", "mean"])
@pytest.mark.filterwarnings("ignore:.*ridge|.*images")
def test_the_first_steps_are_the_same_to_the_bit(options, tmp_path):
    snn, report, batch = calibrated(**options)
    whole = snn.readout(snn(batch))
    with snn.uncalibrated():
        plain = snn.readout(snn(batch))
    shorten_(snn, 4)
    assert snn.num_steps == snn.options.num_steps == 4
    assert torch.equal(snn.readout(snn(batch)), whole[:4])
    with snn.uncalibrated():
        assert torch.equal(snn.readout(snn(batch)), plain[:4])
    save_snn(snn, tmp_path / "snn", report=report.first_steps(4, snn.readout_weights[-1].tolist()))
    assert torch.equal(load_snn(tmp_path / "snn", ann=small_cnn()).eval()(batch), snn(batch))
    assert measure_energy(snn, [batch], progress=False).sops.shape == (4,)


@pytest.mark.parametrize("steps", [0, 7])
def test_other_steps_than_those_it_has_are_refused(steps):
    snn, _, _ = calibrated()
    with pytest.raises(ValueError, match=r"expected num_steps in 1\.\.6"):
        shorten_(snn, steps)


def test_an_assignment_that_would_change_nothing_is_refused():
    snn, _, _ = calibrated()
    with pytest.raises(AttributeError, match=r"num_steps is 6, and .*nothing: ftbc_pl\.shorten_\(snn, 4\) does it"):
        snn.num_steps = 4
    assert snn.num_steps == 6


def test_the_mean_is_that_of_the_outputs_and_takes_early_exit_back():
    snn, _, batch = calibrated()
    choose_exit_(snn, [batch], loss=0.5)
    outputs = snn(batch)
    assert not reads_mean(snn.readout_weights)
    use_mean_readout_(snn)
    assert reads_mean(snn.readout_weights)
    torch.testing.assert_close(snn.readout(outputs)[-1], outputs.mean(0))
    assert snn.exit_thresholds.isinf().all()
