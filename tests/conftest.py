import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def few_threads():
    """Tests that run side by side, and the processes that they start, must not fight over the cores."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture
def fit_digits(tmp_path, monkeypatch):
    """Return a function that runs `fit` on a few digits in an empty folder, with further arguments, and returns that folder."""
    from ftbc_pl.cli import main

    monkeypatch.chdir(tmp_path)
    # Lightning warns of arguments of the process beside those of the call.
    monkeypatch.setattr("sys.argv", ["ftbc-pl"])

    def fit(*arguments):
        main(["fit", *FEW_DIGITS, *arguments])
        return tmp_path

    return fit


FEW_DIGITS = [
    "--data=DigitsData",
    "--data.batch_size=64",
    "--model.in_chans=1",
    "--model.levels=4",
    "--trainer.accelerator=cpu",
    "--trainer.logger=CSVLogger",
    "--trainer.logger.save_dir=.",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.limit_train_batches=3",
    "--trainer.limit_val_batches=1",
    "--trainer.max_epochs=1",
    "--ftbc.enabled=false",
]
