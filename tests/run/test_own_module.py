"""A LightningModule of one's own: its network is found, its images serve, and what fails is said early."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchmetrics import Accuracy, MetricCollection

from ftbc_pl import FTBC, FTBCTrainer, load_snn
from ftbc_pl.conversion import ConversionError
from ftbc_pl.finding import network_name, network_of, place_in_state
from ftbc_pl.loaders import calibration_loader
from tests.pipeline import quiet_trainer, results

pytestmark = [
    pytest.mark.usefixtures("own_folder"),
    # Some fits here do without validation, and without a logger.
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:There are no validation images"),
]
BARE = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


def small(outputs=4, activation=nn.ReLU):
    return nn.Sequential(nn.Conv2d(1, 8, 3), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, outputs))


def data(count=24, labels=None):
    torch.manual_seed(0)
    return TensorDataset(torch.randn(count, 1, 8, 8), torch.arange(count) % 4 if labels is None else labels)


class Task(LightningModule):
    """Holds whatever modules it is given."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


class Classifier(Task):
    place = "model"

    def outputs(self, images):
        return getattr(self, self.place)(images)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.outputs(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("accuracy", (self.outputs(batch[0]).argmax(1) == batch[1]).float().mean())


class SeveralLoaders(Classifier):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx)


class Forgetful(Classifier):
    """Its first epoch is the best."""

    def validation_step(self, batch, batch_idx):
        self.log("accuracy", float(-self.current_epoch))


class Whole(Classifier):
    """A network that is the LightningModule itself, as in many tutorials."""

    def __init__(self):
        super().__init__(body=small()[:4], head=nn.Linear(8, 4), metric=Accuracy("multiclass", num_classes=4))

    def forward(self, images):
        return self.head(self.body(images))

    outputs = forward


def trainer_of(callback, **options):
    given = {"logger": False, "enable_checkpointing": False, "max_epochs": 1, **BARE, **options}
    given["callbacks"] = [callback, *given.get("callbacks", ())]
    return Trainer(**given)


BESIDE = {
    "loss": nn.CrossEntropyLoss(weight=torch.ones(4)),
    "metric": Accuracy("multiclass", num_classes=4),
    "metrics": MetricCollection({"accuracy": Accuracy("multiclass", num_classes=4)}),
    "flip": nn.Identity(),
}


@pytest.mark.parametrize("name", ["network", "model", "backbone", "net", "classifier"])
def test_the_network_is_found_beside_metrics_losses_and_what_has_no_weights(name):
    network = small()
    module = Task(**BESIDE, **{name: network})
    assert network_name(module) == name
    assert network_of(module) is network
    assert place_in_state(module, network) == f"{name}."


def test_network_and_model_come_first():
    networks = {name: small() for name in ("net", "backbone", "teacher", "model")}
    assert network_of(Task(**networks)) is networks["model"]
    assert network_of(Task(**networks, network=networks["net"])) is networks["net"]
    assert network_of(Task(**networks), "teacher") is networks["teacher"]


def test_a_name_may_lead_further_inside():
    inner = small()
    module = Task(wrapper=Task(model=inner), head=nn.Linear(4, 4))
    assert network_of(module, "wrapper.model") is inner
    assert place_in_state(module, inner) == "wrapper.model."
    assert place_in_state(module, small()) is None


def test_a_part_of_the_network_is_not_taken_for_all_of_it():
    module = Task(backbone=small(), head=nn.Linear(4, 4), metric=BESIDE["metric"])
    with pytest.raises(AttributeError) as error:
        network_of(module)
    assert str(error.value) == (
        "Task has several modules with weights, of which each may be a part. It has backbone (Sequential), head "
        '(Linear): name the one that maps images to logits as in FTBC(network="…") (--ftbc.network), or give Task a '
        'forward that does, and FTBC(network="self").'
    )
    assert network_of(module, "backbone") is module.backbone


def test_a_module_without_a_network_is_told_so():
    with pytest.raises(AttributeError, match=r"^Task has no module with weights\. It has flip \(Identity\): name"):
        network_of(Task(flip=nn.Identity(), metric=BESIDE["metric"]))
    with pytest.raises(AttributeError, match=r"^Task has no module with weights\. Make one that maps images to logits"):
        network_of(Task(metric=BESIDE["metric"]))


@pytest.mark.parametrize("name", ["nothing", "metric", "loss", "body.nothing", "training_step"])
def test_what_is_named_must_be_a_network(name):
    module = Whole()
    module.loss = nn.CrossEntropyLoss()
    message = rf'Whole has no network in its attribute {name!r}\. .* FTBC\(network="self"'
    with pytest.raises(AttributeError, match=message):
        network_of(module, name)


def test_an_unknown_network_is_said_before_the_training():
    module = Whole()
    trainer = trainer_of(FTBC(num_steps=2, output_dir="out"))
    with pytest.raises(AttributeError, match=r'It has body \(Sequential\), head \(Linear\): .*FTBC\(network="…"\)'):
        trainer.fit(module, DataLoader(data(), 8))
    assert trainer.global_step == 0
    trainer = FTBCTrainer(**BARE, logger=False, callbacks=[FTBC(num_steps=2, output_dir="out")])
    with pytest.raises(AttributeError, match="name the one that maps"):
        trainer.calibrate(module)


