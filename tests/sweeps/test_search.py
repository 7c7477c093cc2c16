"""Points of random and Bayesian sweeps: within their bounds, and the same after a stop."""

import math

import pytest

from ftbc_pl.sweeps import read_sweep
from ftbc_pl.sweeps.search import next_point
from tests.sweeps.test_file import written

PARAMETERS = {
    "log": {"distribution": "log_uniform_values", "min": 0.01, "max": 1.0},
    "exponent": {"distribution": "log_uniform", "min": -2.0, "max": 0.0},
    "float": {"min": 0.0, "max": 2.0},
    "whole": {"min": 1, "max": 9},
    "step": {"distribution": "q_uniform", "min": 0, "max": 10, "q": 5},
    "choice": {"values": ["mse", 99.9, [1, 2], True]},
    "same": {"value": 3},
}


def points(sweep, number, value=lambda point: 0.0):
    found, values = [], []
    for _ in range(number):
        found.append(next_point(sweep, found, values))
        values.append(value(found[-1]))
    return found


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_points_lie_within_the_bounds(tmp_path, method):
    sweep = read_sweep(written(tmp_path, method=method, parameters=PARAMETERS))
    for point in points(sweep, 12):
        assert point.keys() == PARAMETERS.keys() - {"same"}
        assert 0.01 <= point["log"] <= 1.0
        assert math.exp(-2) <= point["exponent"] <= 1.0
        assert 0 <= point["float"] <= 2
        assert point["whole"] in range(1, 10)
        assert point["step"] in (0, 5, 10)
        assert point["choice"] in PARAMETERS["choice"]["values"]


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_sweep_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, method):
    sweep = read_sweep(written(tmp_path, method=method, parameters=PARAMETERS))
    whole = points(sweep, 6)
    assert next_point(sweep, whole[:5], [0.0] * 5) == whole[5]
    assert len({point["float"] for point in whole}) == 6


@pytest.mark.parametrize(("goal", "best"), [("maximize", 2.0), ("minimize", 0.0)])
def test_bayes_nears_the_best_point(tmp_path, goal, best):
    parameters = {"float": PARAMETERS["float"]}
    sweep = read_sweep(
        written(tmp_path, method="bayes", parameters=parameters, metric={"name": "ann/accuracy", "goal": goal})
    )
    found = points(sweep, 30, lambda point: point["float"])
    assert sum(abs(point["float"] - best) < 0.4 for point in found[20:]) >= 6  # of 10, by chance 2


def test_failed_runs_count_as_points_without_a_value(tmp_path):
    sweep = read_sweep(written(tmp_path, method="bayes", parameters=PARAMETERS))
    first = next_point(sweep, [], [])
    assert next_point(sweep, [first], [None]) != first
