"""A run says what concerns it, and its last lines are the answer."""

import logging
import os
import subprocess
import sys
import warnings

import pytest
from lightning.pytorch import Trainer

from ftbc_pl.cli import main
from ftbc_pl.command.quiet import LogEachEpoch, quiet, say_all
from ftbc_pl.data import DigitsData
from tests.pipeline import QUICK, QUIET, ROOT

LOG = logging.getLogger("lightning.pytorch.utilities.rank_zero")
AS_IT_IS = [*(argument for argument in QUICK if argument not in QUIET), "--trainer.log_every_n_steps=1"]
NOISE = ("Tip", "TPU", "FLOPs", "eval mode", "Loading `train_dataloader`")


@pytest.mark.usefixtures("own_folder")
def test_a_run_is_quiet_and_its_last_lines_are_the_answer(caplog, capsys):
    main(["fit", *AS_IT_IS])
    said = [*caplog.messages, capsys.readouterr().out]
    assert not [text for text in said for noise in (*NOISE, "━", "shape") if noise in text]
    assert "CifarResNet: 272,205 parameters to train." in caplog.messages
    (epoch,) = [text for text in caplog.messages if text.startswith("Epoch ")]
    assert epoch.startswith("Epoch 1 of 1: ")
    assert "val/accuracy 0." in epoch
    *_, accuracy, saved = caplog.messages[-1].strip().splitlines()
    assert accuracy.startswith("Accuracy on")
    assert saved.startswith("Saved to runs/")


@pytest.mark.parametrize(
    ("settings", "batches"),
    [({}, 4), ({"limit_train_batches": 2}, 2), ({"limit_train_batches": 0.5}, 2), ({"log_every_n_steps": 3}, 3)],
)
def test_a_short_epoch_logs_its_loss(settings, batches, tmp_path):
    data = DigitsData(batch_size=300, val_split=0, num_workers=0)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path, **settings)
    trainer.datamodule = data
    LogEachEpoch().setup(trainer, None, "fit")
    assert trainer.log_every_n_steps == batches


@pytest.mark.usefixtures("own_folder")
def test_verbose_says_the_rest(caplog, capsys):
    main(["fit", *AS_IT_IS, "--verbose"])
    assert any("shape" in text and "firing rate" in text for text in caplog.messages)
    assert any("Tip" in text for text in caplog.messages)
    assert "Total params" in capsys.readouterr().out
    assert not LOG.isEnabledFor(logging.DEBUG)


@pytest.mark.slow
@pytest.mark.usefixtures("own_folder")
def test_nothing_is_drawn_below_the_results_on_a_terminal():
    env = os.environ | {"PYTHONPATH": str(ROOT), "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}
    command = [sys.executable, "-m", "ftbc_pl", "fit", *AS_IT_IS]
    done = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=True
    )
    assert "━" in done.stdout
    assert "━" not in done.stdout.partition("Saved to")[2]


def test_only_what_others_say_of_themselves_is_left_out(caplog, recwarn):
    with quiet():
        for module in ("lightning.pytorch.cli", "jsonargparse", "torch.jit", "mine", "torchmine"):
            for category in (FutureWarning, DeprecationWarning, UserWarning):
                warnings.warn_explicit(module, category, "file.py", 1, module=module)
        for text in ("💡 Tip: buy this", "TPU available: False, using: 0 TPU cores", "GPU available: False", "seed"):
            LOG.info(text)
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
    shown = sorted((str(w.message), w.category.__name__) for w in recwarn)
    assert [kind for module, kind in shown if module not in ("mine", "torchmine")] == ["UserWarning"] * 3
    assert len(shown) == 3 + 6
    assert caplog.messages == ["GPU available: False", "seed"]


def test_on_request_all_is_said(caplog):
    with quiet():
        say_all()
        LOG.info("💡 Tip: buy this")
    assert caplog.messages == ["💡 Tip: buy this"]
