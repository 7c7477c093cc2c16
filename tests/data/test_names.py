"""Names of classes go beside the weights: data with others are an error, and predictions have those of the training."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from ftbc_pl.data import ImageData
from ftbc_pl.models.images import checked, data_config, remember_images, remembered
from ftbc_pl.predictions import PredictionWriter
from ftbc_pl.task import ImageClassifier
from tests.imagefolders import write_folder

pytestmark = pytest.mark.usefixtures("own_folder")
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
TRAINED, RENAMED = ("china", "flower"), ("flower", "temple")


def data(root, classes, train=True):
    for split in ("train", "test")[not train :]:
        write_folder(Path(root, split), 4, size=8, classes=classes, start=4 * (split == "test"))
    return ImageData(root, num_classes=2, val_split=2, num_workers=0, input_size=8, mean=[0.5] * 3, std=[0.5] * 3)


def trained_on(images):
    task = ImageClassifier(num_classes=2)
    remember_images(task.network, data_config(images))
    return task


def predicted(task, images):
    trainer = Trainer(**QUIET, callbacks=[PredictionWriter("out.csv")])
    trainer.predict(task, images)
    with Path("out.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("command", ["validate", "test"])
def test_other_classes_are_an_error(command):
    task = trained_on(data("mine", TRAINED))
    images = data("other", RENAMED)
    with pytest.raises(ValueError, match="class 0 of the data is flower, of the network china"):
        getattr(Trainer(**QUIET), command)(task, datamodule=images)


def test_the_same_classes_and_unknown_ones_are_none():
    mine, other = data("mine", TRAINED), data("other", RENAMED)
    Trainer(**QUIET).test(trained_on(mine), mine, verbose=False)
    Trainer(**QUIET).test(ImageClassifier(num_classes=2), other, verbose=False)  # a file of before knows no names


def test_a_fit_keeps_those_of_its_own_images():
    task = trained_on(data("mine", TRAINED))
    Trainer(**QUIET, fast_dev_run=True).fit(task, data("other", RENAMED))
    assert remembered(task.network)["classes"] == list(RENAMED)


def test_predictions_have_the_names_of_the_training():
    task = trained_on(data("mine", TRAINED))
    with pytest.warns(UserWarning, match="its names are taken"):
        rows = predicted(task, data("other", RENAMED))
    assert {TRAINED[int(row["class"])] == row["class_name"] for row in rows} == {True}
    assert [row["true_class"] for row in rows] == ["flower"] * 4 + [""] * 4


def test_predictions_need_no_training_images():
    task = trained_on(data("mine", TRAINED))
    rows = predicted(task, data("only", TRAINED, train=False))
    assert {TRAINED[int(row["class"])] == row["class_name"] for row in rows} == {True}
    assert [row["true_class"] for row in rows] == ["china"] * 4 + ["flower"] * 4


def test_weights_for_another_head_bring_no_names():
    data("mine", TRAINED)
    task = trained_on(ImageData("mine", input_size=8))
    torch.save({"state_dict": task.state_dict(), "images": remembered(task.network)}, "two.ckpt")
    same = ImageClassifier(num_classes=2, weights="two.ckpt")
    assert remembered(same.network)["classes"] == list(TRAINED)
    more = ImageClassifier(num_classes=3, weights="two.ckpt", reset_head=True)
    assert "classes" not in remembered(more.network)


@pytest.mark.parametrize("classes", ["ab", [], [1, 2], ["a", "b\udc80"], None])
def test_what_is_no_list_of_names_is_not_taken(classes):
    assert checked({"input_size": [1, 8, 8], "classes": classes}) == {"input_size": [1, 8, 8]}


@pytest.mark.parametrize(
    ("split", "said"),
    [("val", "The images of val chose the best epoch of this network"), ("train", "The images of train trained")],
)
def test_images_that_were_seen_in_the_training_are_no_test(split, said):
    for place, name in enumerate(("train", "val", "other")):
        write_folder(Path("images", name), 4, size=8, start=4 * place)
    given = {"num_workers": 0, "input_size": 8, "mean": [0.5] * 3, "std": [0.5] * 3}
    task, quiet = ImageClassifier(num_classes=2), {**QUIET, "enable_checkpointing": False}
    Trainer(**quiet, max_steps=1).fit(task, ImageData("images", **given))
    assert remembered(task.network)["seen"] == checked(remembered(task.network))["seen"] == ["train", "val"]
    with pytest.warns(UserWarning, match=said):
        Trainer(**quiet).test(task, ImageData("images", train_split="other", val_split=2, test_split=split, **given))


def test_a_test_needs_no_images_to_hold_out():
    for place, name in enumerate(("train", "test")):
        write_folder(Path("images", name), 1, size=8, start=place)
    images = ImageData("images", num_workers=0, input_size=8)
    images.setup("test")
    assert len(images.images("test")) == 2