@pytest.mark.parametrize("best", [True, False], ids=["best checkpoint", "last weights"])
def test_the_whole_module_is_converted_where_it_is_the_network(best):
    module = Whole()
    keep = {"callbacks": [ModelCheckpoint("kept", monitor="accuracy")], "enable_checkpointing": True} if best else {}
    trainer_of(FTBC(num_steps=2, network="self", output_dir="out"), **keep).fit(
        module, DataLoader(data(), 8), DataLoader(data(), 8)
    )
    assert results("out")["num_steps"] == 2
    images = data()[:4][0]
    assert torch.equal(load_snn("out", ann=Whole()).network(images), module.eval()(images))


@pytest.mark.filterwarnings("ignore:.*to use `self.log`|.*logger")
def test_loaders_without_a_datamodule_leave_all_that_the_command_line_leaves(caplog):
    callback = FTBC(num_steps=3, output_dir="out")
    trainer = trainer_of(callback, logger=CSVLogger("logs"), log_every_n_steps=1)
    trainer.fit(Classifier(model=small()), DataLoader(data(), 8), DataLoader(data(12), 8))
    assert {path.name for path in Path("out").iterdir()} == {
        "snn.safetensors", "snn.json", "results.json", "report.html", "config.yaml"
    }  # fmt: skip
    found = results("out")
    assert found["images"] == 12
    assert found["calibration"]["images"] == 24
    assert "FTBC converts model (Sequential) of Classifier." in caplog.text
    said = "24 of the 24 images of the training loader, as its data set gives them: with augmentation"
    assert caplog.text.count(said) == 1
    assert re.search("T +uncalibrated +readout only +calibrated +ANN", caplog.text)
    with open(Path(trainer.logger.log_dir) / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row.get("snn/T")]
    assert [float(row["snn/accuracy"]) for row in rows] == found["accuracy"]["calibrated"]


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no `validation_step`")
@pytest.mark.parametrize("loader", [True, False], ids=["with a loader", "without"])
def test_a_validation_loader_serves_a_module_without_a_validation_step(loader):
    class TrainsOnly(Task):
        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    validation = [DataLoader(data(12), 8)] if loader else []
    trainer_of(FTBC(num_steps=2, output_dir="out")).fit(TrainsOnly(model=small()), DataLoader(data(), 8), *validation)
    assert Path("out/results.json").is_file() == loader
    assert not loader or results("out")["images"] == 12


def test_calibration_images_may_be_handed_in():
    images = data(16)[:][0]
    callback = FTBC(num_steps=2, output_dir="out", calibration=DataLoader(images, 10))
    trainer_of(callback).fit(Classifier(model=small()), DataLoader(data(), 8), DataLoader(data(), 8))
    assert callback.report.images == 10


def test_an_iterable_data_set_needs_them():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(data())

    stream, module = DataLoader(Stream(), 8), Classifier(model=small())
    with pytest.raises(TypeError, match=r"hand images in by FTBC\(calibration=loader\), or add calibration_dataloader"):
        trainer_of(FTBC(num_steps=2, output_dir="out")).fit(module, stream)
    callback = FTBC(num_steps=2, output_dir="out", calibration=[data()[:8]])
    trainer_of(callback).fit(module, stream, DataLoader(data(), 8))
    assert callback.report.images == 8


def test_validation_images_may_come_as_a_stream_or_from_several_loaders():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(data(10))

    loaders = [DataLoader(Stream(), 4), DataLoader(data(6), 4)]
    for limit, images in ((1.0, 16), (2, 14)):
        folder = f"out{limit}"
        trainer = trainer_of(FTBC(num_steps=2, output_dir=folder), limit_val_batches=limit)
        trainer.fit(SeveralLoaders(model=small()), DataLoader(data(), 8), loaders)
        assert results(folder)["images"] == images


@pytest.mark.parametrize("batches", [iter([torch.rand(4, 1, 8, 8)]), torch.rand(4, 1, 8, 8), 3, {"image": 1}])
def test_what_can_be_gone_through_once_is_refused(batches):
    with pytest.raises(TypeError, match="expected calibration as a loader or a list of batches"):
        FTBC(calibration=batches)


def test_nothing_given_beside_calibration_is_ignored():
    with pytest.raises(ValueError, match="calibration brings batches of its own: leave batch_size out"):
        FTBC(calibration=[torch.rand(4, 1, 8, 8)], batch_size=4)
    with pytest.raises(ValueError, match=r"at least 2 batches \(num_batches\) of calibration, got 1"):
        calibration_loader(None, 128, 2, [torch.rand(4, 1, 8, 8)])


