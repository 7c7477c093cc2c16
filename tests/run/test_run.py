"""What follows a training is the same whoever asks for it: command line, trainer in Python, callback in plain code."""

import csv
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer, seed_everything

import callbacks
from ftbc_pl import FTBC, FTBCTrainer
from ftbc_pl.cli import main
from ftbc_pl.data import DigitsData
from ftbc_pl.models import create_network
from ftbc_pl.task import ImageClassifier
from tests.pipeline import QUICK, checkpoint, python, results

pytestmark = pytest.mark.usefixtures("own_folder")
FILES = {"snn.safetensors", "snn.json", "results.json", "report.html", "config.yaml"}
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
OPTIONS = {"num_steps": 4, "batch_size": 40, "fold_bn": False}
# What differs between two runs of the same network: how long it took, and what the configuration says of the run.
OWN = ("seconds", "settings", "links")


def same_results(one, other):
    def shared(found):
        found = {key: value for key, value in found.items() if key not in OWN}
        return found | {"calibration": {k: v for k, v in found["calibration"].items() if k not in OWN}}

    return shared(results(one)) == shared(results(other))


def same_network(one, other):
    first, second = (safetensors.torch.load_file(Path(folder) / "snn.safetensors") for folder in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


class PlainTask(LightningModule):
    """A task of the user's own, which knows nothing of this package."""

    def __init__(self):
        super().__init__()
        self.network = create_network("cifar_resnet20", num_classes=10, in_chans=1)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.network(images), labels)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("val/accuracy", (self.network(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


def test_trainer_in_python_leaves_what_the_command_line_leaves(fitted):
    model = ImageClassifier(in_chans=1, levels=4)
    trainer = FTBCTrainer(**QUIET, callbacks=[FTBC(**OPTIONS, output_dir="python")])
    trainer.calibrate(model, DigitsData(eval_batch_size=72), ckpt_path=str(checkpoint(fitted)))
    assert {path.name for path in Path("python").iterdir()} == FILES
    assert same_network("python", fitted / "out")
    assert same_results("python", fitted / "out")


def test_fit_in_python_writes_results_without_the_command_line():
    trainer = FTBCTrainer(
        **QUIET, max_epochs=1, limit_train_batches=1, callbacks=[FTBC(**OPTIONS, output_dir="python")],
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(ImageClassifier(in_chans=1, levels=4), DigitsData())
    assert {path.name for path in Path("python").iterdir()} == FILES


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no")
def test_the_callback_in_plain_code_leaves_what_calibrate_leaves():
    seed_everything(0)
    callback = FTBC(**OPTIONS, output_dir="plain")
    model = PlainTask()
    trainer = Trainer(
        **QUIET, max_epochs=1, limit_train_batches=2, callbacks=[callback], enable_checkpointing=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, datamodule=DigitsData(eval_batch_size=72))
    assert {path.name for path in Path("plain").iterdir()} == FILES
    assert yaml.safe_load(Path("plain/config.yaml").read_text())["ftbc"]["num_steps"] == 4
    again = FTBCTrainer(**QUIET, callbacks=[FTBC(**OPTIONS, output_dir="again")])
    again.calibrate(model, DigitsData(eval_batch_size=72))
    assert same_network("plain", "again")
    assert same_results("plain", "again")
    assert callback.folder == Path("plain")
    assert callback.report.images == 40


def test_the_short_name_of_the_callbacks_is_theirs():
    assert callbacks.FTBC is FTBC


def test_a_project_with_callbacks_of_its_own_is_in_nobodys_way():
    Path("callbacks.py").write_text("raise RuntimeError('not this one')\n")
    root = Path(__file__).parents[2]
    done = python("fit", "--help", PYTHONPATH=f"{os.getcwd()}{os.pathsep}{root}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("precision", ["bf16-true", pytest.param("64-true", marks=pytest.mark.long)])
def test_what_is_measured_is_the_network_that_is_saved(fitted, precision):
    arguments = [f"--ckpt_path={checkpoint(fitted)}", f"--trainer.precision={precision}", "--ftbc.output_dir=out"]
    main(["calibrate", *QUICK, *arguments])
    assert same_network("out", fitted / "out")
    assert results("out")["accuracy"] == results(fitted / "out")["accuracy"]
    main(["validate", *QUICK, "--snn_path=out", f"--trainer.precision={precision}", "--ftbc.output_dir=valid"])
    assert results("valid")["accuracy"] == results("out")["accuracy"]
    main(["predict", *QUICK, "--snn_path=out", f"--trainer.precision={precision}", "--output=true.csv"])
    main(["predict", *QUICK, "--snn_path=out", "--output=mixed.csv"])
    with open("true.csv") as one, open("mixed.csv") as other:
        assert list(csv.reader(one)) == list(csv.reader(other))


OWN_SOLVER = '''
from ftbc_pl.calibration.solvers import SumSolver, register_solver


@register_solver("means")
class Means(SumSolver):
    """Shifts the mean membrane of each channel to the ANN's mean activation."""

    def update(self, step):
        others = [dim for dim in range(step.membrane.ndim) if dim != step.channel_dim]
        return step.membrane.sum(others)

    def compute(self, sums, step):
        return (step.target.activation - sums / step.target.count).to(sums.dtype)
'''
OWN_ACTIVATION = '''
import torch
from torch import nn

from ftbc_pl.functional.traceable import traceable
from ftbc_pl.layers import Activation, register_activation


@traceable
def bounded(x, threshold):
    return torch.minimum(x.relu(), threshold)


@register_activation("bounded")
class Bounded(Activation):
    """ReLU clipped at a learned threshold, at which its neurons fire."""

    function = staticmethod(bounded)
    start = 2.0
    learned = True

    def __init__(self, levels=1, threshold=start):
        super().__init__(levels, threshold)
        self.threshold = nn.Parameter(torch.tensor(float(threshold)))

    def forward(self, x):
        return bounded(x, self.threshold)
'''


@pytest.mark.slow
def test_a_solver_of_ones_own_works_from_yaml_by_its_name(fitted):
    Path("my_solver.py").write_text(OWN_SOLVER)
    Path("own.yaml").write_text("ftbc:\n  solver: my_solver:means\n")
    arguments = ["calibrate", *QUICK, "--config=own.yaml", f"--ckpt_path={checkpoint(fitted)}", "--ftbc.output_dir=own"]
    done = python(*arguments, PYTHONPATH=f"{os.getcwd()}{os.pathsep}{Path(__file__).parents[2]}")
    assert done.returncode == 0, done.stderr
    assert results("own")["calibration"]["solver"] == "my_solver:means"
    biases = [t for k, t in safetensors.torch.load_file("own/snn.safetensors").items() if k.endswith("temporal_bias")]
    assert all(bias.abs().max() > 0 for bias in biases)


@pytest.mark.slow
def test_an_activation_of_ones_own_is_trained_converted_saved_and_loaded():
    Path("my_activation.py").write_text(OWN_ACTIVATION)
    environment = {"PYTHONPATH": f"{os.getcwd()}{os.pathsep}{Path(__file__).parents[2]}"}
    done = python("fit", *QUICK, "--model.activation=my_activation:bounded", "--ftbc.output_dir=own", **environment)
    assert done.returncode == 0, done.stderr
    assert {(site["operation"], site["threshold_from"]) for site in results("own")["sites"]} == {("bounded", "learned")}
    done = python("validate", *QUICK, "--snn_path=own", "--ftbc.output_dir=again", **environment)
    assert done.returncode == 0, done.stderr
    assert results("again")["accuracy"] == results("own")["accuracy"]
