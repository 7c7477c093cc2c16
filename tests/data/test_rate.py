"""What is said of the pace of the data after an epoch."""

import time

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from ftbc_pl.data.rate import DataRate


class Slow(Dataset):
    def __init__(self, seconds):
        self.seconds = seconds

    def __len__(self):
        return 60

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return torch.zeros(1), 0


class Net(LightningModule):
    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.layer = seconds, torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        time.sleep(self.seconds)
        return self.layer(batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.mark.parametrize(("data", "step", "limited"), [(0.01, 0.0, True), (0.0, 0.02, False)])
def test_data_are_the_limit_where_the_network_waits(data, step, limited, tmp_path):
    rate = DataRate()
    trainer = Trainer(max_epochs=1, accelerator="cpu", callbacks=[rate], logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path)  # fmt: skip
    trainer.fit(Net(step), DataLoader(Slow(data), batch_size=2))
    assert rate.sentence.startswith("Data set the pace") == limited


def test_the_rates_are_images_in_the_seconds_of_data_and_of_the_network():
    rate = DataRate()
    rate._images, rate._batches = 3000, 30
    assert "1,000 images/s came to each process, its network takes 1,500; 33% of" in rate._said(1.0, 2.0)
    assert rate._said(0.1, 2.0) == ""
    rate._batches = 3
    assert rate._said(1.0, 2.0) == ""
