"""What a sweep file may say, and what is said where it can't be followed."""

import pytest
import yaml

from ftbc_pl.sweeps import read_sweep

SWEEP = {
    "method": "grid",
    "metric": {"name": "snn/accuracy_T2", "goal": "maximize"},
    "parameters": {
        "ftbc.alpha": {"values": [0.1, 0.5]},
        "ftbc.passes": {"min": 1, "max": 3},
        "ftbc.solver": {"value": "x"},
    },
    "command": ["${interpreter}", "-m", "ftbc_pl", "${args}"],
}


def written(tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, **changes}))
    return path


def test_a_grid_goes_over_values_and_whole_numbers(tmp_path):
    sweep = read_sweep(written(tmp_path))
    assert sweep.name == "mine"
    assert sweep.constants == {"ftbc.solver": "x"}
    assert sweep.grid() == [{"ftbc.alpha": a, "ftbc.passes": p} for a in (0.1, 0.5) for p in (1, 2, 3)]
    assert all(isinstance(point["ftbc.passes"], int) for point in sweep.grid())


def test_a_grid_over_steps_of_q(tmp_path):
    parameters = {"a": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25}}
    points = read_sweep(written(tmp_path, parameters=parameters)).grid()
    assert [point["a"] for point in points] == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "hyperband"}, "expected method to be one of grid, random, bayes, got 'hyperband'"),
        ({"method": "bayes", "metric": {}}, "method bayes needs metric.name"),
        ({"metric": {"name": "val/accuracy"}}, "figure of a run's results, such as snn/accuracy_final.*'val/accuracy'"),
        ({"metric": {"name": "snn/accuracy_T"}}, "got 'snn/accuracy_T'"),
        ({"metric": {"goal": "max"}}, "metric.goal to be minimize or maximize"),
        ({"parameters": {"a": {"min": 0.1, "max": 1.0}}}, "a grid needs values for parameter a"),
        ({"parameters": {"a": {"values": []}}}, "expected a list under values of parameter a"),
        ({"parameters": {"a": {"parameters": {"b": {"value": 1}}}}}, "or numbers under min and max for parameter a"),
        ({"parameters": {"a": {"values": [1], "probabilities": [1.0]}}}, "probabilities of parameter a"),
        ({"parameters": {"a": {"min": 2, "max": 1}}}, "expected min below max for parameter a"),
        ({"parameters": {"a": {"distribution": "normal", "min": 0, "max": 1}}}, "must be one of uniform, int_uniform"),
        ({"parameters": {"ftbc.output_dir": {"value": "x"}}}, "each run of the sweep has a folder of its own"),
        ({"command": ["python", "-m", "ftbc_pl"]}, r"expected \$\{args\} in command"),
        ({"command": ["${envvar:NOT_THERE_AT_ALL}", "${args}"]}, "takes NOT_THERE_AT_ALL from the environment"),
        ({"run_cap": 0}, "expected run_cap as a number of runs from 1"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_sweep(written(tmp_path, **changes))
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: b: c", "method: grid"])
def test_a_file_that_is_no_sweep_is_named(tmp_path, text):
    path = tmp_path / "none.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"none\.yaml"):
        read_sweep(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no sweep file .*none\.yaml: give its path"):
        read_sweep(tmp_path / "none.yaml")
