"""The callback takes batches of every form that a user's own training takes."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ftbc_pl import FTBC
from tests.networks import images, small_cnn
from tests.pipeline import results

pytestmark = pytest.mark.usefixtures("own_folder")
FORMS = {
    "a pair": lambda x, y: (x, y),
    "file names": lambda x, y: (x, y, "a.png"),
    "a dict": lambda x, y: {"image": x, "label": y},
    "a dict of three": lambda x, y: {"path": "a.png", "labels": y, "pixel_values": x},
}


class Task(LightningModule):
    """A training that knows the form of its batches."""

    def __init__(self, split):
        super().__init__()
        self.network, self.split = small_cnn(), split

    def training_step(self, batch, batch_idx):
        x, y = self.split(batch)
        return F.cross_entropy(self.network(x), y)

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def split(batch):
    values = list(batch.values()) if isinstance(batch, dict) else list(batch)
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    return sorted(tensors, key=lambda value: -value.ndim)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.filterwarnings("ignore")
def test_a_fit_leaves_its_results_whatever_the_form_of_its_batches(form):
    items = [form(x, y % 10) for y, x in enumerate(images(32))]
    loader = DataLoader(items, batch_size=8)
    trainer = Trainer(
        accelerator="cpu", logger=False, max_epochs=1, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[FTBC(num_steps=2, batch_size=16, output_dir="out")],
    )  # fmt: skip
    trainer.fit(Task(split), loader, loader)
    assert len(results("out")["accuracy"]["calibrated"]) == 2
