"""Sweeps of real processes: a row for each run, also where it fails, and a sweep that was stopped goes on."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ftbc_pl.sweeps import sweep
from tests.pipeline import CONFIGS, QUIET, ROOT, checkpoint, python
from tests.report_results import make_results

pytestmark = pytest.mark.usefixtures("own_folder")

# A program that does within milliseconds what a run of this package leaves: its accuracy at T = 2 is alpha.
PROGRAM = """
import json, pathlib, sys, time
given = dict(part.removeprefix("--").split("=", 1) for part in sys.argv[1:])
with open("calls.txt", "a") as calls:
    calls.write(given["alpha"] + "\\n")
if given["alpha"] == "0.75":
    sys.exit("ValueError: no such alpha")
time.sleep(float(given.get("sleep", 0)))
content = json.loads(pathlib.Path("template.json").read_text())
content["accuracy"]["calibrated"][1] = float(given["alpha"])
folder = pathlib.Path(given["ftbc.output_dir"])
folder.mkdir(parents=True)
(folder / "results.json").write_text(json.dumps(content))
"""
METRIC = {"name": "snn/accuracy_T2", "goal": "maximize"}


def prepared(parameters, **changes):
    Path("program.py").write_text(PROGRAM)
    Path("template.json").write_text(json.dumps(make_results(2).to_json()))
    content = {
        "name": "my sweep",
        "method": "grid",
        "metric": METRIC,
        "program": "program.py",
        "command": ["${interpreter}", "${program}", "${args}"],
        "parameters": parameters,
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(content | changes))


def calls():
    return Path("calls.txt").read_text().split()


def test_each_point_is_a_row_and_a_failed_one_says_why(caplog):
    prepared({"alpha": {"values": [0.25, 0.75, 0.5]}})
    with caplog.at_level("INFO"):
        runs = sweep("sweep.yaml")
    assert [(run.state, run.value("snn/accuracy_T2")) for run in runs] == [
        ("finished", 0.25), ("failed", None), ("finished", 0.5),
    ]  # fmt: skip
    assert "ValueError: no such alpha" in runs[1].error
    (folder,) = Path("runs").glob("sweep-my-sweep-*")
    assert {path.name for path in folder.iterdir()} == {
        "001", "001.log", "002.log", "003", "003.log", "sweep.csv", "sweep.json", "sweep.md",
    }  # fmt: skip
    rows = list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))
    assert [(row["run"], row["alpha"], row["state"]) for row in rows] == [
        ("1", "0.25", "finished"), ("2", "0.75", "failed"), ("3", "0.5", "finished"),
    ]  # fmt: skip
    assert rows[2]["snn/accuracy_T2"] == "0.5"
    assert "| 2 | 0.75 | – | failed |" in (folder / "sweep.md").read_text()
    assert "Best: run 3, snn/accuracy_T2 50.0 ± 1.6 %, with alpha 0.5." in caplog.text


def test_what_is_done_is_not_done_again_but_for_failed_runs_on_demand(caplog):
    caplog.set_level("INFO")
    prepared({"alpha": {"values": [0.25, 0.75, 0.5]}})
    first = sweep("sweep.yaml", count=2)
    assert "are there already" not in caplog.text
    assert sweep("sweep.yaml")[:2] == first
    assert "2 of 3 runs are there already, in runs/sweep-my-sweep-" in caplog.text
    assert "Run 3 of 3: alpha=0.5" in caplog.text
    assert calls() == ["0.25", "0.75", "0.5"]
    sweep("sweep.yaml", retry=True)
    assert calls() == ["0.25", "0.75", "0.5", "0.75"]


@pytest.mark.slow
def test_a_sweep_that_is_told_to_stop_stops_its_run_and_goes_on_later():
    prepared({"alpha": {"values": [0.25, 0.5]}, "sleep": {"value": 60}})
    command = [sys.executable, "-m", "ftbc_pl", "sweep", "sweep.yaml"]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not Path("calls.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "The same command goes on from there." in said
    assert calls() == ["0.25"]
    assert not list(Path("runs").rglob("results.json"))


def test_a_run_without_the_metric_fails_and_names_what_there_is():
    prepared({"alpha": {"values": [0.25]}}, metric={"name": "snn/accuracy_T9"})
    (run,) = sweep("sweep.yaml")
    assert run.state == "failed"
    assert "no snn/accuracy_T9 among its results: ann/accuracy" in run.error


def test_random_needs_an_end_and_stays_within_it():
    prepared({"alpha": {"min": 0.0, "max": 0.5}}, method="random")
    with pytest.raises(ValueError, match="method random has no end: give run_cap"):
        sweep("sweep.yaml")
    runs = sweep("sweep.yaml", count=3)
    assert [run.value("snn/accuracy_T2") for run in runs] == [run.parameters["alpha"] for run in runs]
    assert len(set(calls())) == 3


def test_the_folder_of_another_sweep_is_refused():
    prepared({"alpha": {"values": [0.25]}})
    sweep("sweep.yaml", output_dir="out")
    prepared({"alpha": {"values": [0.5]}})
    with pytest.raises(FileExistsError, match="out holds the runs of another sweep"):
        sweep("sweep.yaml", output_dir="out")


def test_early_termination_is_said_to_be_left_out():
    prepared({"alpha": {"values": [0.25]}}, early_terminate={"type": "hyperband", "min_iter": 1})
    with pytest.warns(UserWarning, match="early_terminate is left out: every run goes to its end"):
        sweep("sweep.yaml")


def test_without_optuna_the_extra_is_named():
    prepared({"alpha": {"min": 0.0, "max": 0.5}}, method="bayes", run_cap=2)
    blocked = "import sys; sys.modules['optuna'] = None; from ftbc_pl.cli import main; main(['sweep', 'sweep.yaml'])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", blocked], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "method bayes needs the package 'optuna': pip install 'ftbc_pl[sweep]'" in done.stderr
    assert not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.long
def test_a_shipped_sweep_runs_here_on_small_images(fitted, monkeypatch):
    monkeypatch.setenv("WEIGHTS", str(checkpoint(fitted)))
    text = (ROOT / "sweeps" / "convergence.yaml").read_text()
    content = yaml.safe_load(text.replace("configs/cifar10_r20.yaml", str(CONFIGS / "quickstart.yaml")))
    content["parameters"] |= {"ftbc.alpha": {"values": [0.5, 2.0]}, "ftbc.passes": {"value": 1}}
    content["command"][-1:] = [*QUIET, "--data.val_split=0.1", "--ftbc.batch_size=40", "${args}"]
    Path("convergence.yaml").write_text(yaml.safe_dump(content))
    done = python("sweep", "convergence.yaml", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    (state,) = Path("runs").glob("sweep-convergence-*/sweep.json")
    runs = json.loads(state.read_text())["runs"]
    assert [run["state"] for run in runs] == ["finished", "failed"]
    assert "alpha must lie in (0, 1], got 2.0" in runs[1]["error"]
    assert 0 <= runs[0]["metrics"]["snn/accuracy_T4"] <= 1
    assert any(Path().rglob("offline-run-*"))  # the first run logs to W&B as well
