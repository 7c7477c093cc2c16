"""The command line ends with one sentence, whatever was typed."""

import csv
import os
import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
import wandb

from ftbc_pl.cli import data_first, main
from ftbc_pl.command import offline
from ftbc_pl.command.endings import message
from ftbc_pl.command.offline import can_connect, choose_offline, why_offline
from ftbc_pl.predictions import KnownImages, decided_at, harmless
from tests.pipeline import QUICK, QUIET

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trainer.accelerator=tpu"], "torch_xla"),
        (["--trainer.accelerator=gpu", "--trainer.devices=1"], ""),
        (["--trainer.accelerator=hal9000"], "hal9000"),
        (["--trainer.strategy=magic"], "magic"),
        (["--trainer.precision=3"], "precision"),
        (["--ftbc.num_steps=1000000000"], "num_steps must be at most 4,096, got 1,000,000,000"),
        (["--model.network_args={nonsense: 3}"], "nonsense"),
        (["--model.num_classes=3"], "num_classes"),
        (["--config=none.yaml"], "none.yaml"),
        (["--config=/dev/null/x"], "/dev/null/x"),
        (["--optimizer.lr=-1"], "learning rate"),
        (["--trainer.max_epochs=-5"], ""),
        (["--ftbc.output_dir=/dev/null/x"], "/dev/null"),
        (["--ftbc.network=nothing"], "nothing"),
        (["--model.network=hf-hub:"], ""),
        (["--trainer.limit_train_batches=7.5"], "limit_train_batches"),
        (["--checkpoint.monitor=val/none"], "val/none"),
    ],
)
def test_bad_options_end_without_a_traceback(arguments, words, capsys):
    if arguments == ["--trainer.accelerator=gpu", "--trainer.devices=1"] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as ended:
        main(["fit", *QUICK, *arguments])
    said = capsys.readouterr().err
    assert ended.value.code in (1, 2)
    assert "Traceback" not in said
    assert "error" in said
    assert words in said


def test_an_error_of_which_nobody_thought_is_one_line_too(capsys, monkeypatch):
    def broken(*_):
        raise KeyError("strange")

    monkeypatch.setattr("ftbc_pl.run.convert", broken)
    monkeypatch.setattr("ftbc_pl.callbacks.load_trained_weights_", broken)
    with pytest.raises(SystemExit) as ended:
        main(["fit", *QUICK])
    assert ended.value.code == 1
    assert "ftbc-pl: error: KeyError: 'strange'\n(FTBC_DEBUG=1" in capsys.readouterr().err
    monkeypatch.setenv("FTBC_DEBUG", "1")
    with pytest.raises(KeyError):
        main(["fit", *QUICK])


def test_messages_say_what_kind_of_error_they_are_where_the_words_do_not():
    assert message(ValueError("expected this")) == "expected this"
    assert message(IndexError("7")) == "IndexError: 7"
    assert message(AssertionError()) == "AssertionError"


