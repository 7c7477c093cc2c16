"""The command line with FTBC switched off: training and evaluating the ANN."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ftbc_pl.cli import main
from ftbc_pl.task import ImageClassifier

ROOT = Path(__file__).parents[2]
FEW_DIGITS = [
    "--data=DigitsData",
    "--data.batch_size=64",
    "--model.in_chans=1",
    "--model.levels=4",
    "--trainer.accelerator=cpu",
    "--trainer.logger=CSVLogger",
    "--trainer.logger.save_dir=.",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.limit_train_batches=3",
    "--trainer.limit_val_batches=1",
    "--trainer.max_epochs=1",
    "--ftbc.enabled=false",
]


@pytest.fixture
def fit_digits(tmp_path, monkeypatch):
    """Return a function that runs `fit` on a few digits, in a folder of its own which it returns."""
    monkeypatch.chdir(tmp_path)
    # Lightning warns of arguments of the process beside those of the call.
    monkeypatch.setattr("sys.argv", ["ftbc-pl"])

    def fit(*arguments):
        main(["fit", *FEW_DIGITS, *arguments])
        return tmp_path

    return fit


def checkpoint(folder, name="last.ckpt"):
    (path,) = folder.rglob(name)
    return path


def groups(ckpt):
    return ckpt["optimizer_states"][0]["param_groups"]


class TestFit:
    def test_it_logs_and_keeps_the_best_and_the_last_checkpoint(self, fit_digits):
        folder = fit_digits()
        with next(folder.rglob("metrics.csv")).open() as file:
            columns = csv.DictReader(file).fieldnames
        assert {"train/loss", "val/loss", "val/accuracy", "val/top5"} <= set(columns)
        assert len(list(folder.rglob("*.ckpt"))) == 2
        assert torch.load(checkpoint(folder), weights_only=True)["global_step"] == 3

    @pytest.mark.parametrize(
        ("arguments", "shows"),
        [
            (["--optimizer=AdamW", "--optimizer.lr=0.001"], lambda ckpt: "betas" in groups(ckpt)[0]),
            (["--lr_scheduler=ftbc_pl.schedules.OneCycle", "--lr_scheduler.max_lr=0.2"],
             lambda ckpt: groups(ckpt)[0]["max_lr"] == 0.2),
            (["--lr_scheduler=StepLR", "--lr_scheduler.step_size=1"],
             lambda ckpt: ckpt["lr_schedulers"][0]["step_size"] == 1),
            (["--lr_scheduler=null"], lambda ckpt: not ckpt["lr_schedulers"]),
            (["--model.activation=rts", "--model.label_smoothing=0.1"],
             lambda ckpt: ckpt["hyper_parameters"]["label_smoothing"] == 0.1 and len(groups(ckpt)) == 1),
            (["--model.channels_last=true", "--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=1"],
             lambda ckpt: ckpt["hyper_parameters"]["channels_last"]),
            (["--trainer.callbacks=EMAWeightAveraging"], lambda ckpt: "averaging_state" in ckpt),
        ],
        ids=lambda given: given[0].removeprefix("--") if isinstance(given, list) else "",
    )  # fmt: skip
    def test_it_trains_with(self, fit_digits, arguments, shows):
        """The checkpoint shows that the option has had its effect, and that the weights have moved."""
        before = ImageClassifier(in_chans=1, levels=4).network.state_dict()
        after = torch.load(checkpoint(fit_digits(*arguments)), weights_only=True)
        assert shows(after)
        moved = [
            name for name, value in before.items() if not torch.equal(after["state_dict"][f"network.{name}"], value)
        ]
        assert len(moved) > len(before) // 2

    def test_it_resumes(self, fit_digits):
        first = checkpoint(fit_digits())
        with pytest.warns(match=r"with T_max 3 \(not 6\)"):
            fit_digits(f"--ckpt_path={first}", "--trainer.max_epochs=2")
        steps = {torch.load(p, weights_only=True)["global_step"] for p in first.parents[3].rglob("last*.ckpt")}
        assert steps == {3, 6}

    def test_the_last_checkpoint_is_that_of_the_last_epoch_not_of_the_best(self, fit_digits):
        first_is_best = ("--checkpoint.monitor=step", "--checkpoint.mode=min")
        last = checkpoint(fit_digits(*first_is_best, "--trainer.max_epochs=3"))
        assert torch.load(last, weights_only=True)["epoch"] == 2
        (best,) = last.parent.glob("epoch*.ckpt")
        assert torch.load(best, weights_only=True)["epoch"] == 0

    def test_the_same_seed_gives_the_same_weights(self, fit_digits):
        states = []
        for run in ("a", "b"):
            fit_digits(f"--checkpoint.dirpath={run}")
            states.append(torch.load(f"{run}/last.ckpt", weights_only=True)["state_dict"])
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())

    def test_a_shipped_config_is_found_by_its_name(self, fit_digits, capsys):
        with pytest.raises(SystemExit) as stop:
            fit_digits("--config=quickstart.yaml", "--print_config")
        assert stop.value.code == 0
        assert "num_steps: 8" in capsys.readouterr().out


class TestEvaluation:
    def test_validate_and_test_take_a_checkpoint(self, fit_digits, capsys):
        path = checkpoint(fit_digits())
        options = [a for a in FEW_DIGITS if "max_epochs" not in a]
        main(["validate", *options, f"--ckpt_path={path}"])
        main(["test", *options, f"--ckpt_path={path}", "--trainer.limit_test_batches=1"])
        shown = capsys.readouterr().out
        assert "val/accuracy" in shown
        assert "test/accuracy" in shown


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (["--modell.levels=4"], 2, "modell"),
            (["--model.levels=four"], 2, "four"),
            (["--model.network=cifar_resnet21"], 1, r"got 'cifar_resnet21'; did you mean .*cifar_resnet20"),
            (["--model.weights=absent.safetensors"], 1, "absent.safetensors"),
            (["--data=ImageData", "--data.root=absent"], 1, "absent"),
            (["--data.batch_size=0"], 1, "data.batch_size of at least 1, got 0"),
            (["--optimizer.lr=1e30", "--trainer.max_epochs=3"], 1, "training loss is .*lower the learning rate"),
        ],
        ids=["key", "type", "network", "weights", "data", "batch size", "diverging"],
    )
    def test_each_ends_with_one_sentence(self, fit_digits, capsys, arguments, code, message):
        with pytest.raises(SystemExit) as stop:
            fit_digits(*arguments)
        assert stop.value.code == code
        shown = capsys.readouterr().err
        assert len(re.findall("^ftbc-pl: error: ", shown, re.MULTILINE)) == 1
        assert "Traceback" not in shown
        assert re.search(message, shown)

    def test_there_is_no_traceback_unless_asked_for(self, fit_digits, monkeypatch):
        monkeypatch.setenv("FTBC_DEBUG", "1")
        with pytest.raises(FileNotFoundError):
            fit_digits("--model.weights=absent.safetensors")


def in_new_process(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ftbc_pl", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.slow
def test_two_processes_train_and_keep_one_checkpoint(tmp_path):
    done = in_new_process(
        tmp_path, "fit", *FEW_DIGITS, "--trainer.devices=2", "--trainer.strategy=ddp", "--checkpoint.dirpath=kept"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.suffix for path in (tmp_path / "kept").iterdir()) == [".ckpt", ".ckpt"]
    assert torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)["global_step"] == 3


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"]], ids=" ".join)
def test_help_teaches(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    expected = (
        ["fit", "calibrate", "predict"]
        if len(arguments) == 1
        else ["--model.levels", "--ftbc.num_steps", "--optimizer"]
    )
    assert all(word in shown for word in expected)
