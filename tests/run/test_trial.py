"""What can't be converted or measured is known before the work; what a training leaves in a network can be copied."""

import threading
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from ftbc_pl import FTBC, FTBCTrainer, convert, save_snn
from ftbc_pl.conversion import ConversionError
from ftbc_pl.data import DigitsData
from ftbc_pl.models import create_network
from ftbc_pl.options import ConversionOptions
from ftbc_pl.safety.trial import check_convertible
from tests.pipeline import results

pytestmark = pytest.mark.usefixtures("own_folder")
BARE = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def small(activation=nn.ReLU, last=nn.Linear):
    size = () if last is nn.LazyLinear else (32,)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), activation(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                         last(*size, 10))  # fmt: skip


class Keeps(nn.Module):
    """Keeps its features, so that after a training step they hang on its graph."""

    def __init__(self):
        super().__init__()
        self.body = small()

    def forward(self, x):
        self.features = self.body[:2](x)
        return self.body[2:](self.features)


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.lock = small(), threading.Lock()

    def forward(self, x):
        return self.body(x)


class Task(LightningModule):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("accuracy", (self.network(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


def fit(network):
    callback = FTBC(num_steps=2, batch_size=40, output_dir="out")
    trainer = Trainer(**BARE, max_epochs=1, limit_train_batches=2, limit_val_batches=1, num_sanity_val_steps=0,
                      enable_checkpointing=False, callbacks=[callback])  # fmt: skip
    try:
        trainer.fit(Task(network), datamodule=DigitsData(eval_batch_size=72, num_workers=0))
    finally:
        fit.steps = trainer.global_step


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["kept features", "weight_norm"])
def test_what_a_training_step_leaves_in_a_network_does_no_harm(kind):
    network = Keeps() if kind == "kept features" else small()
    if kind == "weight_norm":
        nn.utils.weight_norm(network[0])
    fit(network)
    assert results("out")["num_steps"] == 2


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small(nn.GELU), "1 .*gelu: it is not a ReLU"),
        (lambda: small(nn.GELU, nn.LazyLinear), "1 .*gelu: it is not a ReLU"),
        (Locked, "it can't be copied: TypeError: cannot pickle '_thread.lock'"),
        (lambda: nn.Sequential(nn.Conv1d(64, 8, 1), nn.ReLU()), "it does not run on images of shape"),
    ],
    ids=["GELU", "lazy", "lock", "shape"],
)
def test_what_can_not_be_converted_is_said_before_the_training(make, message):
    with pytest.raises(ConversionError, match=message):
        fit(make())
    assert fit.steps == 0
    assert not Path("out/results.json").exists()


def test_a_trial_changes_neither_network_nor_random_numbers():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU(), nn.Flatten()).double()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loader = torch.utils.data.DataLoader(torch.rand(8, 1, 8, 8), batch_size=4, shuffle=True)
    numbers = torch.get_rng_state()
    check_convertible(network, loader, ConversionOptions(num_steps=2))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), numbers)


@pytest.mark.parametrize("split", ["validate", "test", "predict"])
def test_a_saved_network_of_other_classes_is_refused(split):
    images = torch.randn(4, 1, 8, 8)
    save_snn(convert(create_network("cifar_resnet20", num_classes=7, in_chans=1).eval(), 2, batches=[images]), "snn")
    trainer = FTBCTrainer(**BARE, callbacks=[FTBC(output_dir="out")])
    with pytest.raises(ValueError, match="The network has 7 classes, the data 10: give the data that it was trained"):
        getattr(trainer, split)(datamodule=DigitsData(num_workers=0), snn_path="snn")
