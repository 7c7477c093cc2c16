"""The wheel works by itself, outside the checkout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_runs_the_shipped_quickstart(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    # Before site-packages on the path, so that it hides the checkout's own installation.
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    outside = tmp_path / "outside"
    outside.mkdir()
    env = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    where = subprocess.run(
        [sys.executable, "-c", "import callbacks, ftbc_pl; print(callbacks.__file__, ftbc_pl.__file__)"],
        cwd=outside, env=env, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    assert all(path.startswith(str(site)) for path in where)
    command = [str(site / "bin" / "ftbc-pl"), "fit", "--config", "quickstart.yaml", "--ftbc.output_dir", "out"]
    limits = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--ftbc.num_steps", "2"]
    done = subprocess.run(
        [sys.executable, *command, *limits], cwd=outside, env=env, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads((outside / "out" / "results.json").read_text())["accuracy"]["calibrated"]) == 2
