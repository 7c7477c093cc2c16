import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

from ftbc_pl.data import DigitsData
from ftbc_pl.finding import network_of
from ftbc_pl.layers import QCFS, ClippedReLU
from ftbc_pl.schedules import Cosine, OneCycle
from ftbc_pl.task import ImageClassifier
from tests.pipeline import quiet_trainer


def fit(task, tmp_path, **settings):
    settings = {"max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 1, **settings}
    trainer = quiet_trainer(tmp_path, **settings)
    trainer.fit(task, datamodule=DigitsData(batch_size=32))
    return trainer


class TestOptimizer:
    @pytest.mark.parametrize("activation", ["relu", "qcfs", "rts"])
    def test_every_parameter_is_in_one_group_and_thresholds_do_not_decay(self, activation):
        task = ImageClassifier(activation=activation, lr_scheduler=None)
        optimizer = task.configure_optimizers()
        decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert sum(len(group["params"]) for group in optimizer.param_groups) == len(decay)
        assert decay.keys() == {id(p) for p in task.network.parameters()}
        thresholds = {id(m.threshold) for m in task.network.modules() if isinstance(m, QCFS)}
        assert len(thresholds) == (19 if activation == "qcfs" else 0)
        assert all(decay[key] == (0.0 if key in thresholds else 5e-4) for key in decay)

    def test_frozen_parameters_are_left_out(self):
        task = ImageClassifier(activation="relu", lr_scheduler=None)
        frozen = next(task.network.parameters()).requires_grad_(False)
        assert not any(p is frozen for group in task.configure_optimizers().param_groups for p in group["params"])

    def test_from_trained_weights_the_default_learning_rate_is_lower(self, tmp_path, caplog):
        caplog.set_level("INFO")
        torch.save(ImageClassifier(activation="relu").network.state_dict(), tmp_path / "relu.pt")
        task = ImageClassifier(weights=str(tmp_path / "relu.pt"), lr_scheduler=None)
        assert task.configure_optimizers().param_groups[0]["lr"] == 0.01
        assert "the learning rate is 0.01 instead of 0.1" in caplog.text
        assert ImageClassifier(lr_scheduler=None).configure_optimizers().param_groups[0]["lr"] == 0.1
        own = ImageClassifier(
            weights=str(tmp_path / "relu.pt"), lr_scheduler=None, optimizer=lambda p: torch.optim.SGD(p, lr=0.1)
        )
        assert own.configure_optimizers().param_groups[0]["lr"] == 0.1

    def test_a_threshold_learns(self, tmp_path):
        task = ImageClassifier(in_chans=1, threshold=1.0)
        fit(task, tmp_path)
        assert any(m.threshold.item() != 1.0 for m in task.network.modules() if isinstance(m, QCFS))

    def test_the_network_is_compiled_after_its_thresholds_are_measured(self, tmp_path, monkeypatch):
        done = []
        monkeypatch.setattr("ftbc_pl.task.measure_start_thresholds_", lambda *_: done.append("measured"))
        task = ImageClassifier(in_chans=1, threshold="measured", compile=True)
        monkeypatch.setattr(task.network, "compile", lambda: done.append("compiled"))
        fit(task, tmp_path, max_steps=0, num_sanity_val_steps=0)
        assert done == ["measured", "compiled"]

    @pytest.mark.parametrize("activation", ["qcfs", "rts"])
    def test_training_goes_on_from_a_relu_network_with_measured_thresholds(self, tmp_path, activation):
        relu = ImageClassifier(in_chans=1, activation="relu").network
        torch.save(relu.state_dict(), tmp_path / "relu.pt")
        task = ImageClassifier(
            in_chans=1, activation=activation, weights=str(tmp_path / "relu.pt"), threshold="measured"
        )
        own = task.network.state_dict()
        assert all(torch.equal(own[name], value) for name, value in relu.state_dict().items())
        fit(task, tmp_path, max_steps=0, num_sanity_val_steps=0)
        images, _ = next(iter(DigitsData().calibration_dataloader(128, 1)))
        with torch.no_grad():
            activations = relu.eval().forward_features(images)
        expected = activations[activations > 0].quantile(0.999).item()
        last = [m for m in task.network.modules() if isinstance(m, QCFS | ClippedReLU)][-1]
        assert last.threshold.item() == pytest.approx(expected, rel=0.01)


class TestSchedule:
    def test_cosine_ends_at_zero_after_the_last_step(self, tmp_path):
        trainer = fit(ImageClassifier(in_chans=1, lr_scheduler=Cosine), tmp_path, max_epochs=2)
        assert trainer.global_step == 6
        assert all(abs(group["lr"]) < 1e-9 for group in trainer.optimizers[0].param_groups)

    def test_one_cycle_spans_the_training(self, tmp_path):
        trainer = fit(ImageClassifier(in_chans=1, lr_scheduler=OneCycle), tmp_path, max_epochs=2)
        schedule = trainer.lr_scheduler_configs[0]
        assert (schedule.interval, schedule.scheduler.total_steps) == ("step", 6)

    @pytest.mark.parametrize(
        ("schedule", "interval"),
        [
            (lambda optimizer: StepLR(optimizer, 1, 0.1), "epoch"),
            (lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=3), "step"),
        ],
        ids=["StepLR", "OneCycleLR"],
    )
    def test_schedules_of_torch_step_at_their_own_interval(self, tmp_path, schedule, interval):
        trainer = fit(ImageClassifier(in_chans=1, lr_scheduler=schedule), tmp_path)
        assert trainer.lr_scheduler_configs[0].interval == interval