def test_too_few_batches_of_a_datamodule_are_said_before_the_training():
    class Images(LightningDataModule):
        def train_dataloader(self):
            return DataLoader(data(), 8)

        def calibration_dataloader(self, batch_size, num_batches):
            return DataLoader(data(), batch_size)

    trainer = trainer_of(FTBC(num_steps=2, num_batches=2, output_dir="out"))
    with pytest.raises(ValueError, match=r"at least 2 batches \(num_batches\) of calibration_dataloader of the data"):
        trainer.fit(Classifier(model=small()), datamodule=Images())
    assert trainer.global_step == 0


def test_each_process_takes_its_share_of_the_batches_that_are_handed_in(monkeypatch, tmp_path):
    trainer = quiet_trainer(tmp_path)
    batches = [torch.arange(5.0), torch.arange(10.0, 15.0)]
    shares = []
    for rank in range(2):
        monkeypatch.setattr("ftbc_pl.loaders.process_place", lambda rank=rank: (rank, 2))
        loader = calibration_loader(trainer, 128, 1, batches)
        assert [part.tolist() for part in loader] == [part.tolist() for part in loader]
        shares += [part.tolist() for part in loader]
    assert shares == [[0, 2, 4], [1, 3]]


def test_a_wrong_keyword_is_named():
    with pytest.raises(TypeError, match=r"FTBC has no option 'num_step'\. Did you mean num_steps"):
        FTBC(num_step=3)


@pytest.mark.parametrize("trial", [True, False])
def test_the_trial_can_be_switched_off(trial):
    callback = FTBC(num_steps=2, trial=trial, output_dir="out")
    trainer = trainer_of(callback)
    with pytest.raises(ConversionError, match="gelu"):
        trainer.fit(Classifier(model=small(activation=nn.GELU)), DataLoader(data(), 8))
    assert (trainer.global_step == 0) is trial


def test_labels_that_tell_no_accuracy_are_said_before_the_training_and_cost_no_network():
    class Regressor(Classifier):
        def training_step(self, batch, batch_idx):
            return nn.functional.mse_loss(self.model(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            self.log("loss", self.training_step(batch, batch_idx))

    values = data(labels=torch.randn(24, 4))
    with pytest.warns(UserWarning, match="converted, calibrated and saved, but no accuracy measured, .* soft labels"):
        trainer_of(FTBC(num_steps=2, output_dir="out")).fit(
            Regressor(model=small()), DataLoader(values, 8), DataLoader(values, 8)
        )
    assert {path.name for path in Path("out").iterdir()} == {"snn.safetensors", "snn.json", "config.yaml"}
    assert json.loads(Path("out/snn.json").read_text())["report"]["images"] == 24


def test_averaged_checkpoints_and_others_know_their_network_by_its_place():
    """The best checkpoint's weights are converted, not the last ones, whatever the attribute is called."""
    module = Classifier(classifier=small())
    module.place = "classifier"
    keep = ModelCheckpoint("kept", monitor="accuracy", mode="min", save_top_k=1)
    callback = FTBC(num_steps=2, output_dir="out")
    trainer_of(callback, callbacks=[keep], enable_checkpointing=True, max_epochs=3).fit(
        module, DataLoader(data(), 8), DataLoader(data(), 8)
    )
    state = torch.load(keep.best_model_path, weights_only=True)["state_dict"]
    assert torch.equal(callback.snn.network.state_dict()["4.weight"], state["classifier.4.weight"])


def test_a_checkpoint_that_was_the_best_goes_before_those_to_resume_from():
    """Those of every few steps, which come first in Lightning's order, hide no best checkpoint."""
    often = ModelCheckpoint("often", every_n_train_steps=1, save_top_k=-1)
    best = ModelCheckpoint("best", monitor="accuracy", mode="max", save_on_train_epoch_end=False)
    module = Forgetful(model=small())
    callback = FTBC(num_steps=2, output_dir="out")
    trainer = trainer_of(callback, callbacks=[often, best], enable_checkpointing=True, max_epochs=2)
    trainer.fit(module, DataLoader(data(), 8), DataLoader(data(), 8))
    assert trainer.checkpoint_callback is often
    state = torch.load(best.best_model_path, weights_only=True)
    assert state["epoch"] == 0
    assert torch.equal(callback.snn.network.state_dict()["4.weight"], state["state_dict"]["model.4.weight"])


def test_where_none_was_the_best_the_weights_are_those_of_the_end(caplog):
    """And not those of some steps earlier, where a checkpoint was written last."""
    caplog.set_level("INFO")
    often = ModelCheckpoint("often", every_n_train_steps=2, save_top_k=-1)
    module = Classifier(model=small())
    callback = FTBC(num_steps=2, output_dir="out")
    trainer_of(callback, callbacks=[often], enable_checkpointing=True).fit(
        module, DataLoader(data(), 8), DataLoader(data(), 8)
    )
    assert torch.equal(callback.snn.network.state_dict()["4.weight"], module.model.state_dict()["4.weight"])
    assert "FTBC converts the last weights" in caplog.text
    assert "is of step 2, before the last" in caplog.text
