"""Fits with two processes and saves the state that each of them ends with; run as a script."""

import torch
from lightning.pytorch import Trainer, seed_everything

from callbacks import FTBC
from ftbc_pl.data import DigitsData
from ftbc_pl.task import ImageClassifier

if __name__ == "__main__":
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    callback = FTBC(num_steps=3, batch_size=30, output_dir="ranks")
    trainer = Trainer(
        max_epochs=1, limit_train_batches=2, limit_val_batches=1, accelerator="cpu", devices=2, strategy="ddp",
        callbacks=[callback], logger=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(ImageClassifier(in_chans=1, levels=4), datamodule=DigitsData())
    assert callback.snn is not None
    torch.save(callback.snn.state_dict(), f"rank{trainer.global_rank}.pt")
