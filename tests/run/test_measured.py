"""A run's results hold energy, early exit and where the accuracy is lost, at a small part of the evaluation's cost."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import pytest
import safetensors.torch
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from ftbc_pl import FTBC, FTBCTrainer, calibrate_, choose_exit_, convert, evaluate_exit, load_snn, measure_energy
from ftbc_pl.cli import main
from ftbc_pl.data import DigitsData
from ftbc_pl.evaluation import Comparison, Measurement, measurement
from ftbc_pl.models import create_network
from ftbc_pl.options import RunOptions
from tests.digits import classifier, digits
from tests.networks import images, small_cnn
from tests.pipeline import QUICK, checkpoint, results

pytestmark = pytest.mark.usefixtures("own_folder")
LABELS = torch.arange(16) % 5


@pytest.fixture(scope="module")
def snn():
    batch, _ = digits()
    network = convert(classifier(), 4, batches=[batch[:100]])
    calibrate_(network, [batch[:100]], progress=False)
    choose_exit_(network, [batch[800:1200]], loss=0.02, progress=False)
    return network


def measured(snn, batches, analysis=True, known=True):
    found = Measurement(snn, Comparison(snn.num_steps), analysis, len(batches) if known else None)
    for batch in batches:
        found.update(*batch)
    return found.compute()


def rows_of(snn, batches, analysis):
    """Rows that go through the ANN's code, and through the spiking network's."""
    rows = []
    handle = snn.network.register_forward_hook(lambda _, args, out: rows.append(len(out)))
    measured(snn, batches, analysis)
    handle.remove()
    return sum(rows)


def parts(first, last, size):
    batch, labels = digits()
    return [(batch[at : at + size], labels[at : at + size]) for at in range(first, last, size)]


def test_all_is_that_of_the_functions_that_measure_it_alone(snn):
    batches = parts(1200, 1700, 100)
    found = measured(snn, batches)
    alone = measure_energy(snn, batches, progress=False)
    assert torch.equal(found.energy.site_spikes, alone.site_spikes)
    assert torch.equal(found.energy.site_sops, alone.site_sops)
    with snn.uncalibrated():
        before = measure_energy(snn, batches, progress=False)
    assert torch.equal(found.energy_uncalibrated.site_sops, before.site_sops)
    assert found.energy_uncalibrated.ann_macs == before.ann_macs
    exits = evaluate_exit(snn, batches, progress=False)
    assert torch.equal(found.early_exit.steps, exits.steps)
    assert found.early_exit.accuracy == exits.accuracy
    assert found.accuracies.calibrated == exits.accuracy_fixed.tolist()
    assert found.diagnosis.images == 5 * (100 // 16)
    assert found.accuracies == measured(snn, batches, analysis=False).accuracies


def test_it_costs_few_forwards_more_than_the_evaluation(snn):
    batches = parts(0, 1600, 32)
    assert rows_of(snn, batches, True) <= 1.1 * rows_of(snn, batches, False)
    found = measured(snn, batches)
    # 32 batches hold 1,000 images.
    assert found.energy.images == 32 * 32
    assert found.diagnosis.images == 32 * 2


@pytest.mark.parametrize("count", [1, 5, 16, 40, 1000])
def test_the_batches_that_are_counted_are_spread_evenly(snn, count):
    found = Measurement(snn, Comparison(4), True, count)
    chosen = []
    for index in range(count):
        found.index = index
        if found._is_counted(100):
            chosen.append(index)
    assert len(chosen) == min(count, measurement.COUNTED_BATCHES)
    gaps = [after - before for before, after in pairwise(chosen)]
    assert chosen[0] == 0
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_where_the_number_of_batches_is_not_known_the_first_ones_are_counted(snn):
    assert measured(snn, parts(0, 1600, 50), known=False).energy.images == 16 * 50


def test_a_network_that_can_not_be_followed_keeps_its_accuracy(monkeypatch):
    def fails(*_):
        raise NotImplementedError("no such operation")

    snn = convert(small_cnn(), 2, batches=[images()])
    monkeypatch.setattr("ftbc_pl.energy.measure.find_fan_out", fails)
    with pytest.warns(UserWarning, match="No energy and no diagnosis of this network: NotImplementedError: no such"):
        found = measured(snn, [(images(), LABELS)] * 2)
    assert (found.energy, found.diagnosis, found.early_exit) == (None, None, None)
    assert found.accuracies == measured(snn, [(images(), LABELS)] * 2, analysis=False).accuracies


def test_fit_leaves_energy_and_diagnosis_in_all_its_results(fitted, capsys):
    found = results(fitted / "out")
    cost = found["energy"]
    assert len(cost["sites"]) == len(found["diagnosis"]["sites"]) == 19
    assert [sum(site["sops"][t] for site in cost["sites"]) for t in range(4)] == pytest.approx(
        [after - before for before, after in pairwise([0, *cost["sops"]])]
    )
    assert len(cost["uncalibrated"]["sops"]) == 4
    assert cost["images"] == 144
    assert found["early_exit"] is None
    page = (fitted / "out" / "report.html").read_text()
    assert "Spikes and synaptic operations by site and step" in page
    assert "Where the accuracy is lost" in page
    (logged,) = [path for path in fitted.rglob("metrics.csv") if "snn/energy_ratio" in path.read_text()]
    with logged.open() as file:
        rows = [row for row in csv.DictReader(file) if row["snn/T"]]
    assert [float(row["snn/sops"]) for row in rows] == pytest.approx(cost["sops"])
    assert float(rows[-1]["snn/energy_ratio_T2"]) == pytest.approx(cost["conventions"]["45nm"]["ratio"][1])


def test_early_exit_is_an_option_of_a_run(fitted, capsys, caplog):
    arguments = [*QUICK, f"--ckpt_path={checkpoint(fitted)}", "--ftbc.output_dir=out"]
    main(["calibrate", *arguments, "--ftbc.exit_loss=0.3"])
    snn = load_snn("out")
    assert snn.exit_thresholds.isfinite().any()
    found = results("out")["early_exit"]
    assert found["set_on"] == json.loads(Path("out/snn.json").read_text())["report"]["early_exit"]
    assert found["set_on"].items() >= {"images": 67, "stated": 0.3, "split": "validation"}.items()
    assert found["ratio"]["45nm"] <= results("out")["energy"]["conventions"]["45nm"]["ratio"][-1]
    assert "Early exit set on 67 images" in caplog.text
    assert "(early exit)" in Path("out/report.html").read_text()
    # The network is calibrated as without.
    plain = safetensors.torch.load_file(fitted / "out" / "snn.safetensors")
    own = safetensors.torch.load_file("out/snn.safetensors")
    assert {name for name in own if not torch.equal(own[name], plain[name])} == {"exit_thresholds"}
    main(["test", *QUICK, "--snn_path=out", "--ftbc.output_dir=tested", "--ftbc.analysis=false"])
    assert results("tested")["early_exit"]["set_on"] == found["set_on"]
    assert results("tested")["energy"] is results("tested")["diagnosis"] is None
    main(["predict", *QUICK, "--snn_path=out", "--output=predictions.csv"])
    with open("predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert all(row["class"] == row[f"class_T{row['exit_step']}"] for row in rows)
    steps = [int(row["exit_step"]) for row in rows]
    assert sum(steps) / len(steps) == pytest.approx(results("tested")["early_exit"]["mean_steps"])
    assert len(set(steps)) > 1


def test_without_early_exit_there_is_no_column_of_it(fitted):
    main(["predict", *QUICK, f"--snn_path={fitted / 'out'}", "--output=predictions.csv"])
    assert "exit_step" not in Path("predictions.csv").read_text().splitlines()[0].split(",")


def test_early_exit_needs_a_share():
    with pytest.raises(ValueError, match=r"exit_loss must lie in \(0, 1\), got 1.5"):
        RunOptions(exit_loss=1.5)


@pytest.mark.parametrize("val_split", [0.1, 0])
def test_own_data_without_images_to_hold_out(val_split):
    """A data module that knows nothing of this package, with and without validation images."""
    batch, labels = digits()

    class Plain(LightningDataModule):
        def train_dataloader(self):
            return DataLoader(TensorDataset(batch[:600], labels[:600]), batch_size=50)

        if val_split:

            def val_dataloader(self):
                return DataLoader(TensorDataset(batch[600:700], labels[600:700]), batch_size=30)

    class Task(LightningModule):
        def __init__(self):
            super().__init__()
            self.network = create_network("cifar_resnet20", num_classes=10, in_chans=1)

        def training_step(self, batch, batch_idx):
            return torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        if val_split:

            def validation_step(self, batch, batch_idx):
                pass

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.05)

    callback = FTBC(num_steps=3, batch_size=40, exit_loss=0.25, output_dir="out")
    trainer = Trainer(
        max_epochs=1, limit_train_batches=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[callback], num_sanity_val_steps=0,
    )  # fmt: skip
    if val_split:
        trainer.fit(Task(), Plain())
    else:
        with pytest.warns(UserWarning, match="images") as warned:
            trainer.fit(Task(), Plain())
        assert any("Training images serve" in str(warning.message) for warning in warned)
    found = callback.report.early_exit
    assert found["split"] == ("validation" if val_split else "training")
    assert found["images"] == 80


class Small(LightningModule):
    def __init__(self):
        super().__init__()
        self.network = create_network("cifar_resnet20", num_classes=10, in_chans=1)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


def quiet_trainer(*callbacks):
    return FTBCTrainer(
        max_epochs=1, limit_train_batches=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, callbacks=[*callbacks],
    )  # fmt: skip


@pytest.mark.parametrize("command", ["fit", "fit with loaders", "calibrate"])
def test_too_few_images_for_early_exit_are_said_before_the_work(command, monkeypatch):
    monkeypatch.setattr("ftbc_pl.run.convert", lambda *_, **__: pytest.fail("the work has begun"))
    monkeypatch.setattr(Small, "training_step", lambda *_: pytest.fail("the training has begun"))
    loaders = [DataLoader(TensorDataset(*part), batch_size=40) for part in (*parts(0, 80, 80), *parts(80, 116, 36))]
    trainer = quiet_trainer(FTBC(num_steps=2, batch_size=40, exit_loss=0.005, output_dir="out"))
    data = DigitsData(val_split=36)
    work = {
        "fit": lambda: trainer.fit(Small(), datamodule=data),
        "fit with loaders": lambda: trainer.fit(Small(), *loaders),
        "calibrate": lambda: trainer.calibrate(Small(), data),
    }[command]
    with pytest.raises(ValueError, match=r"at least 400 validation images to keep to an exit_loss of 0\.005, got 36"):
        work()


@pytest.mark.filterwarnings("ignore:Total length of")
def test_a_network_is_saved_without_early_exit_where_it_cant_be_set():
    batch, _ = digits()
    callback = FTBC([batch[:40]], num_steps=2, exit_loss=0.005, output_dir="out")
    with pytest.warns(UserWarning, match="images") as warned:
        quiet_trainer(callback).fit(Small(), datamodule=DigitsData(val_split=0))
    assert any("saved without early exit: Expected at least 400" in str(warning.message) for warning in warned)
    assert callback.report.early_exit is None
    assert not load_snn("out").exit_thresholds.isfinite().any()


def test_held_out_images_are_shared_out_once(monkeypatch):
    data = DigitsData()
    shares = []
    for rank in range(2):
        monkeypatch.setattr("ftbc_pl.data.base.process_place", lambda rank=rank: (rank, 2))
        shares += [image for batch, _ in data.held_out_dataloader(101) for image in batch]
    monkeypatch.undo()
    alone = [image for batch, _ in data.held_out_dataloader(101) for image in batch]
    assert len(shares) == len(alone) == 101
    key = lambda image: image.flatten().tolist()  # noqa: E731
    assert sorted(map(key, shares)) == sorted(map(key, alone))
