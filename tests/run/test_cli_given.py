"""Options beside a checkpoint or a saved network win, or are refused: none is overruled without a word."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace

from ftbc_pl import FTBC, FTBCTrainer, load_snn
from ftbc_pl.cli import main
from ftbc_pl.command.given import (
    check_beside_checkpoint,
    check_beside_saved,
    check_path,
    check_weights,
    how_it_was_made,
)
from ftbc_pl.data import DigitsData
from ftbc_pl.task import ImageClassifier
from tests.pipeline import QUICK, checkpoint, results

pytestmark = pytest.mark.usefixtures("own_folder")
RECORDED = {"network": "cifar_resnet20", "levels": 4, "in_chans": 1, "num_classes": 10, "label_smoothing": 0.1,
            "weights": "old.pt", "pretrained": False, "network_args": None}  # fmt: skip


def refused(capsys, command, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([command, *QUICK, *arguments])
    assert ended.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "calibrate", "validate", "test", "predict"])
def test_another_network_than_that_of_the_checkpoint_is_refused(command, fitted, capsys):
    said = refused(capsys, command, f"--ckpt_path={checkpoint(fitted)}", "--model.network=cifar_vgg16")
    assert "model.network is cifar_vgg16, but the network of" in said
    assert "has network cifar_resnet20" in said


@pytest.mark.parametrize("command", ["calibrate", "compare"])
def test_random_weights_are_refused(command, capsys):
    said = refused(capsys, command)
    assert "No weights were given, so the network has random ones: name --ckpt_path, --model.weights or" in said


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_random_weights_are_said(command):
    model = Namespace(weights=None, pretrained=False, network_args=None)
    with pytest.warns(UserWarning, match="No weights were given"):
        check_weights(command, Namespace(model=model, ckpt_path=None, snn_path=None))


@pytest.mark.filterwarnings("error")
def test_weights_of_any_source_serve():
    none = {"weights": None, "pretrained": False, "network_args": None}
    for given in ({"weights": "w.pt"}, {"pretrained": True}, {"network_args": {"checkpoint_path": "w.pt"}}):
        check_weights("calibrate", Namespace(model=Namespace(**none | given), ckpt_path=None))
    check_weights("calibrate", Namespace(model=Namespace(**none), ckpt_path="best.ckpt"))
    check_weights("test", Namespace(model=Namespace(**none), ckpt_path=None, snn_path="out"))
    check_weights("fit", Namespace(model=Namespace(**none), ckpt_path=None))


@pytest.mark.parametrize("option", ["levels=8", "activation=relu", "pooling=avg", "in_chans=3", "threshold=2.0"])
def test_so_are_other_properties_of_it(option, fitted, capsys):
    said = refused(capsys, "calibrate", f"--ckpt_path={checkpoint(fitted)}", f"--model.{option}")
    assert f"leave model.{option.partition('=')[0]} out" in said


def test_what_the_weights_dont_depend_on_is_taken_from_the_options():
    assert check_beside_checkpoint({"label_smoothing": 0.0}, RECORDED, "x")["label_smoothing"] == 0.0
    assert check_beside_checkpoint({"levels": 4}, RECORDED, "x")["label_smoothing"] == 0.1


def test_where_a_training_started_from_is_history():
    taken = check_beside_checkpoint({"weights": "old.pt"}, RECORDED, "x")
    assert taken["weights"] is None
    assert taken["pretrained"] is False
    with pytest.raises(ValueError, match=r"model.weights is new.pt, but all weights come from x, whose training"):
        check_beside_checkpoint({"weights": "new.pt"}, RECORDED, "x")


def test_a_checkpoint_of_other_code_says_nothing_of_the_network():
    assert check_beside_checkpoint({"network": "resnet18"}, {"lr": 0.1}, "x") == {}
    for given in ({"weights": "w.pth"}, {"pretrained": True}):
        with pytest.raises(ValueError, match="Weights are given twice: all come from x"):
            check_beside_checkpoint(given, {"lr": 0.1}, "x")


@pytest.mark.filterwarnings("ignore:.*exists and is not empty", "ignore:The optimizer and its schedule go on")
def test_weights_that_have_moved_are_not_needed_again(fitted):
    shutil.copy(checkpoint(fitted), "start.ckpt")
    start = ["--model.weights=start.ckpt", "--checkpoint.dirpath=ckpt"]
    main(["fit", *QUICK, *start, "--ftbc.enabled=false"])
    Path("start.ckpt").unlink()
    saved = torch.load("ckpt/last.ckpt", weights_only=True)
    assert saved["started_from"] == {"weights": "start.ckpt", "pretrained": False}
    assert "weights" not in saved["hyper_parameters"]
    ImageClassifier.load_from_checkpoint("ckpt/last.ckpt", weights_only=True)
    main(["calibrate", *QUICK, "--ckpt_path=ckpt/last.ckpt", "--ftbc.output_dir=out"])
    # The command of the training, with where to go on, which is how runs are resumed.
    main(["fit", *QUICK, *start, "--trainer.max_epochs=2", "--ckpt_path=ckpt/last.ckpt", "--ftbc.output_dir=more"])
    assert torch.load("ckpt/last.ckpt", weights_only=True)["started_from"]["weights"] == "start.ckpt"


def test_checkpoints_of_earlier_versions_serve_too(fitted):
    content = torch.load(checkpoint(fitted), weights_only=True)
    content["hyper_parameters"] |= {"weights": "gone.pt", "pretrained": True}
    del content["started_from"]
    torch.save(content, "earlier.ckpt")
    main(["calibrate", *QUICK, "--ckpt_path=earlier.ckpt", "--ftbc.output_dir=out"])
    assert results("out")["accuracy"] == results(fitted / "out")["accuracy"]
    written = yaml.safe_load(Path("out/config.yaml").read_text())
    assert written["model"].get("weights") is None
    assert written["model"]["pretrained"] is False


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--ftbc.num_steps=16", "ftbc.num_steps is 16, but the network in {} was made with num_steps 4"),
        ("--ftbc.solver=heuristic", "ftbc.solver is heuristic, but the network in {} was made with solver exact"),
        ("--ftbc.alpha=0.1", "ftbc.alpha is 0.1, but the network in {} was made with alpha 0.5"),
        ("--ftbc.threshold=max", "ftbc.threshold is max, but the network in {} was made with threshold mse"),
        ("--model.network=cifar_vgg16", "model.network is cifar_vgg16, but the network in {} was made with network"),
        ("--ftbc.batch_size=7", "ftbc.batch_size is 7, but the network in {} was made with batch_size 40"),
        ("--ftbc.enabled=false", "ftbc.enabled is False, but the network in {} was made with enabled True"),
        ("--ftbc.network=net", "ftbc.network takes no effect on the network saved in {}, which is made already"),
        ("--ftbc.weights=ridge", "ftbc.weights is ridge, but the network in {} was made with weights keep"),
        ("--ftbc.num_steps=0", "ftbc.num_steps is 0, but the network in {} was made with num_steps 4"),
        ("--model.levels=16", "model.levels is 16, but the network in {} was made with levels 4"),
    ],
)
def test_options_that_take_no_effect_on_a_saved_network_are_refused(option, message, fitted, capsys):
    path = fitted / "out"
    assert message.format(path) in refused(capsys, "test", f"--snn_path={path}", option)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_two_networks_are_refused(command, fitted, capsys):
    said = refused(capsys, command, f"--snn_path={fitted / 'out'}", f"--ckpt_path={checkpoint(fitted)}")
    assert "Two networks are given, the spiking one in" in said


def test_so_are_weights_beside_a_saved_network_but_those_it_was_made_of(fitted):
    for name in ("snn.json", "snn.safetensors", "config.yaml"):
        shutil.copy(fitted / "out" / name, name)
    with pytest.raises(ValueError, match=r"model.weights is w.pth, but the network saved in \. has its"):
        check_beside_saved({"model": {"weights": "w.pth"}}, ".")
    config = yaml.safe_load(Path("config.yaml").read_text())
    config["model"]["weights"] = "w.pth"
    Path("config.yaml").write_text(yaml.safe_dump(config))
    assert check_beside_saved({"model": {"weights": "w.pth"}}, ".")["model"]["weights"] is None


def test_the_configuration_says_how_a_saved_network_was_made(fitted):
    main(["test", "--data=DigitsData", "--data.eval_batch_size=72", "--trainer.accelerator=cpu",
          f"--snn_path={fitted / 'out'}", "--ftbc.time_chunk=2", "--ftbc.output_dir=again"])  # fmt: skip
    written = yaml.safe_load(Path("again/config.yaml").read_text())
    before = yaml.safe_load((fitted / "out/config.yaml").read_text())
    assert written["ftbc"]["num_steps"] == 4
    assert written["ftbc"]["time_chunk"] == 2
    assert written["model"]["levels"] == before["model"]["levels"] == 4
    assert written["model"]["in_chans"] == 1


def test_a_network_without_the_configuration_of_its_run_states_what_it_can(fitted):
    for name in ("snn.json", "snn.safetensors"):
        shutil.copy(fitted / "out" / name, name)
    for path in (".", "snn", "snn.json", "snn.safetensors"):
        assert how_it_was_made(path)["ftbc"]["num_steps"] == 4
    with pytest.raises(ValueError, match=r"ftbc\.alpha takes no effect on the network saved in snn"):
        check_beside_saved({"ftbc": {"alpha": 0.1}}, "snn")
    with pytest.raises(ValueError, match="activation is relu, but the network in snn was made with activation qcfs"):
        check_beside_saved({"model": {"activation": "relu"}}, "snn")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"not weights, but words\n" * 10, "it is a text file"),
        (b"\x80\x04\x95\x10\x00\x00\x00", "could run code"),
        (b"PK\x03\x04 cut off", "cut off or damaged"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "test", "calibrate"])
def test_a_file_that_is_no_checkpoint_is_said_to_be_none(command, content, message, capsys):
    Path("bad.ckpt").write_bytes(content)
    said = refused(capsys, command, "--ckpt_path=bad.ckpt")
    assert "bad.ckpt" in said
    assert message in said


def test_so_are_weights_where_a_training_should_go_on(capsys):
    torch.save({"fc.weight": torch.zeros(2)}, "weights.pt")
    assert "without a state_dict: give the weights" in refused(capsys, "fit", "--ckpt_path=weights.pt")


def test_a_checkpoint_that_is_not_there_is_said_to_be_missing(capsys):
    assert "There is no checkpoint gone.ckpt: correct ckpt_path." in refused(capsys, "fit", "--ckpt_path=gone.ckpt")


def test_checkpoint_and_saved_network_are_not_taken_for_each_other(tmp_path):
    (tmp_path / "snn.json").touch()
    for path in (tmp_path, tmp_path / "snn.json"):
        with pytest.raises(ValueError, match="is a saved spiking network, no checkpoint: use --snn_path"):
            check_path(str(path))
    (tmp_path / "best.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"best\.ckpt is another file: if it is a checkpoint, use --ckpt_path"):
        load_snn(tmp_path / "best.ckpt")


@pytest.mark.parametrize("command", ["validate", "test"])
def test_fewer_steps_and_the_plain_mean_may_be_asked_for(command, fitted):
    saved = [f"--snn_path={fitted / 'out'}"]
    main([command, *QUICK, *saved, "--ftbc.output_dir=all"])
    main([command, *QUICK, *saved, "--ftbc.output_dir=few", "--ftbc.num_steps=2"])
    whole, few = results("all"), results("few")
    assert few["num_steps"] == 2
    assert few["accuracy"] == {key: values[:2] for key, values in whole["accuracy"].items()}
    assert all(len(site["temporal_bias_rms"]) == 2 for site in few["sites"] if site["temporal_bias_rms"])
    assert yaml.safe_load(Path("few/config.yaml").read_text())["ftbc"]["num_steps"] == 2
    main([command, *QUICK, *saved, "--ftbc.output_dir=mean", "--ftbc.readout=mean"])
    mean = results("mean")
    assert mean["accuracy"]["uncalibrated"] == whole["accuracy"]["uncalibrated"]
    assert mean["accuracy"]["calibrated"] != whole["accuracy"]["calibrated"]
    assert mean["calibration"]["readout_weights"] == [0.25] * 4


def test_a_prediction_by_fewer_steps_has_their_columns(fitted):
    saved = [f"--snn_path={fitted / 'out'}"]
    main(["predict", *QUICK, *saved, "--output=all.csv"])
    main(["predict", *QUICK, *saved, "--output=few.csv", "--ftbc.num_steps=2"])
    with open("all.csv") as one, open("few.csv") as other:
        whole, few = list(csv.DictReader(one)), list(csv.DictReader(other))
    assert [row["class_T2"] for row in whole] == [row["class"] for row in few]
    assert "class_T3" not in few[0]


def test_options_that_predict_has_no_use_for_are_refused(fitted, capsys):
    said = refused(capsys, "predict", f"--snn_path={fitted / 'out'}", "--ftbc.output_dir=out")
    assert "ftbc.output_dir takes no effect on predict: use --output and --overwrite." in said


def test_a_network_that_was_calibrated_for_the_mean_has_no_other_readout(fitted, capsys):
    main(["calibrate", *QUICK, f"--ckpt_path={checkpoint(fitted)}", "--ftbc.readout=mean", "--ftbc.output_dir=mean"])
    assert "ftbc.readout is least_squares, but the network in mean was made with readout mean" in refused(
        capsys, "test", "--snn_path=mean", "--ftbc.readout=least_squares", "--ftbc.output_dir=again"
    )
    assert results("mean")["accuracy"]["readout_only"] is None
    Path("mean/config.yaml").unlink()
    assert how_it_was_made("mean")["ftbc"]["readout"] == "mean"
    main(["test", "--data=DigitsData", "--data.eval_batch_size=72", "--trainer.accelerator=cpu", "--snn_path=mean",
          "--ftbc.output_dir=again", "--ftbc.num_steps=3"])  # fmt: skip
    assert results("again")["num_steps"] == 3
    trainer = FTBCTrainer(accelerator="cpu", logger=False, callbacks=[FTBC(readout="least_squares", output_dir="x")])
    with pytest.raises(ValueError, match="expected readout mean, with which the saved network was calibrated"):
        trainer.test(datamodule=DigitsData(), snn_path="mean")
    trainer = FTBCTrainer(accelerator="cpu", logger=False, callbacks=[FTBC(num_steps=5, output_dir="x")])
    with pytest.raises(ValueError, match=r"expected num_steps in 1\.\.4, .*, got 5"):
        trainer.predict(datamodule=DigitsData(), snn_path="mean")


def test_a_configuration_beside_a_network_that_cant_be_read_hides_nothing(fitted):
    shutil.copytree(fitted / "out", "copy")
    Path("copy/config.yaml").write_text("a: [unclosed")
    made = how_it_was_made("copy")["ftbc"]
    assert (made["num_steps"], made["readout"], made["weights"]) == (4, "least_squares", "keep")
