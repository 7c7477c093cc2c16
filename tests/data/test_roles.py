"""What each stage gets: unlabelled images to predict, few images to calibrate with, sizes and processes in bounds."""

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from ftbc_pl.data import DigitsData, ImageData
from ftbc_pl.data.base import WORKERS_PER_CORE, available_cores
from ftbc_pl.data.transforms import lost_to_cropping
from tests.imagefolders import CLASSES, pack, write_folder, write_splits


def image_data(root, **kwargs):
    return ImageData(str(root), **({"input_size": 32, "batch_size": 8, "num_workers": 0, "pin_memory": False} | kwargs))


@pytest.fixture
def flat(tmp_path):
    """Training images in class folders, test images in none."""
    write_splits(tmp_path)
    for path in sorted((tmp_path / "test").glob("*/*.png")):
        path.rename(tmp_path / "test" / f"{path.parent.name}_{path.name}")
    for name in CLASSES:
        (tmp_path / "test" / name).rmdir()
    return tmp_path


class Labels(LightningModule):
    def predict_step(self, batch, batch_idx):
        return batch[1]


@pytest.mark.parametrize("archive", [False, True])
def test_predict_takes_images_without_classes(flat, archive):
    if archive:
        pack(flat / "test")
    data = image_data(flat, test_split="test.tar" if archive else "test", num_classes=2)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    assert torch.equal(torch.cat(trainer.predict(Labels(), datamodule=data)), torch.full((12,), -1))
    images = data.images_to_predict()
    assert list(images.names) == sorted(path.name for path in (flat / "test").iterdir())
    assert images[0][0].shape == (3, 32, 32)
    with pytest.raises(ValueError, match="a folder for each class"):
        data.images("test")


def test_predict_needs_no_training_images(flat):
    (flat / "train").rename(flat / "elsewhere")
    data = image_data(flat, num_classes=2)
    assert len(data.images_to_predict()) == 12
    assert data.class_names is None


def test_predicted_images_are_the_test_images_with_names(tmp_path):
    write_splits(tmp_path)
    Image.new("RGB", (32, 32)).save(tmp_path / "test" / "loose.png")
    data = image_data(tmp_path)
    predicted = data.images_to_predict()
    assert predicted.names[-1] == "loose.png"
    assert predicted.labels.tolist() == [0] * 6 + [1] * 6 + [-1]
    (tmp_path / "test" / "loose.png").unlink()
    test = data.images("test")
    torch.testing.assert_close(predicted.__getitems__(range(12)), test.__getitems__(range(12)))
    assert data.class_names == list(CLASSES)


def test_digits_have_names():
    data = DigitsData(pin_memory=False)
    assert data.class_names == list("0123456789")
    assert data.images_to_predict() is data.images("test")


def test_calibrating_with_few_images_holds_none_out(tmp_path):
    write_splits(tmp_path, train=3, test_name="val")
    data = image_data(tmp_path, test_split="val", val_split_name="val")
    data.setup("validate")
    assert len(data.images("calibration")) == 6
    assert sum(len(labels) for _, labels in data.val_dataloader()) == 12
    with pytest.raises(ValueError, match="different splits for validation and test when training"):
        data.setup("fit")


def test_whether_there_is_validation_is_known_before(tmp_path):
    assert image_data(tmp_path).has_validation
    assert not image_data(tmp_path, val_split=0).has_validation
    assert image_data(tmp_path, val_split=0, val_split_name="val").has_validation
    assert not DigitsData(val_split=0).has_validation
    for amount in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"data\.val_split"):
            DigitsData(val_split=amount)


def write_wide(root):
    """Images of 16×64 pixels whose left half tells the classes."""
    for split in ("train", "test"):
        for name, value in (("a", 255), ("b", 0)):
            (root / split / name).mkdir(parents=True)
            pixels = np.zeros((16, 64, 3), np.uint8)
            pixels[:, :16] = value
            for number in range(5):
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


@pytest.mark.parametrize("augment", [None, "rand-m9-mstd0.5"])
@pytest.mark.parametrize("cache", [True, False])
def test_rectangular_input(tmp_path, cache, augment):
    data = image_data(
        write_wide(tmp_path), input_size=(16, 64), cache=cache, mean=[0.0] * 3, std=[1.0] * 3, val_split=2,
        auto_augment=augment,
    )  # fmt: skip
    assert data.input_size == (3, 16, 64)
    images, labels = next(iter(data.test_dataloader()))
    assert images.shape == (10, 3, 16, 64)
    assert torch.equal(images[:, 0].mean((1, 2)), torch.where(labels == 0, 0.25, 0.0))
    assert next(iter(data.train_dataloader()))[0].shape == (8, 3, 16, 64)


def test_training_and_test_images_have_the_same_proportions(tmp_path):
    write_splits(tmp_path)
    bars = np.zeros((96, 192, 3), np.uint8)
    bars[:, 48:144] = 255
    for name in CLASSES:
        Image.fromarray(bars).save(tmp_path / "train" / name / "bars.png")
    data = image_data(
        tmp_path, input_size=96, random_crop="none", hflip=0.0, val_split=0, mean=[0.0] * 3, std=[1.0] * 3
    )
    place = data._source("train").names.index("china/bars.png")
    image, _ = data.images("train")[place]
    assert image.min() == 1  # the centre, where squeezing would keep the black sides


def test_a_word_on_what_a_crop_cuts_off(tmp_path):
    with pytest.warns(UserWarning, match=r"75% of the area of the images in .*test is cut off .* 32×32 pixels"):
        image_data(write_wide(tmp_path)).images("test")


@pytest.mark.parametrize(
    ("sizes", "size", "lost"),
    [
        ([(64, 16)], (32, 32), 0.75),
        ([(64, 16)], (16, 64), 0.0),
        ([(16, 64)], (16, 64), 15 / 16),
        ([(500, 375)], (224, 224), 0.25),
        ([(100, 100), (200, 100)], (10, 10), 0.25),
    ],
)
def test_lost_to_cropping(sizes, size, lost):
    assert lost_to_cropping(sizes, (3, *size)) == pytest.approx(lost)


def test_input_size_of_no_pixels(tmp_path):
    with pytest.raises(ValueError, match=r"data\.input_size of at least 1 pixel"):
        image_data(tmp_path, input_size=(0, 4))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # torch's own word on more processes than cores
def test_loading_processes_are_bounded(tmp_path):
    write_folder(tmp_path / "train", 3)
    most = WORKERS_PER_CORE * available_cores()
    with pytest.warns(UserWarning, match=rf"data\.num_workers is 5000, but .* starting {most} instead"):
        loader = image_data(tmp_path, num_workers=5000, val_split=0).calibration_dataloader(2, 1)
    assert loader.num_workers == most
    with pytest.raises(ValueError, match=r"data\.num_workers of at least 0, got -1"):
        image_data(tmp_path, num_workers=-1)


@pytest.mark.parametrize("name", ["imagenet", "tar", "torchvision/cifar10"])
def test_names_that_nobody_knows(tmp_path, name):
    with pytest.raises(ValueError, match=r"data\.name to be folder, or a name that begins with torch/"):
        image_data(tmp_path, name=name)