def test_an_interruption_inside_of_a_loop_has_its_own_status(fitted, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ftbc_pl.evaluation.module.SpikingClassifier.test_step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as ended:
            main(["test", *QUICK, f"--snn_path={fitted / 'out'}", "--ftbc.output_dir=out"])
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores it from then on
    assert ended.value.code == 130
    assert "interrupted; no file is half-written" in capsys.readouterr().err


def test_options_of_the_data_may_come_before_the_data():
    given = ["fit", "--data.val_split=0.5", "--model.levels=4", "--data", "DigitsData", "--data.seed=1"]
    assert data_first(given) == ["fit", "--data", "DigitsData", "--data.val_split=0.5", "--model.levels=4",
                                 "--data.seed=1"]  # fmt: skip
    assert data_first(["fit", "--data=DigitsData", "--data.seed=1"]) == ["fit", "--data=DigitsData", "--data.seed=1"]
    main(["fit", "--data.val_split=0.5", "--data=DigitsData", "--model.network=cifar_resnet20", "--model.in_chans=1",
          *QUIET, "--trainer.fast_dev_run=1", "--trainer.accelerator=cpu", "--ftbc.enabled=false"])  # fmt: skip


def logger(**arguments):
    from jsonargparse import Namespace

    found = Namespace(offline=False, log_model="all", **arguments)
    return Namespace(class_path="lightning.pytorch.loggers.WandbLogger", init_args=found)


def test_a_run_without_a_way_to_wandb_is_kept_offline(monkeypatch, caplog):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    monkeypatch.setenv("WANDB_BASE_URL", address)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(offline, "getproxies", dict)
    chosen = logger()
    choose_offline([chosen])
    assert chosen.init_args.offline
    assert not chosen.init_args.log_model
    assert "127.0.0.1 can't be reached, so this run is kept offline" in caplog.text
    assert "log_model needs W&B itself" in caplog.text


@pytest.fixture
def without_login(monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", os.getcwd())
    monkeypatch.setenv("WANDB_CONFIG_DIR", f"{os.getcwd()}/settings")
    monkeypatch.setenv("NETRC", f"{os.getcwd()}/netrc")
    monkeypatch.setattr(offline, "getproxies", dict)


def test_without_a_key_no_server_is_asked(without_login, monkeypatch):
    monkeypatch.setattr(offline, "can_connect", lambda address: pytest.fail("the network was asked"))
    assert why_offline() == "no login found"
    monkeypatch.setenv("WANDB_API_KEY", "short")
    assert why_offline().startswith("the login fails (WANDB_API_KEY invalid: API key")


@pytest.mark.parametrize("place", ["variable", "netrc", "netrc of a server of one's own"])
def test_with_a_key_its_server_is_asked(place, without_login, monkeypatch):
    asked = []
    monkeypatch.setattr(offline, "can_connect", lambda address: asked.append(address))
    host = urlsplit(wandb.Settings().base_url).hostname
    if place == "variable":
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    else:
        if place != "netrc":
            host = "wandb.invalid"
            Path("settings").mkdir()
            Path("settings/settings").write_text(f"[default]\nbase_url = https://{host}\n")
        Path("netrc").write_text(f"machine {host}\n  login user\n  password {'0' * 40}\n")
    assert why_offline() == f"{host} can't be reached"
    assert asked == [f"https://{host}"]


def test_a_server_or_proxy_that_listens_is_reached(monkeypatch):
    monkeypatch.setattr(offline, "getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        place = f"127.0.0.1:{listening.getsockname()[1]}"
        assert can_connect(f"http://{place}")
        monkeypatch.setattr(offline, "getproxies", lambda: {"https": f"http://{place}"})
        assert can_connect("https://wandb.invalid")


def test_predictions_say_which_image_and_when_it_was_decided(fitted):
    main(["predict", *QUICK, f"--snn_path={fitted / 'out'}", "--output=p.csv"])
    with Path("p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 360
    for row in rows:
        steps = [row[f"class_T{t}"] for t in range(1, 5)]
        decided = int(row["decided_at"])
        assert set(steps[decided - 1 :]) == {row["class"]}
        assert decided == 1 or steps[decided - 2] != row["class"]


class Known:
    class_names = ["=cmd", "dog"]

    class Images:
        names = ["a/+1.png", "@b.png"]
        labels = torch.tensor([1, -1])

    def images_to_predict(self):
        return self.Images()


def test_files_and_names_of_classes_are_written_and_no_formulas():
    known = KnownImages(Known())
    assert known.columns(0, 1) == (["a/+1.png", 1, "dog"], ["dog"])
    assert known.columns(1, 0) == (["'@b.png", 0, "'=cmd"], [""])
    nothing = KnownImages(None)
    assert nothing.columns(3, 7) == ([7], [])
    assert not any((nothing.has_files, nothing.has_classes, nothing.has_labels))


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\tx", "\rx"])
def test_what_begins_like_a_formula_is_text(text):
    assert harmless(text) == f"'{text}"
    assert harmless("cat") == "cat"


@pytest.mark.parametrize(("classes", "step"), [([3], 1), ([1, 1, 1], 1), ([1, 2, 2], 2), ([2, 1, 2], 3)])
def test_the_step_of_the_decision_is_the_first_of_the_last_stretch(classes, step):
    assert decided_at(classes) == step
