"""The whole thing, as a user runs it: every config, every subcommand, two processes, W&B, sweeps."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image

from callbacks import FTBC
from ftbc_pl import load_snn
from ftbc_pl.cli import main
from ftbc_pl.data import DigitsData
from ftbc_pl.models import create_network
from ftbc_pl.reports import read_results_json
from ftbc_pl.task import ImageClassifier
from tests.sweep_command import first_point, first_point_command
from tests.wandb_reader import read_offline_run

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=1"]
QUICK = [
    f"--config={CONFIGS / 'quickstart.yaml'}",
    *QUIET,
    "--trainer.limit_train_batches=4",
    "--trainer.max_epochs=1",
    "--data.eval_batch_size=72",
    "--ftbc.num_steps=4",
    "--ftbc.batch_size=40",
]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run_folder():
    (folder,) = Path("runs").glob("2*")
    return folder


def results(folder):
    return json.loads((Path(folder) / "results.json").read_text())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with a short fit: its results in `out`, its checkpoint beside."""
    folder = tmp_path_factory.mktemp("fitted")
    before = os.getcwd()
    os.chdir(folder)
    try:
        main(["fit", *QUICK, "--ftbc.output_dir=out"])
    finally:
        os.chdir(before)
    return folder


def checkpoint(folder):
    return next(folder.rglob("epoch*.ckpt"))


class TestSubcommands:
    def test_fit_leaves_a_whole_folder(self, fitted):
        files = {path.name for path in (fitted / "out").iterdir()}
        assert files == {"snn.safetensors", "snn.json", "results.json", "report.html", "config.yaml"}
        found = results(fitted / "out")
        assert found["num_steps"] == 4
        assert [len(found["accuracy"][key]) for key in ("uncalibrated", "calibrated")] == [4, 4]
        assert found["calibration"]["forward_passes"] == 1
        assert found["calibration"]["images"] == 40
        assert found["split"] == "validation"
        assert found["images"] == 144
        assert (found["conversion"]["spiking"], found["conversion"]["rate_exact"]) == (19, 0)
        assert {site["threshold_from"] for site in found["sites"]} == {"learned"}
        assert found["conversion"]["summary"] in (fitted / "out" / "report.html").read_text()
        assert yaml.safe_load((fitted / "out" / "config.yaml").read_text())["ftbc"]["num_steps"] == 4

    def test_the_saved_network_has_the_accuracy_that_was_reported(self, fitted):
        data = DigitsData()
        data.setup("validate")
        snn = load_snn(fitted / "out")
        correct, total = torch.zeros(4), 0
        for batch, labels in data.val_dataloader():
            correct += (snn(batch).cumsum(0).argmax(-1) == labels).sum(1)
            total += len(labels)
        assert (correct / total).tolist() == pytest.approx(results(fitted / "out")["accuracy"]["calibrated"])

    def test_calibrate_from_the_checkpoint_gives_what_fit_gave(self, fitted):
        main(["calibrate", *QUICK, f"--ckpt_path={checkpoint(fitted)}", "--ftbc.output_dir=again"])
        first = safetensors.torch.load_file(fitted / "out" / "snn.safetensors")
        again = safetensors.torch.load_file("again/snn.safetensors")
        assert first.keys() == again.keys()
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert results("again")["accuracy"] == results(fitted / "out")["accuracy"]

    @pytest.mark.parametrize(("command", "images"), [("validate", 144), ("test", 360)])
    def test_validate_and_test_take_a_saved_network(self, fitted, command, images):
        main([command, *QUICK, f"--snn_path={fitted / 'out'}"])
        found = read_results_json(run_folder() / "results.json")
        assert found.images == images
        if command == "validate":
            assert found.accuracy_calibrated == results(fitted / "out")["accuracy"]["calibrated"]

    @pytest.mark.parametrize("command", ["validate", "test"])
    def test_validate_and_test_take_a_checkpoint(self, fitted, command, capsys):
        main([command, *QUICK, f"--ckpt_path={checkpoint(fitted)}"])
        assert f"{'val' if command == 'validate' else 'test'}/accuracy" in capsys.readouterr().out

    def test_predict_writes_every_step(self, fitted):
        main(["predict", *QUICK, f"--snn_path={fitted / 'out'}", "--output=predictions.csv"])
        with open("predictions.csv") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["index", "class", "probability", *(f"class_T{t}" for t in range(1, 5))]
        assert [int(row["index"]) for row in rows] == list(range(360))
        assert all(row["class"] == row["class_T4"] and 0 < float(row["probability"]) <= 1 for row in rows)

    def test_predict_takes_a_checkpoint(self, fitted):
        main(["predict", *QUICK, f"--ckpt_path={checkpoint(fitted)}", "--output=predictions.csv"])
        assert Path("predictions.csv").read_text().splitlines()[0] == "index,class,probability,class_T1"

    def test_the_same_seed_gives_the_same_result(self, fitted):
        main(["fit", *QUICK, "--ftbc.output_dir=out"])
        first, again = results(fitted / "out"), results("out")
        assert first["accuracy"] == again["accuracy"]
        assert first["ann"] == again["ann"]

    def test_the_conversion_report_is_printed(self, fitted, caplog):
        main(["calibrate", *QUICK, f"--ckpt_path={checkpoint(fitted)}", "--ftbc.fold_bn=true"])
        assert "19 sites: 19 spiking (qcfs 19), 0 rate-exact" in caplog.text
        found = results(run_folder())
        assert found["conversion"]["folded_layers"] == 21
        assert sum(site["folded"] for site in found["sites"]) == found["conversion"]["folded"]

    def test_ftbc_can_be_switched_off(self):
        main(["fit", *QUICK, "--ftbc.enabled=false"])
        assert not list(Path("runs").glob("2*"))


