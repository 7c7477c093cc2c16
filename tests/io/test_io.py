import json
import subprocess
import sys

import pytest
import torch

from ftbc_pl import calibrate_, convert, create_network, load_snn, prepare, save_snn
from ftbc_pl.io import load_calibration
from tests.networks import create, images, randomise_, small_cnn


def calibrated(network, size):
    snn = convert(network, 4, batches=[images(4, size)], threshold="max")
    report = calibrate_(snn, [images(4, size)], progress=False)
    return snn, report


NETWORKS = {
    "timm": lambda: create("resnet18", num_classes=7),
    "qcfs": lambda: prepare(create("cifar_resnet20"), "qcfs", levels=4, threshold=1.5),
    "rts": lambda: prepare(create("cifar_resnet20"), "rts", threshold=1.5),
    "average pooling": lambda: randomise_(create_network("cifar_vgg16", pooling="avg")),
    "grey": lambda: prepare(randomise_(create_network("cifar_resnet20", in_chans=1)), "qcfs", levels=4),
    "channels_last": lambda: create("cifar_resnet20").to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_bit_equal_after_loading(name, tmp_path):
    network = NETWORKS[name]()
    batch = images(4, 32, channels=1 if name == "grey" else 3)
    snn = convert(network, 4, batches=[batch], threshold="max")
    snn.time_chunk = 3
    report = calibrate_(snn, [batch], progress=False)
    save_snn(snn, tmp_path / "snn", report=report)
    loaded = load_snn(tmp_path)
    assert torch.equal(loaded(batch), snn(batch))
    assert torch.equal(loaded.readout(loaded(batch)), snn.readout(snn(batch)))
    assert load_calibration(tmp_path) == report


def test_outputs_are_bit_equal_in_a_new_process(tmp_path):
    snn, _ = calibrated(create("cifar_resnet20"), 32)
    save_snn(snn, tmp_path / "snn")
    torch.save(images(4, 32), tmp_path / "images.pt")
    program = (
        f"import torch; from ftbc_pl import load_snn; torch.set_num_threads({torch.get_num_threads()});"
        "torch.save(load_snn('snn')(torch.load('images.pt')), 'outputs.pt')"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert torch.equal(torch.load(tmp_path / "outputs.pt"), snn(images(4, 32)))


def test_a_network_that_timm_does_not_know_is_handed_in(tmp_path):
    snn, _ = calibrated(small_cnn(), 8)
    save_snn(snn, tmp_path / "snn")
    with pytest.raises(ValueError, match="pass ann= with its architecture"):
        load_snn(tmp_path / "snn")
    other = randomise_(small_cnn(), seed=3)
    assert torch.equal(load_snn(tmp_path / "snn", ann=other)(images()), snn(images()))


def test_another_architecture_is_refused(tmp_path):
    snn, _ = calibrated(small_cnn(), 8)
    save_snn(snn, tmp_path / "snn")
    with pytest.raises(ValueError, match="describes another network"):
        load_snn(tmp_path / "snn", ann=small_cnn(pool=torch.nn.MaxPool2d(2)))
    wider = small_cnn()
    wider[3] = torch.nn.Conv2d(8, 8, 1)
    with pytest.raises(ValueError, match="does not fit the network"):
        load_snn(tmp_path / "snn", ann=wider)


@pytest.fixture
def saved(tmp_path):
    snn, _ = calibrated(small_cnn(), 8)
    save_snn(snn, tmp_path / "snn")
    return tmp_path


def test_missing_files(saved):
    with pytest.raises(FileNotFoundError, match="no saved spiking network"):
        load_snn(saved / "other")
    (saved / "snn.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="tensors of the spiking network are missing"):
        load_snn(saved)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_tensors(saved, keep):
    path = saved / "snn.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="truncated or no safetensors file"):
        load_snn(saved)


def test_truncated_and_foreign_description(saved):
    path = saved / "snn.json"
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="truncated or no JSON"):
        load_snn(saved)
    path.write_text(json.dumps({"format": "something else"}))
    with pytest.raises(ValueError, match="no description of a spiking network"):
        load_snn(saved)
    path.write_text(json.dumps(json.loads(text) | {"version": 99}))
    with pytest.raises(ValueError, match="has version 99"):
        load_snn(saved)


def test_files_of_two_saves_do_not_mix(saved):
    description = (saved / "snn.json").read_text()
    snn, _ = calibrated(small_cnn(), 8)
    save_snn(snn, saved / "snn")
    (saved / "snn.json").write_text(description)
    with pytest.raises(ValueError, match="two different saves"):
        load_snn(saved)


@pytest.mark.parametrize("fold_bn", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_of_other_numbers_loads_whatever_those_of_its_code_are(dtype, fold_bn, tmp_path):
    """Also where timm builds it anew, which makes 32 bits."""
    batch = images(4, 32).to(dtype)
    snn = convert(create("cifar_resnet20").to(dtype), 2, batches=[batch], fold_bn=fold_bn)
    save_snn(snn, tmp_path / "snn")
    assert json.loads((tmp_path / "snn.json").read_text())["conversion"]["input_dtype"] == str(dtype)[len("torch.") :]
    for ann in (None, create("cifar_resnet20"), create("cifar_resnet20").to(dtype)):
        loaded = load_snn(tmp_path, ann=ann)
        assert loaded.input_dtype == dtype
        assert torch.equal(loaded(batch), snn(batch))


def test_so_does_one_that_was_moved_to_other_numbers_after_its_conversion(tmp_path):
    snn, _ = calibrated(small_cnn(), 8)
    save_snn(snn, tmp_path / "as_it_was")
    assert "input_dtype" not in json.loads((tmp_path / "as_it_was.json").read_text())["conversion"]
    save_snn(snn.double(), tmp_path / "snn")
    batch = images(4, 8).double()
    assert torch.equal(load_snn(tmp_path / "snn", ann=small_cnn())(batch), snn(batch))
