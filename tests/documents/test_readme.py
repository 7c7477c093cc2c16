"""The commands and the code of README.md, CONTRIBUTING.md and docs/ work."""

import copy
import re
import shlex
import subprocess

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ftbc_pl.cli import main
from ftbc_pl.sweeps.file import read_sweep
from ftbc_pl.sweeps.runs import command_line
from tests.documentation import PAGES, ROOT, commands, examples, name
from tests.imagefolders import write_splits
from tests.networks import create, images
from tests.pipeline import QUIET, results, run_folder

README = ROOT / "README.md"
COMMANDS = sorted({command for page in PAGES for command in commands(page)})
# docs/models.md and docs/own-images.md have tests of their own.
RUNNABLE = [page for page in PAGES if examples(page) and page.name not in ("models.md", "own-images.md")]
# What takes long or needs a network connection, and what stands for it.
INSTEAD = {
    'timm.create_model("resnet18", pretrained=True).eval()': "ann",
    "batch_size=200": "batch_size=3",
    "loss=0.005": "loss=0.2",
    "(1, 2, 4, 8)": "(1, 2)",
    "max_epochs=10, ": "max_epochs=1, accelerator='cpu', enable_checkpointing=False, logger=False, "
    "enable_progress_bar=False, ",
}


def test_there_are_commands():
    assert len(commands(README)) >= 8
    assert len(COMMANDS) >= 25


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command)
    help_wanted = "--help" in arguments
    with pytest.raises(SystemExit) as ended:
        main(arguments if help_wanted else [*arguments[:1], "--print_config", *arguments[1:]])
    assert ended.value.code == 0
    assert {"export": "snn_path", "sweep": "file"}.get(arguments[0], "ftbc") in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_scripts_sweeps_and_targets_that_are_named_are_there(page):
    text = page.read_text()
    for script in re.findall(r"python (benchmarks/\w+\.py)|wandb sweep (\S+)", text):
        assert (ROOT / "".join(script)).is_file()
    for target in set(re.findall(r"(?:^\s+|`)make (\w+)", text, flags=re.M)):
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_the_readme_starts_with_the_two_commands_and_stays_short():
    text = README.read_text()
    assert re.findall(r"^ +make (\w+)", text, flags=re.M) == ["quickstart", "test"]
    assert text.index("make test") < text.index("## Your own images") < text.index("## Results")
    assert len(text.splitlines()) <= 181
    assert len(text.split()) <= 1500


def test_the_sweep_file_of_the_docs_is_one(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "sweeps.md").read_text()
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", page, flags=re.M | re.S)
    file = tmp_path / "solvers.yaml"
    file.write_text(text)
    monkeypatch.setenv("WEIGHTS", "best.ckpt")
    monkeypatch.chdir(ROOT)
    sweep = read_sweep(file)
    assert len(sweep.grid()) == 4
    _, *module, command = command_line(sweep, sweep.grid()[0], tmp_path / "run")[:4]
    assert [*module, command] == ["-m", "ftbc_pl", "calibrate"]
    with pytest.raises(SystemExit) as ended:
        main([command, "--print_config", *command_line(sweep, sweep.grid()[-1], tmp_path / "run")[4:]])
    assert ended.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["ftbc"]["solver"], printed["ftbc"]["num_steps"]) == ("balanced", 8)
    assert printed["model"]["weights"] == "best.ckpt"


class Task(LightningModule):
    """A task of one's own around a network."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        inputs, labels = batch
        return nn.functional.cross_entropy(self.model(inputs), labels)

    def validation_step(self, batch, batch_idx):
        inputs, labels = batch
        self.log("val/loss", nn.functional.cross_entropy(self.model(inputs), labels))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


def scope_of(page):
    """What the examples of a page take as given: a network, its data, and a LightningModule around it."""
    torch.manual_seed(0)
    small = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    data = TensorDataset(images(12, 32), torch.arange(12) % 10)
    module = Task(copy.deepcopy(small).train())
    return {
        "ann": create("resnet18") if page == README else small.eval(),
        "module": module,
        "train_set": data,
        "loader": [data[:4], data[4:8], data[8:]],
        "train_loader": DataLoader(data, 4),
        "val_loader": DataLoader(data, 4),
        "test_loader": DataLoader(data, 4),
        "images": images(2, 32),
    }


@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_the_python_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = scope_of(page)
    for code in examples(page):
        for text, other in INSTEAD.items():
            code = code.replace(text, other)
        exec(compile(code, page.name, "exec"), scope)
    if page == README:
        assert scope["accuracy"].shape == (8,)
        snn = scope["snn"]
        assert torch.equal(snn(images(2, 32)), scope["outputs"])
        assert torch.equal(snn.readout(snn(images(2, 32))), scope["logits"])


@pytest.mark.slow
def test_own_images_need_one_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_splits(tmp_path / "FOLDER", train=10, test=2, size=40)
    page = ROOT / "docs" / "own-images.md"
    fit, test, predict = (shlex.split(command) for command in commands(page))
    assert shlex.split(commands(README)[0]) == fit[: fit.index("--ftbc.output_dir")]
    smaller = ["--data.input_size=32", "--data.num_workers=0", "--data.eval_batch_size=2", "--trainer.accelerator=cpu"]
    untrained = ["--model.pretrained=false", "--trainer.max_epochs=1", "--data.batch_size=6", "--ftbc.batch_size=6"]
    main([*fit, *QUIET, *smaller, *untrained, "--ftbc.num_steps=2"])
    found = results("runs/mine")
    assert found["num_steps"] == 2
    assert {path.name for path in (tmp_path / "runs/mine").iterdir()} == {
        "snn.safetensors", "snn.json", "results.json", "report.html", "config.yaml"
    }  # fmt: skip
    main([*test, *QUIET, *smaller])
    tested = results(run_folder())["accuracy"]["calibrated"]
    assert len(tested) == 2
    scope = {}
    for code in examples(page):
        exec(compile(code, page.name, "exec"), scope)
    assert scope["accuracy"].tolist() == tested
    main([*predict, *QUIET, *smaller])
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + 2 * 2


def test_the_table_of_the_readme_is_taken_from_the_results():
    measured = (ROOT / "docs" / "results.md").read_text()
    rules = {
        "none": "uncalibrated | mean",
        "the paper's rule": "heuristic, α = 0.4, 3 × 200 images | mean",
        "ours, the default": "exact, 1 × 200 images | least squares",
    }
    network, compared = "", 0
    for row in re.findall(r"^\|(.*)\|$", README.read_text(), flags=re.M):
        cells = [cell.strip() for cell in row.split("|")]
        if len(cells) < 3 or cells[2] not in rules:
            continue
        if cells[0]:
            network = measured[measured.index(f"**{cells[0].removesuffix(')').split(' (')[0]}") :]
            assert f"ANN {cells[1]} %" in network.split("\n")[0]
        line = re.search(rf"^\| {re.escape(rules[cells[2]])} \|(.*?)$", network, flags=re.M).group(1)
        one, _, four, eight, _, last = [cell.split("±")[0].strip() for cell in line.split("|")[:6]]
        assert cells[3:] == [one, four, eight, last]
        compared += 1
    assert compared == 12
