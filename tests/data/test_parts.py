"""A part of the evaluation images stands for the whole, and is always the same."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from ftbc_pl.data import ImageData
from ftbc_pl.data.parts import spread_over_classes, takes_part
from tests.imagefolders import write_folder

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


class Recorder(LightningModule):
    """Keeps the labels and images that it is given."""

    def on_validation_epoch_start(self):
        self.labels, self.images = [], []

    def validation_step(self, batch, batch_idx):
        self.images += batch[0]
        self.labels += batch[1].tolist()

    on_test_epoch_start, test_step = on_validation_epoch_start, validation_step


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three classes, of 4, 4 and 8 test images."""
    root = tmp_path_factory.mktemp("parts")
    write_folder(root / "train", 6, classes=("a", "b", "c"))
    write_folder(root / "test", 4, classes=("a", "b", "c"), start=6)
    write_folder(root / "test", 4, classes=("c",), start=20)
    return root


def data(folders):
    return ImageData(str(folders), val_split_name="test", test_split="test", input_size=32, batch_size=2, num_workers=0)


@pytest.mark.parametrize("part", [4, 8, 12, 16])
def test_every_beginning_has_the_mixture_of_the_whole(part):
    labels = torch.tensor([0] * 8 + [1] * 8 + [2] * 16)
    order = spread_over_classes(labels)
    assert order.sort().values.tolist() == list(range(32))
    assert labels[order[:part]].bincount().tolist() == [part // 4, part // 4, part // 2]


def test_classes_that_stand_alike_come_in_an_order_of_chance():
    labels = torch.arange(100).repeat_interleave(2)
    first = labels[spread_over_classes(labels)[:20]]
    assert len(first.unique()) == 20
    assert first.tolist() != sorted(first.tolist())


def test_the_order_is_always_the_same():
    labels = torch.randint(0, 7, (50,), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(1)
    first = spread_over_classes(labels)
    torch.manual_seed(2)
    assert torch.equal(first, spread_over_classes(labels))


@pytest.mark.parametrize(
    ("limit", "part"),
    [(None, False), (0, False), (1, True), (4, False), (5, False), (0.0, False), (0.5, True), (1.0, False)],
)
def test_what_a_part_is(limit, part):
    assert takes_part(limit, 4) is part


@pytest.mark.parametrize("limits", [{"limit_test_batches": 2}, {"limit_test_batches": 0.5}, {"fast_dev_run": 2}])
def test_limited_tests_see_all_classes(folders, limits):
    recorder = Recorder()
    Trainer(**QUIET, **limits).test(recorder, datamodule=data(folders), verbose=False)
    assert torch.tensor(recorder.labels).bincount().tolist() == [2, 2, 4]


def test_limited_validation_sees_all_classes(folders):
    recorder = Recorder()
    Trainer(**QUIET, limit_val_batches=2).validate(recorder, datamodule=data(folders), verbose=False)
    assert torch.tensor(recorder.labels).bincount().tolist() == [2, 2, 4]


def test_the_whole_keeps_its_order(folders):
    recorder = Recorder()
    Trainer(**QUIET).test(recorder, datamodule=data(folders), verbose=False)
    assert recorder.labels == [0] * 4 + [1] * 4 + [2] * 8


def test_a_part_is_made_of_images_of_the_whole_with_their_labels(folders):
    whole, part = Recorder(), Recorder()
    Trainer(**QUIET).test(whole, datamodule=data(folders), verbose=False)
    Trainer(**QUIET, limit_test_batches=2).test(part, datamodule=data(folders), verbose=False)
    known = {image.numpy().tobytes(): label for image, label in zip(whole.images, whole.labels, strict=True)}
    assert [known[image.numpy().tobytes()] for image in part.images] == part.labels


def test_predictions_keep_the_order_of_the_files(folders):
    class Predictor(LightningModule):
        def predict_step(self, batch, batch_idx):
            return batch[1]

    (labels,) = Trainer(**QUIET, limit_predict_batches=1).predict(Predictor(), datamodule=data(folders))
    assert len(set(labels.tolist())) == 1  # the first folder
