"""Real DDP processes: they calibrate like one, fit, and agree."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.pipeline import QUICK, ROOT, checkpoint, python, results

pytestmark = pytest.mark.usefixtures("own_folder")
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


@pytest.mark.slow
def test_two_processes_calibrate_like_one(fitted):
    trained = f"--ckpt_path={checkpoint(fitted)}"
    done = python("calibrate", *QUICK, *TWO, trained, "--ftbc.output_dir=two", "--ftbc.exit_loss=0.3")
    assert done.returncode == 0, done.stderr
    one = safetensors.torch.load_file(fitted / "out" / "snn.safetensors")
    two = safetensors.torch.load_file("two/snn.safetensors")
    thresholds = two.pop("exit_thresholds")
    del one["exit_thresholds"]
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-5)
    assert results("two")["images"] == 144
    assert results("two")["calibration"]["images"] == 40
    # All images of both processes are counted, and set early exit.
    cost, alone = results("two")["energy"], results(fitted / "out")["energy"]
    assert cost["images"] == alone["images"] == 144
    assert cost["uncalibrated"]["sops"] == pytest.approx(alone["uncalibrated"]["sops"], rel=1e-4)
    assert cost["sops"] == pytest.approx(alone["sops"], rel=1e-4)
    assert thresholds.isfinite().any()
    assert results("two")["early_exit"]["set_on"]["images"] == 67
    assert sum(results("two")["early_exit"]["images_by_step"]) == 144
    for key in ("uncalibrated", "calibrated"):
        assert results("two")["accuracy"][key] == pytest.approx(results(fitted / "out")["accuracy"][key], abs=1e-5)


@pytest.mark.slow
def test_two_processes_fit_and_agree():
    done = python("fit", *QUICK, *TWO, "--ftbc.output_dir=out")
    assert done.returncode == 0, done.stderr
    found = results("out")
    assert found["images"] == 144
    assert found["calibration"]["images"] == 40
    assert done.stdout.count("uncalibrated") + done.stderr.count("uncalibrated") == 1
    program = (ROOT / "tests" / "two_ranks.py").read_text()
    Path("two_ranks.py").write_text(program)
    ranks = subprocess.run(
        [sys.executable, "two_ranks.py"], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert ranks.returncode == 0, ranks.stderr
    first, second = (torch.load(f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
