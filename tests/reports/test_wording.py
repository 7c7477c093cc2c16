import pytest

from ftbc_pl.reports.results import RunResults
from ftbc_pl.reports.wording import facts, summary_line
from tests.report_results import SETTINGS, make_results, make_uncalibrated_results


@pytest.mark.parametrize(
    "settings", [{}, {"model": None, "data": "DigitsData", "ftbc": 3}, {"data": {"class_path": None}}]
)
def test_settings_of_any_shape_are_borne(settings):
    assert (
        facts(make_results(2, settings=settings)).items() >= {"images": "1,000 test images", "solver": "exact"}.items()
    )


def test_a_network_that_was_only_measured_was_calibrated_earlier():
    made, measured = make_results(2), make_results(2, calibrated_earlier=True)
    assert ", calibrated (exact) with " in summary_line(made)
    assert ", calibrated earlier (exact) with " in summary_line(measured)
    assert summary_line(RunResults.from_json(measured.to_json())) == summary_line(measured)


def test_what_is_not_known_is_left_out():
    assert facts(make_results(2, settings={})).keys() == {"images", "solver"}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"class_path": "ftbc_pl.data.DigitsData", "init_args": {"batch_size": 64}}, "DigitsData"),
        ({"class_path": "ImageData", "init_args": {"root": "/sets/flowers", "name": "folder"}}, "ImageData (flowers)"),
        ({"class_path": "ImageData", "init_args": {"root": "/sets", "name": "hfds/mnist"}}, "ImageData (hfds/mnist)"),
        ("DigitsData", "DigitsData"),
    ],
)
def test_the_data_are_named_by_module_and_set(data, text):
    assert facts(make_results(2, settings={"data": data}))["data"] == text


def test_the_activations_are_those_that_the_conversion_found():
    conversion = {"operations": {"spiking": {"relu": 17, "relu6": 1}, "rate-exact": {"max_pool2d": 1}}}
    assert facts(make_results(2, settings=SETTINGS, conversion=conversion))["activation"] == "relu, relu6"
    conversion = {"operations": {"spiking": {"qcfs": 19}}}
    assert facts(make_results(2, settings=SETTINGS, conversion=conversion))["activation"] == "qcfs, L = 4"


def test_without_a_calibration_neither_solver_nor_its_readout_is_claimed():
    known = facts(make_uncalibrated_results(2)) | facts(make_results(2, calibration=None, accuracy_calibrated=None))
    assert known["solver"] == "not calibrated"
    assert known["readout"] == "mean"


@pytest.mark.parametrize(("weights", "readout"), [([0.5, 0.5], "mean"), ([0.25, 0.75], "weighted")])
def test_the_readout_of_a_saved_network_is_not_taken_from_the_settings(weights, readout):
    calibration = make_results(2).calibration | {"readout_weights": weights}
    known = facts(make_results(2, settings=SETTINGS | {"snn_path": "runs/a"}, calibration=calibration))
    assert known["readout"] == readout
    assert known["saved network"] == "runs/a"
