"""What the tests of the whole pipeline share: short command lines, and where their results are."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=1"]
QUICK = [
    f"--config={CONFIGS / 'quickstart.yaml'}",
    *QUIET,
    "--trainer.limit_train_batches=4",
    "--trainer.max_epochs=1",
    "--data.eval_batch_size=72",
    "--data.val_split=0.1",
    "--ftbc.fold_bn=false",
    "--ftbc.num_steps=4",
    "--ftbc.batch_size=40",
]
needs_compiler = pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")


def run_folder():
    (folder,) = Path("runs").glob("2*")
    return folder


def results(folder):
    return json.loads((Path(folder) / "results.json").read_text())


def checkpoint(folder):
    return next(folder.rglob("epoch*.ckpt"))


def python(*arguments, **environment):
    """Run a command line in a process of its own and return its completed process."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"} | environment
    return subprocess.run(
        [sys.executable, "-m", "ftbc_pl", *arguments], env=env, capture_output=True, text=True, timeout=300, check=False
    )


def quiet_trainer(folder, **settings):
    """A trainer on the CPU that says and keeps nothing."""
    from lightning.pytorch import Trainer  # here: most tests need no trainer, whose import takes seconds

    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        log_every_n_steps=1,
        **settings,
    )
