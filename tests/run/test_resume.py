"""A run that goes on from a checkpoint ends as if it had never been stopped."""

import contextlib
import shutil
import warnings
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from ftbc_pl import FTBC
from ftbc_pl.cli import main
from ftbc_pl.data import DigitsData
from ftbc_pl.safety.resume import EpochSeed, carried_over, find_recorded, random_numbers, set_random_numbers
from tests.pipeline import CONFIGS, QUIET, results

pytestmark = [pytest.mark.usefixtures("own_folder"), pytest.mark.filterwarnings("ignore:.*exists and is not empty")]
BARE = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
SCORES = [0.2, 0.8, 0.5, 0.9]


class Scored(LightningModule):
    """A small classifier whose score in each epoch is written down beforehand."""

    def __init__(self, scores=SCORES):
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
        self.scores = scores

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("score", self.scores[self.current_epoch], batch_size=len(batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def fit(epochs, folder, resume=None, scores=SCORES, callbacks=(), **checkpoint):
    seed_everything(0)
    best = ModelCheckpoint(folder, monitor="score", mode="max", **checkpoint)
    last = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
    ftbc = FTBC(num_steps=2, batch_size=32, output_dir=f"out-{Path(folder).name}")
    trainer = Trainer(
        **BARE, max_epochs=epochs, limit_train_batches=3, limit_val_batches=1, num_sanity_val_steps=0,
        callbacks=[best, last, ftbc, EpochSeed(0), *callbacks],
    )  # fmt: skip
    trainer.fit(Scored(scores), DigitsData(num_workers=0), ckpt_path=resume)
    return best, ftbc


class Trained(Scored):
    """The same, with an optimizer and a schedule of one's own."""

    def __init__(self, optimizer, schedule=None):
        super().__init__()
        self.optimizer, self.schedule = optimizer, schedule

    def configure_optimizers(self):
        optimizer = self.optimizer(self.parameters())
        if self.schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"}}


SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
COSINE = partial(CosineAnnealingLR, T_max=6)
OVERRULED = {
    "the rate": ((SGD,), (partial(SGD, lr=0.001),), "lr 0.05 (not 0.001)"),
    "the rate of a schedule": ((SGD, COSINE), (partial(SGD, lr=0.2), COSINE), "lr 0.05 (not 0.2)"),
    "the momentum": ((SGD, COSINE), (partial(SGD, momentum=0.5), COSINE), "momentum 0.9 (not 0.5)"),
    "the length": ((SGD, COSINE), (SGD, partial(COSINE, T_max=12)), "T_max 6 (not 12)"),
    "nothing": ((SGD, COSINE), (SGD, COSINE), None),
    "nothing of a cycle": (2 * ((SGD, partial(OneCycleLR, max_lr=0.1, total_steps=20)),) + (None,)),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "said"), OVERRULED.values(), ids=OVERRULED)
def test_settings_that_a_checkpoint_overrules_are_said(before, after, said):
    trained = {"max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 0}
    trainer = Trainer(**BARE, **trained, callbacks=[FTBC(enabled=False)])
    trainer.fit(Trained(*before), DigitsData(num_workers=0))
    trainer.save_checkpoint("one.ckpt")
    again = Trainer(**BARE, **(trained | {"max_epochs": 2}), callbacks=[FTBC(enabled=False)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again.fit(Trained(*after), DigitsData(num_workers=0), ckpt_path="one.ckpt")
    found = [str(warning.message) for warning in caught if "takes no effect" in str(warning.message)]
    assert len(found) == (said is not None)
    assert said is None or f"as they are in one.ckpt, with {said}: what was given otherwise" in found[0]


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]["network.3.weight"]


@pytest.mark.parametrize("save_top_k", [1, 2, -1])
def test_the_best_of_all_epochs_is_converted_wherever_a_run_goes_on(save_top_k, monkeypatch):
    whole, _ = fit(3, "whole", save_top_k=save_top_k)
    fit(2, "first", save_top_k=save_top_k)
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    best, ftbc = fit(3, "second", "../first/last.ckpt", save_top_k=save_top_k)
    assert Path(best.best_model_path).name == "epoch=1-step=6.ckpt"
    assert Path(best.best_model_path).samefile("../first/epoch=1-step=6.ckpt")
    assert torch.equal(ftbc.snn.network[3].weight.cpu(), weights(whole.best_model_path))
    assert float(best.best_model_score) == pytest.approx(0.8)
    assert sorted(map(float, best.best_k_models.values())) == sorted(map(float, whole.best_k_models.values()))
    assert {Path(path).name for path in best.best_k_models} == {Path(path).name for path in whole.best_k_models}
    assert Path(best.kth_best_model_path).name == Path(whole.kth_best_model_path).name


def test_also_twice_and_a_later_epoch_can_still_be_better():
    fit(2, "first")
    fit(3, "second", "first/last.ckpt")
    best, _ = fit(4, "third", "second/last.ckpt")
    assert best.best_model_path.endswith("third/epoch=3-step=12.ckpt")
    assert Path("first/epoch=1-step=6.ckpt").exists()


def test_a_folder_that_was_moved_is_found_beside_the_checkpoint():
    fit(2, "first")
    shutil.move("first", "moved")
    best, _ = fit(3, "second", "moved/last.ckpt")
    assert Path(best.best_model_path).samefile("moved/epoch=1-step=6.ckpt")


def test_a_best_checkpoint_that_is_gone_is_said():
    fit(2, "first")
    Path("first/epoch=1-step=6.ckpt").unlink()
    with pytest.warns(UserWarning, match=r"epoch=1-step=6.ckpt \(score 0.8\), is gone; the best of the epochs from"):
        best, _ = fit(3, "second", "first/last.ckpt")
    assert best.best_model_path.endswith("second/epoch=2-step=9.ckpt")


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_another_measure_of_the_best_is_said(caplog):
    fit(2, "first")
    seed_everything(0)
    other = ModelCheckpoint("second", monitor="score", mode="min")
    trainer = Trainer(**BARE, max_epochs=3, limit_train_batches=3, limit_val_batches=1, num_sanity_val_steps=0,
                      callbacks=[other, FTBC(num_steps=2, batch_size=32)])  # fmt: skip
    trainer.fit(Scored(), DigitsData(num_workers=0), ckpt_path="first/last.ckpt")
    assert "does not say which epoch was the best by score (min)" in caplog.text


def test_paths_seen_from_elsewhere_are_those_of_the_same_run(tmp_path):
    for run in ("a", "b"):
        for version in ("version_0", "version_1"):
            place = tmp_path / run / "runs" / version
            place.mkdir(parents=True)
            (place / "epoch=1.ckpt").touch()
    recorded, folder = "runs/version_0/epoch=1.ckpt", "runs/version_1"
    resumed = tmp_path / "a" / "runs" / "version_1" / "last.ckpt"
    with contextlib.chdir(tmp_path / "b"):  # where a file of another run has the same relative path
        assert find_recorded(recorded, folder, resumed) == str(tmp_path / "a" / recorded)
    assert find_recorded("runs/version_0/gone.ckpt", folder, resumed) == ""


def test_fewer_kept_checkpoints_than_before_keep_the_best():
    state = {"best_model_path": "b", "best_model_score": torch.tensor(0.9), "dirpath": ".", "best_k_models": {
        "a": torch.tensor(0.1), "b": torch.tensor(0.9), "c": torch.tensor(0.5)}}  # fmt: skip
    for name in "abc":
        Path(name).touch()
    found = carried_over(state, ModelCheckpoint("x", monitor="m", mode="max", save_top_k=2), Path("last.ckpt"))
    assert [Path(path).name for path in found["best_k_models"]] == ["b", "c"]
    assert Path(found["kth_best_model_path"]).name == "c"


def test_random_numbers_go_on():
    states = random_numbers()
    first = torch.rand(3), torch.randperm(5)
    set_random_numbers(states)
    assert all(map(torch.equal, first, (torch.rand(3), torch.randperm(5))))


class Stop(Callback):
    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.batch:
            trainer.save_checkpoint("middle.ckpt", weights_only=False)
            raise KeyError("the power is off")


class Images(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append((trainer.current_epoch, batch_idx, batch[0].sum().item(), torch.rand(1).item()))


@pytest.mark.filterwarnings("ignore:.*is not resumable")
@pytest.mark.parametrize("step", [2, 4, 5])
def test_the_same_batches_come_after_a_stop_within_an_epoch(step):
    whole, part, rest = Images(), Images(), Images()
    fit(3, "whole", callbacks=[whole])
    with pytest.raises(KeyError, match="power"):
        fit(3, "part", callbacks=[part, Stop(step)])
    fit(3, "rest", "middle.ckpt", callbacks=[rest])
    assert part.seen + rest.seen == whole.seen
    assert torch.equal(weights("whole/last.ckpt"), weights("rest/last.ckpt"))


def test_the_command_line_goes_on_as_if_unbroken(monkeypatch):
    # The learning rate ruins the last epoch: forgetting the best one shows.
    common = [f"--config={CONFIGS / 'quickstart.yaml'}", *QUIET, "--ftbc.num_steps=2", "--model.network=cifar_resnet20",
              "--trainer.limit_train_batches=5", "--optimizer.lr=0.05",
              "--lr_scheduler=torch.optim.lr_scheduler.StepLR", "--lr_scheduler.step_size=2",
              "--lr_scheduler.gamma=400"]  # fmt: skip
    main(["fit", *common, "--trainer.max_epochs=3", "--ftbc.output_dir=whole"])
    main(["fit", *common, "--trainer.max_epochs=2", "--ftbc.output_dir=part"])
    last = Path("runs/lightning_logs/version_1/checkpoints/last.ckpt").absolute()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    main(["fit", *common, "--trainer.max_epochs=3", "--ftbc.output_dir=resumed", f"--ckpt_path={last}"])
    assert results("resumed")["accuracy"] == results("../whole")["accuracy"]
    one, other = (safetensors.torch.load_file(f"{folder}/snn.safetensors") for folder in ("resumed", "../whole"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_training_that_has_reached_its_end_is_finished(caplog):
    fit(2, "first")
    shutil.rmtree("out-first")
    best, _ = fit(2, "second", "first/last.ckpt")
    assert Path(best.best_model_path).samefile("first/epoch=1-step=6.ckpt")
    assert Path("out-second/results.json").exists()


def averaged_by(callback, epochs=4):
    seed_everything(0)
    task, ftbc = Scored(), FTBC(num_steps=2, batch_size=32, output_dir="out")
    best = ModelCheckpoint("ckpt", monitor="score", mode="max")
    trainer = Trainer(**BARE, max_epochs=epochs, limit_train_batches=3, limit_val_batches=1,
                      callbacks=[callback, best, ftbc])  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(task, DigitsData(num_workers=0))
    return task, ftbc, best


def test_averaged_weights_at_the_end_of_a_training_are_converted(caplog):
    task, ftbc, best = averaged_by(StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1))
    assert torch.equal(ftbc.snn.network[3].weight.cpu(), task.network[3].weight)
    assert not torch.equal(task.network[3].weight, weights(best.best_model_path))
    assert "converts the averaged weights of StochasticWeightAveraging" in caplog.text


def test_averaged_weights_in_checkpoints_are_converted(caplog):
    _, ftbc, best = averaged_by(EMAWeightAveraging(decay=0.9))
    assert torch.equal(ftbc.snn.network[3].weight.cpu(), weights(best.best_model_path))
    assert "converts the averaged weights of the best checkpoint" in caplog.text
