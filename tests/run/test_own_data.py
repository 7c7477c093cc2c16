"""A LightningDataModule of one's own, with the two usual loaders alone, and none at all."""

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ftbc_pl import FTBC, FTBCTrainer
from tests.pipeline import results

pytestmark = pytest.mark.usefixtures("own_folder")
BARE = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}


class Task(LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 3))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


class _Data(LightningDataModule):
    """Makes each of its sets in the setup of its stage alone."""

    def setup(self, stage):
        images, labels = torch.randn(24, 1, 3, 3, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3
        if stage == "fit":
            self.training = TensorDataset(images[:14], labels[:14])
        self.validation = TensorDataset(images[14:], labels[14:])

    def train_dataloader(self):
        return DataLoader(self.training, 4, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.validation, 4)


def trainer_of(**options):
    return FTBCTrainer(**BARE, max_epochs=1, callbacks=[FTBC(num_steps=2, output_dir="out", **options)])


def test_calibrate_takes_the_images_of_a_data_module_s_training_loader(caplog):
    caplog.set_level("INFO")
    trainer_of(exit_loss=0.5).calibrate(Task(), datamodule=_Data())
    found = results("out")
    assert found["images"] == 10
    assert found["calibration"]["images"] == 14
    assert "FTBC calibrates with 14 of the 14 images of the training loader" in caplog.text
    assert "Early exit set on 10 images" in caplog.text  # those of validation


def test_a_validation_loader_alone_brings_no_images_to_calibrate_with():
    with pytest.raises(TypeError, match="the data set of the training loader, but there is none: hand images in by"):
        trainer_of().calibrate(Task(), dataloaders=DataLoader(TensorDataset(torch.rand(4, 1, 3, 3), torch.arange(4))))


@pytest.mark.filterwarnings("ignore:.*`val_dataloader` but have no `validation_step`")
@pytest.mark.parametrize("limit", [None, 0])
def test_a_fit_without_validation_images_says_why_there_are_none(limit):
    loader = DataLoader(TensorDataset(torch.rand(4, 1, 3, 3), torch.arange(4) % 3), 4)
    trainer = FTBCTrainer(
        **BARE, max_epochs=1, limit_val_batches=limit, callbacks=[FTBC(num_steps=2, output_dir="out")]
    )
    why = "no loader was given" if limit is None else "limit_val_batches of the trainer is 0"
    with pytest.warns(UserWarning, match=rf"There are no validation images \({why}\): the last weights"):
        trainer.fit(Task(), loader, *([] if limit is None else [loader]))
