"""Weights fitted to several batches, each together with those before."""

import warnings

import pytest

from ftbc_pl import calibrate_
from ftbc_pl.calibration import weights as fitting
from tests.calibration.test_ridge_calibration import CurrentsOfSites, converted, ridge, smooth_images

pytestmark = pytest.mark.filterwarnings("ignore:weights='ridge' fits")


def in_batches(snn, batch, size, **options):
    batches = batch.split(size)
    return calibrate_(snn, batches, num_batches=len(batches), weights="ridge", progress=False, **options)


@pytest.mark.parametrize("schedule", ["stream", "accumulate"])
def test_several_batches_are_fitted_together(schedule):
    batch = smooth_images(200).double()
    snns = [converted("plain", schedule=schedule).double() for _ in range(3)]
    ridge(snns[0], batch)
    report = in_batches(snns[1], batch, 50)
    ridge(snns[2], batch[150:])
    assert report.forward_passes == 4
    assert report.images == 200
    others = smooth_images(200, seed=9).double()
    whole, parts, last = ((snn.readout(snn(others))[-1] - snn.network(others)).norm().item() for snn in snns)
    assert parts < (whole + last) / 2


def test_biases_are_those_of_the_last_batch():
    batch = smooth_images(60).double()
    snn = converted("plain").double()
    in_batches(snn, batch, 20)
    lacking = {}
    for name, images_of in {"last": batch[40:], "first": batch[:20]}.items():
        visitor = CurrentsOfSites(4)
        snn.visit(images_of, visitor)
        snn.reset()
        z, currents = list(visitor.found.values())[-1]
        lacking[name] = (z - currents.mean(0)).mean((0, 2, 3)).abs().max().item()
    # Bias and constant give the mean currents of the batch that was seen last the mean of the ANN's.
    assert lacking["last"] < 1e-9 < lacking["first"]


@pytest.mark.filterwarnings("default")
def test_images_of_all_batches_count_for_the_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        in_batches(converted("plain"), smooth_images(60), 20)
    with pytest.warns(UserWarning, match="fits weights to 40 calibration images"):
        in_batches(converted("plain"), smooth_images(40), 20)


def test_sums_are_kept_for_batches_to_come_only():
    fits = []
    make = fitting.WeightFit.__init__

    def made(self, *args, **kwargs):
        fits.append(self)
        make(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting.WeightFit, "__init__", made)
        in_batches(converted("residual"), smooth_images(60), 20)
    assert [fit.seen for fit in fits] == [20, 40, 60]
    assert not fits[-1].sums
