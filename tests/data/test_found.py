"""What ImageData finds in a folder: splits, classes and channels, and what it says of them."""

from pathlib import Path

import pytest
from PIL import Image

from ftbc_pl.data import ImageData
from ftbc_pl.data.found import are_grey, find_splits
from ftbc_pl.models import create_network
from tests.imagefolders import pack, write_folder

TRAIN = "colour images in train/ to train on"
EPOCH = "to choose the best epoch and measure the accuracy on"


def folder(root, *splits, per_class=10):
    for place, name in enumerate(splits):
        write_folder(root / name, per_class, size=8, start=100 * place)
    return root


def found(root, **given):
    names = find_splits(root, **given)
    return names.train, names.val, names.test, names.has_test


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (("train",), ("train", None, "test", False)),
        (("train", "test"), ("train", None, "test", True)),
        (("train", "val"), ("train", "val", "test", False)),
        (("train", "val", "test"), ("train", "val", "test", True)),
        (("Training", "Valid", "Testing"), ("Training", "Valid", "Testing", True)),
        (("cats", "dogs"), (".", None, "test", False)),
    ],
)
def test_splits_go_by_their_usual_names(there, expected, tmp_path):
    for name in there:
        image = tmp_path / name / ("" if name in ("cats", "dogs") else "cats") / "1.png"
        image.parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(image)
    assert found(tmp_path) == expected


def test_what_is_named_is_not_looked_for(tmp_path):
    folder(tmp_path, "train", "val", "other")
    assert found(tmp_path, test="val") == ("train", None, "val", True)
    assert found(tmp_path, val="other") == ("train", "other", "test", False)
    assert found(tmp_path, train="other") == ("other", "val", "test", False)
    assert found(tmp_path, holds_out=True) == ("train", None, "test", False)
    assert found(None) == ("train", None, "test", False)


def test_tar_files_count_as_their_folders(tmp_path):
    folder(tmp_path, "train", "val", per_class=1)
    for name in ("train", "val"):
        pack(tmp_path / name)
    for path in [*tmp_path.glob("*/*/*.png")]:
        path.unlink()
    for path in sorted(tmp_path.glob("*/**"), reverse=True):
        if path.is_dir():
            path.rmdir()
    assert found(tmp_path) == ("train", "val", "test", False)
    assert found(tmp_path, test="val.tar") == ("train", None, "val.tar", True)


@pytest.mark.parametrize(
    ("there", "given", "said"),
    [
        (("train",), {}, f"20 {TRAIN}; 2 of them held out {EPOCH}; no test images (only test and predict need some, in "
                         "test/)."),
        (("train", "val"), {}, f"20 {TRAIN}; val/ {EPOCH}; no test images (--data.test_split val keeps val/ for the "
                               "test, and holds out training images)."),
        (("train", "val"), {"test_split": "val"}, f"20 {TRAIN}; 2 of them held out {EPOCH}; val/ for test"),
        (("train", "val", "test"), {}, f"20 {TRAIN}; val/ {EPOCH}; test/ for test and predict."),
        (("train",), {"val_split": 0}, f"20 {TRAIN}; no validation images; no test images (only "),
        ((".",), {}, f"20 colour images to train on; 2 of them held out {EPOCH}; no test images (for some, move the "
                     "class folders into train/ and others into test/)."),
    ],
    ids=["train", "train, val", "val for the test", "all three", "no validation", "classes only"],
)  # fmt: skip
def test_one_line_says_what_each_split_is_for(there, given, said, tmp_path, caplog):
    caplog.set_level("INFO")
    data = ImageData(str(folder(tmp_path, *there)), input_size=8, num_workers=0, **given)
    data.setup("fit")
    data.setup("validate")
    (line,) = [record.message for record in caplog.records if "classes" in record.message]
    assert line.startswith(f"{tmp_path}: 2 classes (china, flower); ")
    assert said in line