def tiny_folder(root, splits, size, classes):
    generator = np.random.default_rng(0)
    for split, count in splits.items():
        for name in range(classes):
            folder = Path(root) / split / f"class{name}"
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 255, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")


SHIPPED = [
    "quickstart",
    "cifar10_r20",
    "cifar10_vgg16",
    "cifar100_r20",
    "cifar100_vgg16",
    "cifar10_mobilenetv2",
    "cifar10_vit",
    "imagenet_r34",
    "imagenet_vgg16",
    "cifar10_r20+relu",
    "cifar10_r20+rts",
    "cifar10_r20+layerwise",
    "cifar10_r20+from_relu",
    "cifar10_r20+rts+from_relu",
]


def test_every_shipped_config_is_run():
    shipped = {path.stem for path in CONFIGS.glob("*.yaml")}
    assert shipped == {name for names in SHIPPED for name in names.split("+")}


@pytest.mark.parametrize("names", SHIPPED)
def test_configs_run(names):
    arguments = [f"--config={CONFIGS / name}.yaml" for name in names.split("+")]
    if names != "quickstart":
        size = 64 if "imagenet" in names else 32
        test = "val" if "imagenet" in names else "test"
        tiny_folder("images", {"train": 12, test: 2}, size, classes=3)
        arguments += ["--data.name=folder", "--data.root=images", "--data.num_classes=3", "--data.val_split=6"]
        arguments += ["--data.batch_size=6", "--data.num_workers=0", "--data.download=false"]
        if "imagenet" in names:
            arguments += ["--data.input_size=64", "--trainer.sync_batchnorm=false"]
        arguments += ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=runs", "--trainer.accelerator=cpu"]
    if "from_relu" in names:
        relu = create_network("cifar_resnet20", num_classes=3)
        safetensors.torch.save_file(relu.state_dict(), "relu.safetensors")
        arguments += ["--model.weights=relu.safetensors"]
    arguments += ["--ftbc.num_steps=2", "--ftbc.batch_size=6", "--trainer.limit_train_batches=1"]
    main(["fit", *arguments, *QUIET, "--trainer.max_epochs=1"])
    found = results(run_folder())
    assert len(found["accuracy"]["calibrated"]) == 2
    assert found["calibration"]["granularity"] == ("layer" if "layerwise" in names else "channel")
    operations = {site[1] for site in json.loads((run_folder() / "snn.json").read_text())["sites"]}
    activation = {"cifar10_mobilenetv2": "hardtanh", "cifar10_vit": "relu", "cifar10_r20+relu": "relu"}
    activation |= dict.fromkeys(["cifar10_r20+rts", "cifar10_r20+rts+from_relu"], "clipped_relu")
    assert activation.get(names, "qcfs") in operations


