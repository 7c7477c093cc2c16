"""Size, mean and deviation go beside saved weights and are in force where these are loaded; conflicts are said."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from ftbc_pl import load_snn
from ftbc_pl.cli import main
from ftbc_pl.data import DigitsData, ImageData
from ftbc_pl.models import create_network, load_weights
from ftbc_pl.models.images import checked, remembered
from ftbc_pl.task import ImageClassifier
from tests.imagefolders import write_splits
from tests.pipeline import QUICK, QUIET, checkpoint

pytestmark = pytest.mark.usefixtures("own_folder")
DIGITS = {"input_size": [1, 8, 8], "mean": [0.305], "std": [0.376], "classes": [*"0123456789"]}


def test_a_fit_writes_them_beside_network_and_checkpoint(fitted):
    assert torch.load(checkpoint(fitted), weights_only=True)["images"] == DIGITS
    assert json.loads((fitted / "out/snn.json").read_text())["images"] == DIGITS
    assert remembered(load_snn(fitted / "out").network) == DIGITS


def test_they_come_with_the_weights(fitted):
    weights = str(checkpoint(fitted))
    network = load_weights(ImageClassifier(in_chans=1, levels=4).network, weights)
    task = ImageClassifier(in_chans=1, levels=4, weights=weights)
    write_splits(Path("images"), train=4, test=2, size=8)
    for one in (network, task.network, load_snn(fitted / "out").network):
        data = ImageData("images")
        data.resolve_from(one)
        assert (data.input_size, data.mean, data.std) == ((1, 8, 8), (0.305,), (0.376,))


def test_what_is_given_is_in_force_and_a_conflict_is_said(fitted):
    network = load_snn(fitted / "out").network
    write_splits(Path("images"), train=4, test=2, size=8)
    data = ImageData("images", mean=[0.5], input_size=16)
    size = r"data\.input_size is \[1, 16, 16\], the weights were trained with \[1, 8, 8\]"
    with pytest.warns(UserWarning, match=rf"{size}; data\.mean is \[0\.5\], the weights were trained with \[0\.305\]"):
        data.resolve_from(network)
    assert (data.input_size, data.mean, data.std) == ((1, 16, 16), (0.5,), (0.376,))
    data.resolve_from(network)  # said once
    ImageData("images", mean=[0.305], std=[0.376], input_size=8).resolve_from(network)


def test_so_is_one_with_data_that_have_a_size_of_their_own():
    network = create_network("cifar_resnet20", num_classes=10, in_chans=1)
    network.image_config = DIGITS | {"mean": [0.1]}
    with pytest.warns(UserWarning, match=r"data\.mean is \[0\.305\], the weights were trained with \[0\.1\]"):
        DigitsData().resolve_from(network)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_checkpoint_is_tested_on_images_as_it_was_trained(caplog):
    write_splits(Path("images"), train=8, test=4, size=8)
    small = ["--trainer.accelerator=cpu", *QUIET, "--data.root=images"]
    main(["fit", *small, "--data.input_size=8", "--data.mean=[0.1, 0.2, 0.3]", "--trainer.max_epochs=1",
          "--data.batch_size=4", "--ftbc.enabled=false"])  # fmt: skip
    shutil.copy(next(Path("runs").rglob("last.ckpt")), "best.ckpt")
    assert torch.load("best.ckpt", weights_only=True)["images"]["mean"] == [0.1, 0.2, 0.3]
    seen = []
    resolve = ImageData.resolve_from
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageData, "resolve_from", lambda data, network: seen.append((resolve(data, network), data)))
        main(["test", *small, "--ckpt_path=best.ckpt"])
    assert seen[0][1].mean == (0.1, 0.2, 0.3)
    assert seen[0][1].input_size == (3, 8, 8)


@pytest.mark.parametrize(
    "config",
    [
        None,
        3,
        {},
        {"mean": [0.5]},
        {"input_size": [1, 8]},
        {"input_size": [1, 8, 1 << 20]},
        {"input_size": [1, 8, "8"]},
    ],
)
def test_what_is_no_such_thing_is_not_taken(config):
    assert checked(config) == {}


@pytest.mark.parametrize("std", [[0.0], [float("nan")], [1.0, 1.0], "1", None])
def test_a_mean_needs_a_standard_deviation(std):
    assert checked({"input_size": [1, 8, 8], "mean": [0.5], "std": std}) == {"input_size": [1, 8, 8]}


def test_another_mean_in_a_saved_network_is_a_change(fitted):
    shutil.copytree(fitted / "out", "copy")
    path = Path("copy/snn.json")
    path.write_text(path.read_text().replace("0.305", "0.405"))
    with pytest.raises(ValueError, match="was changed after it was saved, under 'images'"):
        load_snn("copy")


def test_calibrate_takes_them_from_the_checkpoint(fitted):
    main(["calibrate", *QUICK, f"--ckpt_path={checkpoint(fitted)}", "--ftbc.output_dir=again"])
    assert json.loads(Path("again/snn.json").read_text())["images"] == DIGITS
