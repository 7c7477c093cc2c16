import json
from dataclasses import replace
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftbc_pl.reports import RunResults, read_results_json, write_results_json
from ftbc_pl.reports.results import to_plain
from ftbc_pl.sites import SiteRecord
from tests.report_results import CALIBRATION, make_results, make_uncalibrated_results


def test_results_json_holds_what_others_rely_on(tmp_path):
    path = write_results_json(make_results(2), tmp_path)
    content = json.loads(path.read_text())
    assert path == tmp_path / "results.json"
    assert content["ann"] == {"accuracy": 0.90625}
    assert content["num_steps"] == 2
    assert content["accuracy"] == {
        "uncalibrated": [0.25, 0.265625], "readout_only": None, "calibrated": [0.5, 0.515625],
    }  # fmt: skip
    assert content["calibration"] == CALIBRATION
    assert content["conversion"]["spiking"] == 3
    assert content["sites"][0]["source"] == "models/resnet.py:42"
    keys = {"ann", "num_steps", "split", "images", "accuracy", "calibration", "conversion", "sites", "settings"}
    own = {"versions", "links", "weights", "standard_error", "energy", "early_exit", "diagnosis", "schedule", "latency"}
    own |= {"calibrated_earlier"}
    assert content.keys() == keys | own


@pytest.mark.parametrize(
    "results",
    [
        make_results(),
        make_results(1, 1),
        make_uncalibrated_results(),
        make_results(2, accuracy_readout_only=[0.5, 1.0]),
    ],
)
def test_results_come_back_as_they_were_written(tmp_path, results):
    assert read_results_json(write_results_json(results, tmp_path)) == results


def test_standard_errors_are_those_of_the_binomial_distribution():
    results = make_results(
        2, images=100, ann_accuracy=0.9, accuracy_uncalibrated=[0.5, 0.0], accuracy_calibrated=[0.2, 1.0]
    )
    assert results.to_json()["standard_error"] == {
        "ann": pytest.approx(0.03),
        "uncalibrated": [0.05, 0.0],
        "calibrated": [pytest.approx(0.04), 0.0],
    }
    assert make_uncalibrated_results(1).to_json()["standard_error"].keys() == {"ann", "uncalibrated"}


def test_results_of_before_standard_errors_and_links_are_read():
    content = make_results(2).to_json()
    del content["standard_error"], content["links"]
    assert RunResults.from_json(content) == make_results(2)


def test_a_missing_key_is_named():
    content = make_results(2).to_json()
    del content["images"]
    with pytest.raises(ValueError, match="images"):
        RunResults.from_json(content)


def test_without_calibration_its_entries_are_null(tmp_path):
    content = make_uncalibrated_results(2).to_json()
    assert content["accuracy"] == {"uncalibrated": [0.25, 0.265625], "readout_only": None, "calibrated": None}
    assert content["calibration"] is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=64), st.floats(0, 1))
def test_any_accuracies_survive_to_the_bit(curve, ann):
    results = make_results(len(curve), ann_accuracy=ann, accuracy_uncalibrated=curve, accuracy_calibrated=curve[::-1])
    assert RunResults.from_json(json.loads(json.dumps(results.to_json()))) == results


def test_accuracy_final_is_the_calibrated_one_where_there_is_one():
    assert make_results(4).accuracy_final == 0.5 + 3 / 64
    assert make_uncalibrated_results(4).accuracy_final == 0.25 + 3 / 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps of at least 1, got 0"),
        ({"num_steps": 3}, "accuracy_uncalibrated to hold one number per step, 3, got 2"),
        ({"accuracy_calibrated": [0.5]}, "accuracy_calibrated to hold one number per step, 2, got 1"),
        ({"accuracy_calibrated": [0.5, 50.0]}, r"accuracy_calibrated in 0\.\.1, got 50\.0"),
        ({"accuracy_uncalibrated": [0.5, float("nan")]}, r"accuracy_uncalibrated in 0\.\.1, got nan"),
        ({"ann_accuracy": -0.1}, r"ann_accuracy in 0\.\.1, got -0\.1"),
        ({"split": "train"}, "validation, test, got 'train'"),
        ({"images": 0}, "at least one image"),
        ({"calibration": None}, "both given or both None"),
        ({"calibration": {"solver": "exact"}}, "granularity.*missing.*'seconds'"),
        (
            {"sites": [SiteRecord(name="a", kind="smooth")]},
            "site 'a' to be one of spiking, rate-exact, got 'smooth'",
        ),
        ({"sites": [SiteRecord(name="a", firing_rate=1.5)]}, "firing rate of site 'a'"),
        (
            {"sites": [SiteRecord(name="a", temporal_bias_rms=(0.1,))]},
            "site 'a' to hold one number per step",
        ),
        (
            {"sites": [SiteRecord(name="a", temporal_bias_rms=(0.1, -1))]},
            "site 'a' finite and >= 0",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    results = make_results(2)
    with pytest.raises(ValueError, match=message):
        replace(results, **changes)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"ann": {"accuracy": 1}}'])
def test_a_foreign_file_is_named(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"results\.json: "):
        read_results_json(path)


def test_settings_of_any_type_can_be_written():
    class Colour(Enum):
        RED = "red"

    settings = {1: (Path("a/b"), Colour.RED), "deep": {"infinite": float("inf"), "set": {2}, "no": None, "yes": True}}
    plain = to_plain(settings)
    assert plain == {
        "1": ["a/b", "red"],
        "deep": {"infinite": "inf", "set": [2], "no": None, "yes": True},
    }
    assert json.loads(json.dumps(make_results(settings=settings).to_json(), allow_nan=False))["settings"] == plain
