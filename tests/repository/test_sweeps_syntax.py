from pathlib import Path

import pytest
import yaml

from ftbc_pl.reports import RunResults
from ftbc_pl.reports.tracking import summary_metrics
from ftbc_pl.sweeps import read_sweep
from tests.sweep_command import first_point, first_point_command

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))


def test_the_four_sweeps_are_there():
    assert [path.stem for path in SWEEPS] == ["alpha", "calibration_batches", "convergence", "timesteps"]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
class TestSweep:
    def test_it_runs_here_as_well_and_its_program_exists(self, path, monkeypatch):
        monkeypatch.setenv("WEIGHTS", "some/best.ckpt")
        sweep = read_sweep(path)
        assert (ROOT / sweep.program).is_file()
        assert sweep.method == "grid" or sweep.cap

    def test_the_metric_is_in_the_summary_of_its_first_point(self, path):
        sweep = yaml.safe_load(path.read_text())
        num_steps = first_point(path)["ftbc.num_steps"]
        calibration = {"solver": "exact", "granularity": "layer", "images": 8, "forward_passes": 1, "seconds": 0.1}
        curve = [0.5] * num_steps
        assert sweep["metric"]["goal"] == "maximize"
        assert sweep["metric"]["name"] in summary_metrics(
            RunResults(0.9, num_steps, "validation", 8, curve, curve, calibration)
        )

    def test_the_agent_runs_calibrate_with_the_point_and_wandb(self, path, monkeypatch):
        monkeypatch.setenv("WEIGHTS", "some/best.ckpt")
        command = first_point_command(path)
        assert command[:5] == ["/usr/bin/env", "python", "-m", "ftbc_pl", "calibrate"]
        assert "--model.weights=some/best.ckpt" in command
        assert "--trainer.logger=lightning.pytorch.loggers.WandbLogger" in command
        assert command[-len(first_point(path)) :] == [f"--{name}={value}" for name, value in first_point(path).items()]
        assert not [part for part in command if "${" in part]
        (config,) = [part.removeprefix("--config=") for part in command if part.startswith("--config=")]
        assert (ROOT / config).is_file()


def test_the_convergence_sweep_starts_with_a_small_step():
    command = first_point_command(ROOT / "sweeps" / "convergence.yaml")
    assert command[-4:] == ["--ftbc.alpha=0.05", "--ftbc.passes=1", "--ftbc.solver=heuristic", "--ftbc.num_steps=8"]
