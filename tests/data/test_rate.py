"""What is said of the pace of the data after an epoch."""

import itertools
from types import SimpleNamespace

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from ftbc_pl.data import rate as module
from ftbc_pl.data.rate import DataRate


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def test_what_is_between_two_steps_of_a_training_is_waiting(tmp_path, monkeypatch):
    # Looked at when a batch is there and when its step is done: three seconds for each batch, two for each step.
    clock = itertools.accumulate(itertools.cycle([3.0, 2.0]))
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    rate = DataRate()
    trainer = Trainer(max_epochs=1, accelerator="cpu", callbacks=[rate], logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path)  # fmt: skip
    trainer.fit(Net(), DataLoader(TensorDataset(torch.zeros(80, 1)), batch_size=2))
    # 39 batches of 2, since the first one is left out: 78 images in 39 · 5 s and in 39 · 2 s.
    assert "0 images/s came to each process, its network takes 1; 60% of" in rate.sentence


def test_the_rates_are_images_in_the_seconds_of_data_and_of_the_network():
    rate = DataRate()
    rate._images, rate._batches = 3000, 30
    assert "1,000 images/s came to each process, its network takes 1,500; 33% of" in rate._said(1.0, 2.0)
    assert rate._said(0.1, 2.0) == ""
    rate._batches = 3
    assert rate._said(1.0, 2.0) == ""
