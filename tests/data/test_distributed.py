"""Two processes see each evaluation image once, and share out each calibration batch."""

import json

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from ftbc_pl.data import ImageData
from ftbc_pl.models import create_network
from tests.imagefolders import write_splits

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",  # a few dozen images need none
    "ignore:.*isinstance.treespec, LeafSpec:FutureWarning",  # Lightning's own
)


def fingerprints(images):
    return [round(value, 4) for value in images.double().square().mean((1, 2, 3)).tolist()]


def calibration(data):
    return [fingerprints(images) for images, _ in data.calibration_dataloader(5, 3)]


class Recorder(LightningModule):
    """Writes what each process gets to a file of its own."""

    def __init__(self, folder):
        super().__init__()
        self.network = create_network("cifar_resnet20", num_classes=2)
        self.folder, self.seen = folder, {"train": [], "val": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(fingerprints(batch[0]))
        return self.network(batch[0]).mean()

    def validation_step(self, batch, batch_idx):
        # a forward of DDP, which hangs unless all processes have as many batches
        self.network(batch[0])
        self.seen["val"].append(fingerprints(batch[0]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_end(self):
        seen = self.seen | {"calibration": calibration(self.trainer.datamodule)}
        with pytest.raises(ValueError, match="with an image for each of 2 processes, got 1"):
            self.trainer.datamodule.calibration_dataloader(1, 2)
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(seen))


def flat(batches):
    return sorted(value for batch in batches for value in batch)


@pytest.mark.slow
def test_two_processes(tmp_path):
    write_splits(tmp_path, train=20)
    data = ImageData(
        str(tmp_path),
        input_size=32,
        random_crop="none",
        hflip=0.0,
        val_split=5,
        batch_size=8,
        eval_batch_size=3,
        num_workers=0,
        pin_memory=False,
    )
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Recorder(tmp_path), datamodule=data)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]

    val = data.images("val")
    assert flat(ranks[0]["val"] + ranks[1]["val"]) == sorted(fingerprints(val.__getitems__(range(5))[0]))
    assert len(ranks[0]["val"]) == len(ranks[1]["val"])
    assert not set(flat(ranks[0]["train"])) & set(flat(ranks[1]["train"]))
    shares = [rank["calibration"] for rank in ranks]
    assert [[len(batch) for batch in share] for share in shares] == [[3, 3, 3], [2, 2, 2]]
    together = [sorted(one + other) for one, other in zip(*shares, strict=True)]
    assert together == [sorted(batch) for batch in calibration(data)]
