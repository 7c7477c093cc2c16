"""What a newcomer reads: help that fits on a screen, errors in two lines, and the names that were meant."""

import importlib
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from huggingface_hub import get_session

from ftbc_pl.cli import main
from ftbc_pl.command.endings import message
from ftbc_pl.command.mistakes import class_names
from ftbc_pl.command.parser import SHOWN
from ftbc_pl.command.table import COMMANDS
from ftbc_pl.data import DigitsData
from tests.pipeline import ROOT

pytestmark = pytest.mark.usefixtures("own_folder")
RUNS = ["fit", "calibrate", "validate", "test", "predict"]
DIGITS = ["fit", "--data=DigitsData"]


def shown(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    usage, said = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: ftbc-pl ")
    assert said.startswith("ftbc-pl: error: ")
    return said.removeprefix("ftbc-pl: error: ")


@pytest.mark.parametrize("arguments", [["--help"], [], ["--version"], ["fti"]], ids=str)
def test_what_needs_no_torch_imports_none(arguments):
    code = f"""
import sys
from ftbc_pl.cli import main
try:
    main({arguments})
except SystemExit:
    print([name for name in ("torch", "lightning", "jsonargparse", "numpy", "yaml") if name in sys.modules])
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_top_help_lists_each_command_in_a_line(capsys):
    lines = shown(capsys, "--help").splitlines()
    assert len(lines) < 20
    for name, command in COMMANDS.items():
        assert any(line.split() == [name, *command.summary.split()] for line in lines)
        module, _, function = command.target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_a_command_that_is_not_there_is_guessed(capsys):
    assert refused(capsys, "calibrat").startswith("there is no command 'calibrat'; did you mean calibrate?")


@pytest.mark.parametrize("command", RUNS)
def test_the_help_of_a_command_fits_on_a_screen_and_starts_with_examples(command, capsys):
    lines = shown(capsys, command, "--help").splitlines()
    assert len(lines) < 60
    assert lines[4] == "Examples:"
    assert all(line.startswith(f"  ftbc-pl {command} --") for line in lines[5:7])
    options = [line for line in lines if line.startswith("  --")]
    assert max(map(len, options)) < 80
    made = {line.split()[0] for line in options}
    assert {"--config", "--ckpt_path", "--data", "--model.network", "--trainer.devices"} <= made
    assert ("--snn_path" in made) == (command in ("validate", "test", "predict"))
    assert ("--ftbc.num_steps" in made) == (command in ("fit", "calibrate"))


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("compare", ["--num_steps", "--solvers", "--weights", "--draws", "--split"]),
        ("sweep", ["FILE", "--count", "--output_dir", "--retry"]),
        ("export", ["--snn_path", "--format", "--output", "--overwrite"]),
    ],
)
def test_help_starts_with_the_options_of_the_command_itself(command, options, capsys):
    lines = shown(capsys, command, "--help").splitlines()
    assert len(lines) < 60
    assert lines[0].startswith(f"usage: ftbc-pl {command}")
    assert lines[4] == "Examples:"
    assert all(line.startswith(f"  ftbc-pl {command} ") for line in lines[5:7])
    assert lines[8] == f"Options of {command}:"
    assert [line.split()[0] for line in lines[9 : 9 + len(options)]] == options
    assert not lines[9 + len(options)]
    listed = [line.split()[0] for line in lines if line.startswith("  --")]
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweep"], "expected FILE"),
        (["sweep", "a.yaml", "--cont=3"], "there is no option --cont; did you mean --count?"),
        (["export", "--format=onnx"], "expected --snn_path and --output"),
        (["export", "--snn_path=a", "--output=b", "--format=onx"],
         "format: expected nir or onnx, got 'onx'; did you mean onnx?"),
    ],
)  # fmt: skip
def test_commands_without_a_trainer_name_mistakes_as_the_others_do(arguments, said, capsys):
    assert refused(capsys, *arguments) == said


def test_each_option_that_help_explains_is_one(capsys):
    pages = [shown(capsys, command, "--help") for command in ("fit", "test", "predict")]
    for dest in (dest for words in SHOWN.values() for dest in words):
        assert any(f"  --{dest}" in page for page in pages), dest


@pytest.mark.parametrize("command", RUNS[1:])
def test_only_a_training_shows_how_to_train(command, capsys):
    for page in (shown(capsys, command, "--help"), shown(capsys, command, "--help.all")):
        for word in ("--optimizer", "--lr_scheduler", "--checkpoint", "--trainer.max_epochs", "gradient_clip"):
            assert word not in page


def test_the_whole_help_has_every_option(capsys):
    page = shown(capsys, "fit", "--help.all")
    assert page.splitlines()[:2] == ["usage: ftbc-pl fit [options]", ""]
    for word in ("--optimizer", "--checkpoint.save_top_k", "--trainer.gradient_clip_val", "--ftbc.mean_weight"):
        assert word in page


def test_what_a_command_does_not_show_it_reads_all_the_same(capsys):
    written = yaml.safe_load(shown(capsys, "test", "--data=DigitsData", "--optimizer=Adam", "--print_config"))
    assert written["optimizer"]["class_path"] == "torch.optim.Adam"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "--data=ImageDat"], "data: expected a class, got 'ImageDat'; did you mean ImageData?"),
        (["fit", "--data=ImageData", "--data.rot=x"], "ImageData has no option data.rot; did you mean data.root?"),
        ([*DIGITS, "--ftbc.num_step=3"], "there is no option --ftbc.num_step; did you mean --ftbc.num_steps?"),
        ([*DIGITS, "--trainer.max_epoch", "3"], "there is no option --trainer.max_epoch; did you mean "
                                                "--trainer.max_epochs?"),
        ([*DIGITS, "--optimizer.lrr=3"], "SGD has no option optimizer.lrr; did you mean optimizer.lr?"),
        ([*DIGITS, "--optimizer=Adm"], "optimizer: expected a class, got 'Adm'; did you mean Adam?"),
        ([*DIGITS, "--trainer.logger=WandbLogger", "--trainer.logger.projct=x"],
         "WandbLogger has no option trainer.logger.projct; did you mean trainer.logger.project?"),
        ([*DIGITS, "--ftbc.readout=meen"],
         "ftbc.readout: expected least_squares or mean, got 'meen'; did you mean mean?"),
        ([*DIGITS, "--ftbc.num_steps=abc"], "ftbc.num_steps: expected a whole number, got 'abc'"),
        ([*DIGITS, "--data.val_split=x"], "data.val_split: expected a number, got 'x'"),
        ([*DIGITS, "extra"], "expected options, which start with --, got 'extra'"),
        (["test", "--data=DigitsData", "--snn_pat=x"], "there is no option --snn_pat; did you mean --snn_path?"),
        (["--data=DigitsData", "fit"], "--data is not accepted before the command: put it behind, as in ftbc-pl fit "
                                       "--data=DigitsData"),
        (["fit"], "expected --data: --data.root FOLDER of images, a data module (DigitsData or ImageData), or a "
                   "--config that names one"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_name_what_was_meant(arguments, said, capsys):
    assert refused(capsys, *arguments) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: {class_path: ImageDat}", "data: expected a class, got 'ImageDat'; did you mean ImageData?"),
        ("data: {class_path: DigitsData, init_args: {val_splt: 3}}",
         "DigitsData has no option data.val_splt; did you mean data.val_split?"),
        ("data: DigitsData\nftbc: {num_step: 3}", "there is no option ftbc.num_step; did you mean ftbc.num_steps?"),
        ("data: DigitsData\nftbc: 3", "ftbc: expected options, got 3"),
        ("data: DigitsData\ntrainer: []", "trainer: expected options, got []"),
        ("", "expected a configuration of sections (model, data, trainer …), got an empty file"),
        ("data: DigitsData\nmodl: {levels: 3}", "there is no option modl.levels; did you mean model.levels?"),
    ],
)  # fmt: skip
def test_so_are_those_of_a_file(text, said, capsys):
    Path("mine.yaml").write_text(text)
    assert refused(capsys, "fit", "--config=mine.yaml") == said


def from_the_hub(address):
    get_session().get(address)


@pytest.mark.parametrize("get", [urllib.request.urlopen, from_the_hub])
@pytest.mark.parametrize(
    ("name", "hint"), [("model.safetensors", "--model.weights FILE"), ("cifar.tar.gz", "copy them to data.root")]
)
def test_a_failed_download_says_what_and_what_to_do_without_a_network(get, name, hint, monkeypatch):
    for proxy in [key for key in os.environ if key.lower().endswith("_proxy")]:
        monkeypatch.delenv(proxy)
    address = f"http://127.0.0.1:1/{name}"
    try:
        try:
            get(address)
        except Exception as error:
            raise RuntimeError("it did not work.") from error
    except RuntimeError as error:
        said = message(error)
    assert said.startswith(f"can't fetch {address} (it did not work). Without a network: ")
    assert hint in said


def test_classes_that_no_configuration_can_name_are_not_offered():
    class Local(DigitsData):
        pass

    assert Local in DigitsData.__subclasses__()
    assert "Local" not in class_names("data")
    assert "DigitsData" in class_names("data")
