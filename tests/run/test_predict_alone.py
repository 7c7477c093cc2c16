"""Images to predict need no training images beside them, where the network knows its classes."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from ftbc_pl.cli import main
from ftbc_pl.command.given import count_classes
from ftbc_pl.data.found import has_training
from tests.imagefolders import write_digit_folder
from tests.pipeline import QUIET, checkpoint

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.mark.parametrize(("path", "split"), [("snn", None), ("ckpt", None), ("snn", ".")])
def test_predict_without_training_images(fitted, path, split):
    for number, image in enumerate(write_digit_folder(Path("sorted"), 1).rglob("*.png")):
        folder = Path("only", split or "test")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder / f"{number}.png")
    network = f"--snn_path={fitted / 'out'}" if path == "snn" else f"--ckpt_path={checkpoint(fitted)}"
    named = [] if split is None else [f"--data.test_split={split}"]
    main(["predict", "--data.root=only", *named, *QUIET, "--trainer.accelerator=cpu", "--data.num_workers=0", network])
    with Path("predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert all(row["class"] == row["class_name"] for row in rows)


def test_the_number_of_classes_is_that_of_their_names(fitted):
    saved = fitted / "out"
    assert {count_classes(str(path)) for path in (saved, saved / "snn", saved / "snn.json", checkpoint(fitted))} == {10}
    old = json.loads((saved / "snn.json").read_text())
    del old["images"]["classes"]
    Path("old.json").write_text(json.dumps(old))
    assert count_classes("old.json") is None
    assert count_classes("none") is None


def test_a_folder_of_classes_is_one_of_training_images():
    write_digit_folder(Path("images"), 1)
    assert has_training(Path("images"))
    assert not has_training(Path("images"), test=".")
    assert not has_training(Path("images"), "train")