@pytest.mark.parametrize(
    ("there", "given", "role", "said"),
    [
        (("train", "val"), {}, "test", "name another, as in --data.test_split val"),
        (("train", "extra", "val"), {}, "test", "name another, as in --data.test_split val"),
        (("train", "extra"), {}, "test", "name another, as in --data.test_split extra"),
        (("train",), {}, "test", "put images into test/, or name their folder by --data.test_split"),
        ((".",), {}, "test", "move the class folders into train/, and those with test images into test/"),
        (("train", "test", "dev"), {"val_split_name": "deb"}, "val", "name another, as in --data.val_split_name dev"),
        (("photos", "test"), {}, "train", "name another, as in --data.train_split photos"),
        (("train",), {}, "predict", "--data.test_split . takes all images in it, in class folders or not"),
        (("train", "new"), {}, "predict", "--data.test_split new those of new"),
    ],
)
def test_a_split_that_is_not_there_names_what_to_do(there, given, role, said, tmp_path):
    data = ImageData(str(folder(tmp_path, *there, per_class=2)), input_size=8, num_classes=2, num_workers=0, **given)
    with pytest.raises(FileNotFoundError) as error:
        data.images_to_predict() if role == "predict" else data.images(role)
    assert str(error.value).endswith(f"; {said}")


def test_images_right_in_the_folder_are_predicted_where_that_is_said(tmp_path):
    for number in range(4):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
    with pytest.raises(FileNotFoundError, match=r"--data\.test_split \. takes all images in it"):
        ImageData(str(tmp_path), input_size=8, num_classes=2).images_to_predict()
    assert len(ImageData(str(tmp_path), test_split=".", input_size=8, num_classes=2).images_to_predict()) == 4


@pytest.mark.parametrize(
    ("size", "given", "hint"),
    [
        ((8, 8), {}, " Images of 8×8 pixels are enlarged to 224×224, which takes longer; --data.input_size 8 keeps "
                     "them."),
        ((8, 6), {}, " Images of 8×6 pixels are enlarged to 224×224, which takes longer; --data.input_size [6,8] keeps "
                     "them."),
        ((8, 8), {"input_size": 224}, ""),
        ((113, 100), {}, ""),
    ],
    ids=["small", "oblong", "as given", "not small"],
)  # fmt: skip
def test_small_images_are_not_enlarged_without_a_word(size, given, hint, tmp_path, caplog):
    caplog.set_level("INFO")
    for path in folder(tmp_path, "train", per_class=2).rglob("*.png"):
        Image.open(path).resize(size).save(path)
    data = ImageData(str(tmp_path), val_split=0, num_workers=0, **given)
    data.setup("fit")
    (line,) = [record.message for record in caplog.records if "classes" in record.message]
    assert line.endswith(f"in test/).{hint}")


def test_validation_images_of_their_own_leave_the_training_images_whole(tmp_path):
    data = ImageData(str(folder(tmp_path, "train", "val")), input_size=8, num_workers=0)
    assert len(data.images("train")) == len(data.images("val")) == 20


def test_channels_are_those_that_the_network_takes(tmp_path):
    grey = create_network("cifar_resnet20", num_classes=2, in_chans=1)
    data = ImageData(str(folder(tmp_path, "train")), input_size=8, num_workers=0)
    assert data.num_classes == 2
    data.resolve_from(grey)
    assert data.images("train")[0][0].shape == (1, 8, 8)
    given = ImageData(str(tmp_path), input_size=8, in_chans=3)
    given.resolve_from(grey)
    assert given.input_size == (3, 8, 8)


def test_grey_images_are_known_by_some_of_them(tmp_path):
    folder(tmp_path, "train", per_class=2)
    assert not are_grey(tmp_path)
    for path in (tmp_path / "train").rglob("*.png"):
        Image.open(path).convert("L").save(path)
    assert are_grey(tmp_path)
    Image.new("RGB", (4, 4)).save(next((tmp_path / "train" / "flower").iterdir()))
    assert not are_grey(tmp_path)
    assert not are_grey(tmp_path / "nowhere")
    next((tmp_path / "train" / "china").iterdir()).write_bytes(b"no image")
    assert not are_grey(tmp_path)
    assert Path(tmp_path).is_dir()


@pytest.mark.parametrize(("batch_size", "said"), [(8, "20 images in batches of 8 make 2 steps an epoch"), (4, "")])
def test_few_steps_in_an_epoch_are_said(batch_size, said, tmp_path, caplog):
    caplog.set_level("INFO")
    data = ImageData(str(folder(tmp_path, "train", "val")), input_size=8, num_workers=0, batch_size=batch_size)
    assert len(data.train_dataloader()) == 20 // batch_size
    assert [said] * bool(said) == [text.partition(":")[0] for text in caplog.messages if "an epoch" in text]
