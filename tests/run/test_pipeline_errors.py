"""Bad input ends with one sentence that says what to do, and loses nothing."""

import os
from pathlib import Path

import pytest

from ftbc_pl.cli import main
from tests.pipeline import QUICK, QUIET, checkpoint, python

pytestmark = pytest.mark.usefixtures("own_folder")
BAD = {
    "unknown key": (["--ftbc.timesteps=4"], 2, "timesteps"),
    "wrong type": (["--ftbc.num_steps=many"], 2, "num_steps"),
    "no steps": (["--ftbc.num_steps=0"], 1, "num_steps must be at least 1, got 0"),
    "too many images": (["--ftbc.batch_size=5000"], 1, "lower ftbc.batch_size or ftbc.num_batches"),
    "no weights": (["--model.weights=none.safetensors"], 1, "none.safetensors"),
    "unknown network": (["--model.network=resnet1"], 1, "did you mean"),
    "bad solver": (["--ftbc.solver=best"], 1, "solver must be one of balanced, exact, heuristic"),
    "bad threshold": (["--ftbc.threshold=best"], 1, "threshold must be 'mse', 'max' or a percentile"),
    "missing data": (["--data=ImageData", "--data.root=nowhere", "--data.num_classes=3"], 1, "nowhere"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_one_clear_sentence(name, capsys):
    arguments, code, message = BAD[name]
    config = QUICK if name != "missing data" else ["--model.in_chans=3", *QUIET, "--trainer.max_epochs=1"]
    with pytest.raises(SystemExit) as error:
        main(["fit", *config, *arguments])
    assert error.value.code == code
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("command", [pytest.param("fit", marks=pytest.mark.long), "calibrate"])
def test_a_missing_compiler_is_said_before_the_work(command, fitted):
    weights = [f"--ckpt_path={checkpoint(fitted)}"] if command == "calibrate" else []
    environment = {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": f"{os.getcwd()}/cache"}
    done = python(command, *QUICK, *weights, "--ftbc.compile=true", "--ftbc.output_dir=out", **environment)
    assert done.returncode != 0
    assert "install what it needs (a C++ compiler such as g++ for a CPU" in done.stderr
    assert "no-such-compiler" in done.stderr
    assert not list(Path().rglob("*.ckpt"))
    assert not list(Path("out").glob("snn.*"))


def test_another_runs_results_are_left_alone(fitted, capsys):
    before = (fitted / "out" / "results.json").read_bytes()
    with pytest.raises(SystemExit):
        main(["fit", *QUICK, f"--ftbc.output_dir={fitted / 'out'}"])
    told = capsys.readouterr().err
    assert "holds results.json of another run" in told
    assert "or pass overwrite=True (--ftbc.overwrite true)" in told
    assert (fitted / "out" / "results.json").read_bytes() == before


def test_weights_of_another_architecture_are_refused(fitted, capsys):
    with pytest.raises(SystemExit):
        main(["calibrate", *QUICK, "--model.network=resnet18", f"--model.weights={checkpoint(fitted)}"])
    message = capsys.readouterr().err
    assert "missing" in message
    assert "unexpected" in message
