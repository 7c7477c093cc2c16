"""Offline runs of Weights & Biases, read back, and the first point of each sweep."""

import os
from pathlib import Path

import pytest
import yaml

from tests.pipeline import CONFIGS, QUICK, QUIET, ROOT, checkpoint, python, results
from tests.sweep_command import first_point, first_point_command
from tests.wandb_reader import read_offline_run

pytestmark = pytest.mark.usefixtures("own_folder")


def read_run(folder="wandb"):
    return read_offline_run(Path(folder))


WANDB = ["--trainer.logger=WandbLogger", "--trainer.logger.save_dir=.", "--trainer.logger.offline=true"]


@pytest.mark.slow
def test_wandb_holds_curve_summary_config_and_artifact():
    done = python("fit", *QUICK, *WANDB, "--ftbc.output_dir=out")
    assert done.returncode == 0, done.stderr
    run, found = read_run(), results("out")
    assert run.curve("snn/T", "snn/accuracy") == list(enumerate(found["accuracy"]["calibrated"], 1))
    assert run.curve("snn/T", "snn/accuracy_uncalibrated") == list(enumerate(found["accuracy"]["uncalibrated"], 1))
    assert run.curve("snn/T", "snn/accuracy_readout_only") == list(enumerate(found["accuracy"]["readout_only"], 1))
    assert run.metrics["snn/accuracy"] == "snn/T"
    for step, accuracy in enumerate(found["accuracy"]["calibrated"], 1):
        assert run.summary[f"snn/accuracy_T{step}"] == accuracy
    assert run.config["ftbc"]["num_steps"] == 4
    (artifact,) = run.artifacts.values()
    assert {"snn.safetensors", "snn.json"} <= set(artifact)


@pytest.mark.slow
def test_wandb_without_a_login_runs_offline_and_says_so_once():
    environment = {"HOME": os.getcwd(), "NETRC": f"{os.getcwd()}/none"}
    done = python("fit", *QUICK, "--trainer.logger=WandbLogger", "--trainer.logger.save_dir=.", **environment)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("no login found") == 1
    assert read_run().summary["snn/accuracy_T4"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize("sweep", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_first_point_of_a_sweep_runs_and_logs_its_metric(sweep, fitted, monkeypatch):
    monkeypatch.setenv("WEIGHTS", str(checkpoint(fitted)))
    command = first_point_command(sweep)
    start = command.index("ftbc_pl") + 1
    arguments = [f"--config={CONFIGS / 'quickstart.yaml'}" if "--config" in a else a for a in command[start:]]
    point = first_point(sweep)
    if "ftbc.batch_size" not in point:
        arguments.append("--ftbc.batch_size=40")
    if "ftbc.num_steps" not in point:
        arguments.append("--ftbc.num_steps=4")
    done = python(*arguments, *QUIET, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    metric = yaml.safe_load(sweep.read_text())["metric"]["name"]
    run = read_run(next(path.parent for path in Path(".").rglob("offline-run*")))
    assert 0 <= run.summary[metric] <= 1