class TestLoss:
    @pytest.mark.filterwarnings("ignore:You defined a `validation_step`")  # there is nothing to validate here
    def test_soft_targets_of_certainty_train_like_class_indices(self, tmp_path):
        images, labels = torch.randn(6, 1, 8, 8), torch.arange(6)
        trained = []
        for targets in (labels, F.one_hot(labels, 10).float()):
            torch.manual_seed(0)
            task = ImageClassifier(in_chans=1, label_smoothing=0.1, lr_scheduler=None)
            batch = DataLoader(TensorDataset(images, targets), batch_size=6)
            quiet_trainer(tmp_path, max_epochs=1).fit(task, batch)
            trained.append(task)
        for hard, soft in zip(*(task.parameters() for task in trained), strict=True):
            torch.testing.assert_close(hard, soft)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_loss_that_is_not_finite_says_what_to_do(self, tmp_path, bad):
        task = ImageClassifier(in_chans=1, activation="relu")
        nn.init.constant_(list(task.network.parameters())[-1], bad)
        with pytest.raises(ValueError, match=r"training loss is nan at step 0: lower the learning rate"):
            fit(task, tmp_path, num_sanity_val_steps=0)


class TestMetrics:
    def test_validation_logs_loss_top1_and_top5_of_all_images(self, tmp_path):
        task = ImageClassifier(in_chans=1).eval()
        data = DigitsData(batch_size=8)
        (logged,) = quiet_trainer(tmp_path).validate(task, datamodule=data, verbose=False)
        images, labels = (torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True))
        with torch.no_grad():
            ranked = task.eval()(images).topk(5).indices == labels[:, None]
        assert logged["val/accuracy"] == pytest.approx(ranked[:, 0].float().mean().item())
        assert logged["val/top5"] == pytest.approx(ranked.any(1).float().mean().item())

    @pytest.mark.parametrize(("classes", "metrics"), [(5, {"val/accuracy"}), (6, {"val/accuracy", "val/top5"})])
    def test_of_five_classes_and_fewer_there_is_no_top5(self, classes, metrics):
        assert set(ImageClassifier(num_classes=classes).val_metrics.keys()) == metrics


class TestNetwork:
    def test_relu_stays_where_trained_weights_have_it_and_nothing_else_is_asked_for(self, tmp_path, caplog):
        caplog.set_level("INFO")
        relu, qcfs = (str(tmp_path / f"{name}.pt") for name in ("relu", "qcfs"))
        torch.save(ImageClassifier(activation="relu").network.state_dict(), relu)
        torch.save(ImageClassifier().network.state_dict(), qcfs)
        assert not caplog.text
        task = ImageClassifier(weights=relu)
        assert task.hparams.activation == task.hparams_initial.activation == "relu"
        assert not any(isinstance(module, QCFS) for module in task.modules())
        assert "keeps its ReLU (activation: relu)" in caplog.text
        for given in ({"weights": relu, "activation": "qcfs"}, {"weights": relu, "threshold": "measured"},
                      {"weights": qcfs}, {}):  # fmt: skip
            task = ImageClassifier(**given)
            assert task.hparams.activation == "qcfs"
            assert any(isinstance(module, QCFS) for module in task.modules())

    @pytest.mark.parametrize(("activation", "kind"), [("relu", nn.ReLU), ("qcfs", QCFS), ("rts", ClippedReLU)])
    def test_all_activations_are_of_the_kind_asked_for(self, activation, kind):
        network = ImageClassifier(activation=activation).network
        kinds = {type(m) for m in network.modules() if isinstance(m, nn.ReLU | QCFS | ClippedReLU)}
        assert kinds == {kind}

    def test_channels_last_changes_no_output(self):
        torch.manual_seed(0)
        task = ImageClassifier(activation="relu").eval()
        other = ImageClassifier(activation="relu", channels_last=True).eval()
        other.load_state_dict(task.state_dict())
        images = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(other(images), task(images))
        assert other.network.get_parameter("conv1.weight").is_contiguous(memory_format=torch.channels_last)

    def test_a_checkpoint_loads_without_trusting_it(self, tmp_path):
        task = ImageClassifier(in_chans=1, levels=4)
        trainer = fit(task, tmp_path)
        path = tmp_path / "some.ckpt"
        trainer.save_checkpoint(path)
        assert torch.load(path, weights_only=True)["hyper_parameters"]["levels"] == 4
        loaded = ImageClassifier.load_from_checkpoint(path)
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), task.parameters(), strict=True))

    def test_other_classes_in_the_data_are_reported(self, tmp_path):
        with pytest.raises(ValueError, match="The network has 7 classes, the data 10"):
            fit(ImageClassifier(in_chans=1, num_classes=7), tmp_path)

    def test_network_of_names_the_missing_attribute(self):
        with pytest.raises(AttributeError, match="ImageClassifier has no network in its attribute 'backbone'"):
            network_of(ImageClassifier(), "backbone")
