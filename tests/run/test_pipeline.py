"""The subcommands as a user runs them, and every config."""

import csv
import json
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
from tests.pipeline import CONFIGS, QUICK, QUIET, checkpoint, needs_compiler, results, run_folder

pytestmark = pytest.mark.usefixtures("own_folder")


class TestSubcommands:
    def test_fit_leaves_a_whole_folder(self, fitted):
        files = {path.name for path in (fitted / "out").iterdir()}
        assert files == {"snn.safetensors", "snn.json", "results.json", "report.html", "config.yaml"}
        found = results(fitted / "out")
        assert found["num_steps"] == 4
        assert [len(found["accuracy"][key]) for key in ("uncalibrated", "readout_only", "calibrated")] == [4, 4, 4]
        assert found["calibration"]["forward_passes"] == 1
        assert found["calibration"]["images"] == 40
        assert sum(found["calibration"]["readout_weights"]) == pytest.approx(1)
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
            correct += (snn.readout(snn(batch)).argmax(-1) == labels).sum(1)
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
        assert rows[0].keys() >= {"index", "class", "probability", "decided_at", *(f"class_T{t}" for t in range(1, 5))}
        assert [int(row["index"]) for row in rows] == list(range(360))
        assert all(row["class"] == row["class_T4"] and 0 < float(row["probability"]) <= 1 for row in rows)

    def test_predict_takes_a_checkpoint(self, fitted):
        main(["predict", *QUICK, f"--ckpt_path={checkpoint(fitted)}", "--output=predictions.csv"])
        columns = Path("predictions.csv").read_text().splitlines()[0].split(",")
        assert {"index", "class", "probability"} < set(columns)
        assert columns[-1] == "class_T1"

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

    @needs_compiler
    @pytest.mark.long
    def test_compiled_neurons_give_the_same_accuracy(self, fitted, monkeypatch):
        monkeypatch.delattr("ftbc_pl.layers.integrate_and_fire_")  # what runs without compilation
        main(["calibrate", *QUICK, f"--ckpt_path={checkpoint(fitted)}", "--ftbc.compile=true"])
        assert results(run_folder())["accuracy"] == results(fitted / "out")["accuracy"]
        main(["validate", *QUICK, f"--snn_path={fitted / 'out'}", "--ftbc.compile=true", "--ftbc.output_dir=saved"])
        assert results("saved")["accuracy"] == results(fitted / "out")["accuracy"]

    @needs_compiler
    @pytest.mark.slow
    @pytest.mark.long
    def test_a_compiled_network_is_trained_and_converted(self, monkeypatch):
        compiled, compile = [], torch.nn.Module.compile
        monkeypatch.setattr(torch.nn.Module, "compile", lambda network: (compiled.append(network), compile(network)))
        main(["fit", *QUICK, "--model.network=test_resnet", "--model.compile=true", "--ftbc.output_dir=out"])
        (network,) = compiled
        assert torch.equal(network.conv1[0].weight, load_snn("out").network.conv1[0].weight)
        assert len(results("out")["accuracy"]["calibrated"]) == 4

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
    "cifar10_r20+paper",
    "cifar10_r20+from_relu",
    "cifar10_r20+rts+from_relu",
]


def test_every_shipped_config_is_run():
    shipped = {path.stem for path in CONFIGS.glob("*.yaml")}
    assert shipped == {name for names in SHIPPED for name in names.split("+")}


@pytest.mark.slow
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
    if "paper" in names:
        assert found["calibration"]["readout_weights"] == [0.5, 0.5]
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


def test_calibrate_without_validation_images_keeps_its_network_and_says_so(fitted, caplog):
    caplog.set_level("INFO")
    main(["calibrate", *QUICK, f"--ckpt_path={checkpoint(fitted)}", "--ftbc.output_dir=out", "--data.val_split=0"])
    why = "data.val_split is 0, and data.val_split_name names no split of the data"
    assert f"No accuracy was measured, since there are no validation images ({why})" in caplog.text
    assert sorted(path.name for path in Path("out").iterdir()) == ["config.yaml", "snn.json", "snn.safetensors"]
    main(["test", *QUICK, "--snn_path=out", "--ftbc.output_dir=tested"])
    assert results("tested")["calibration"]["images"] == 40
