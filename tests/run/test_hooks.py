"""Hooks of a module or a datamodule that prepare batches, as Lightning runs them between a loader and a step."""

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader

from ftbc_pl import FTBC, FTBCTrainer
from tests.pipeline import results
from tests.run.test_own_module import BARE, Classifier, data, small, trainer_of

pytestmark = pytest.mark.usefixtures("own_folder")


class Prepared(Classifier):
    """Scales its images in one of Lightning's hooks, and spoils them where it hears that it is trained."""

    def prepared(self, batch):
        return (batch[0] * 20 + (100 if self.training and self.trainer.training else 0), *batch[1:])

    def training_step(self, batch, batch_idx):
        return super().training_step((batch[0] - 100, batch[1]), batch_idx)


class Before(Prepared):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        return self.prepared(batch)


class During(Prepared):
    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return super().transfer_batch_to_device(self.prepared(batch), device, dataloader_idx)


class After(Prepared):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return self.prepared(batch)


class _OfData(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(data(), 24)

    val_dataloader = train_dataloader

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] * 20, batch[1]


@pytest.mark.parametrize("kind", [Before, During, After, _OfData])
def test_hooks_prepare_the_images_that_calibrate_and_measure(kind):
    """Thresholds and accuracy are those of the images that the network sees, after a training and later."""
    loaders = [DataLoader(data(), 24)] * 2 if kind is not _OfData else []
    module = Classifier(model=small()) if kind is _OfData else kind(model=small())
    source = {"datamodule": _OfData()} if kind is _OfData else {}
    callback = FTBC(num_steps=2, output_dir="out", threshold="max")
    trainer_of(callback).fit(module, *loaders, **source)
    images, labels = data().tensors
    seen = images * 20
    top = nn.functional.relu(module.model[0](seen)).amax((0, 2, 3))
    assert torch.allclose(callback.snn.sites[0].threshold.flatten(), top)
    right = float((module.model(seen).argmax(1) == labels).float().mean())
    assert results("out")["ann"]["accuracy"] == pytest.approx(right)
    later = FTBC(num_steps=2, output_dir="later", threshold="max", calibration=[(images, labels)])
    source = source or {"dataloaders": loaders[0]}
    FTBCTrainer(callbacks=[later], logger=False, **BARE).calibrate(module, **source)
    assert torch.allclose(later.snn.sites[0].threshold.flatten(), top)
    assert results("later")["ann"]["accuracy"] == pytest.approx(right)