@pytest.mark.parametrize("scheduler", ["ftbc_pl.schedules.OneCycle", "CosineAnnealingLR"])
def test_optimizers_and_schedules_come_from_the_command_line(scheduler):
    arguments = ["--optimizer=AdamW", "--optimizer.lr=0.002", f"--lr_scheduler={scheduler}"]
    if scheduler == "CosineAnnealingLR":
        arguments.append("--lr_scheduler.T_max=3")
    main(["fit", *QUICK, *arguments, "--ftbc.enabled=false"])
    state = torch.load(next(Path("runs").rglob("last.ckpt")), weights_only=True)
    assert "betas" in state["optimizer_states"][0]["param_groups"][0]


def test_a_network_trained_in_16_bits_is_calibrated_in_32():
    main(["fit", *QUICK, "--trainer.precision=bf16-true"])
    snn = load_snn(run_folder() / "snn")
    assert {value.dtype for value in snn.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert all(site.temporal_bias.abs().max() > 0 for _, site in snn.neurons())
    assert len(results(run_folder())["accuracy"]["calibrated"]) == 4


def python(*arguments, **environment):
    """Run a command line in a process of its own and return its completed process."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"} | environment
    return subprocess.run(
        [sys.executable, "-m", "ftbc_pl", *arguments], env=env, capture_output=True, text=True, timeout=300, check=False
    )


TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


@pytest.mark.slow
def test_two_processes_calibrate_like_one(fitted):
    done = python("calibrate", *QUICK, *TWO, f"--ckpt_path={checkpoint(fitted)}", "--ftbc.output_dir=two")
    assert done.returncode == 0, done.stderr
    one = safetensors.torch.load_file(fitted / "out" / "snn.safetensors")
    two = safetensors.torch.load_file("two/snn.safetensors")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-5)
    assert results("two")["images"] == 144
    assert results("two")["calibration"]["images"] == 40
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


BAD = {
    "unknown key": (["--ftbc.timesteps=4"], 2, "timesteps"),
    "wrong type": (["--ftbc.num_steps=many"], 2, "num_steps"),
    "no steps": (["--ftbc.num_steps=0"], 1, "num_steps must be at least 1, got 0"),
    "too many images": (["--ftbc.batch_size=5000"], 1, "lower ftbc.batch_size or ftbc.num_batches"),
    "no weights": (["--model.weights=none.safetensors"], 1, "none.safetensors"),
    "unknown network": (["--model.network=resnet1"], 1, "did you mean"),
    "bad solver": (["--ftbc.solver=best"], 2, "solver"),
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


def test_a_foreign_callbacks_package_is_named():
    Path("callbacks.py").write_text("")
    done = python("fit", "--help", PYTHONPATH=f"{os.getcwd()}{os.pathsep}{ROOT}")
    assert done.returncode != 0
    assert f"shadowed by {os.getcwd()}/callbacks.py" in done.stderr


def test_another_runs_results_are_left_alone(fitted, capsys):
    before = (fitted / "out" / "results.json").read_bytes()
    with pytest.raises(SystemExit):
        main(["fit", *QUICK, f"--ftbc.output_dir={fitted / 'out'}"])
    assert "holds results.json of another run" in capsys.readouterr().err
    assert (fitted / "out" / "results.json").read_bytes() == before


def test_weights_of_another_architecture_are_refused(fitted, capsys):
    with pytest.raises(SystemExit):
        main(["calibrate", *QUICK, "--model.network=resnet18", f"--model.weights={checkpoint(fitted)}"])
    message = capsys.readouterr().err
    assert "missing" in message
    assert "unexpected" in message


def test_the_callback_works_in_plain_lightning_code(tmp_path):
    from lightning.pytorch import Trainer

    callback = FTBC(num_steps=3, batch_size=30, output_dir=str(tmp_path / "plain"))
    trainer = Trainer(
        max_epochs=1, limit_train_batches=2, limit_val_batches=1, accelerator="cpu", callbacks=[callback], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(ImageClassifier(in_chans=1, levels=4), datamodule=DigitsData())
    assert callback.snn.num_steps == 3
    assert callback.report.images == 30
    assert torch.equal(load_snn(tmp_path / "plain")(torch.ones(2, 1, 8, 8)), callback.snn(torch.ones(2, 1, 8, 8)))


def test_network_and_data_must_have_the_same_classes():
    from lightning.pytorch import Trainer

    trainer = Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False
    )
    with pytest.raises(ValueError, match="The network has 7 classes, the data 10"):
        trainer.fit(ImageClassifier(in_chans=1, num_classes=7), datamodule=DigitsData())
