"""Weights as other training code saves them."""

import argparse
import enum
import logging
import math
import pathlib
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import timm.utils
import torch
from safetensors.torch import save_file
from torch import nn

from ftbc_pl.models import assign_weights, create_network, load_weights, read_checkpoint_state, read_weights


def small():
    network = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3), bn=nn.BatchNorm2d(2), fc=nn.Linear(2, 3)))
    for tensor in network.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) + 0.1)
    return network


def same_weights(one, other):
    return all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in one.state_dict().items())


def prefixed(prefix, network):
    return {prefix + key: value for key, value in network.state_dict().items()}


def loads(content, network, path):
    torch.save(content, path)
    return same_weights(load_weights(small(), path), network)


PREFIXES = [
    "module.", "model.", "network.", "net.", "backbone.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.",
    "model._orig_mod.", "network.module.", "model.module._orig_mod.backbone.", "anything.", "_forward_module.model.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix_is_learned(prefix, tmp_path):
    network = small()
    state = prefixed(prefix, network)
    assert loads(state, network, tmp_path / "w.pth")
    assert loads({"state_dict": state | {"loss.weight": torch.ones(3)}}, network, tmp_path / "w.pth")


@pytest.mark.parametrize(
    "place", ["net", "model", "network", "model_state_dict", "state_dict_ema", "model_ema", "state_dict", "weights"]
)
def test_any_place_is_found(place, tmp_path):
    network = small()
    optimizer = torch.optim.SGD(small().parameters(), 0.1, momentum=0.9).state_dict()
    content = {"epoch": 7, "acc": 93.0, place: network.state_dict(), "optimizer": optimizer}
    assert loads(content, network, tmp_path / "w.pth")
    assert loads({"checkpoint": {"state_dict": network.state_dict()}}, network, tmp_path / "w.pth") is True


def test_wrappers_inside_and_around_the_target(tmp_path):
    network = small()
    inside = {key.replace("bn.", "bn._orig_mod."): value for key, value in network.state_dict().items()}
    assert loads(inside, network, tmp_path / "w.pth")
    torch.save(network.state_dict(), tmp_path / "w.pth")
    target = nn.DataParallel(small())
    load_weights(target, tmp_path / "w.pth")
    assert same_weights(target.module, network)


def test_names_of_the_network_that_look_like_prefixes(tmp_path):
    def make():
        return nn.ModuleDict({"module": nn.Linear(2, 2), "network": nn.Linear(2, 2), "head": nn.Linear(2, 2)})

    network, target = make(), make()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    assert same_weights(load_weights(target, tmp_path / "w.pth"), network)
    torch.save(prefixed("model.", network), tmp_path / "w.pth")
    assert same_weights(load_weights(make(), tmp_path / "w.pth"), network)


def test_averaged_weights_are_taken_and_said_so(tmp_path, caplog):
    network, averaged = small(), small()
    content = {"state_dict": network.state_dict(), "state_dict_ema": averaged.state_dict()}
    with caplog.at_level(logging.INFO):
        assert loads(content, averaged, tmp_path / "w.pth")
    assert "averaged weights" in caplog.text
    assert loads({**content, "state_dict_ema": None}, network, tmp_path / "w.pth")


def test_of_two_networks_the_usual_name_counts_and_others_are_asked_about(tmp_path, caplog):
    network = small()
    with caplog.at_level(logging.INFO):
        assert loads(prefixed("ema_model.", small()) | prefixed("model.", network), network, tmp_path / "w.pth")
    assert "left aside: ema_model.conv.weight" in caplog.text
    torch.save(prefixed("student.", network) | prefixed("teacher.", small()), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"several networks .* below student\.; teacher\."):
        load_weights(small(), tmp_path / "w.pth")


class Setting(enum.Enum):
    A = 1


class Unknown(list):
    pass


OBJECTS = {
    "namespace": argparse.Namespace(lr=0.1, device=torch.device("cpu"), path=pathlib.Path("data")),
    "path": pathlib.Path("data"),
    "enum": Setting.A,
    "numpy": {"score": np.float64(0.5), "array": np.arange(3), "type": np.dtype("int8")},
    "module": nn.Sequential(nn.Linear(2, 2), nn.MSELoss()),
    "containers": [defaultdict(list, a=[1]), {Setting.A: 1}, frozenset({1}), Unknown([1, 2]), 2**80, b"x", 1j],
    "code": [torch.relu, math.sqrt, nn.Linear],
    "tensors": [torch.zeros(1, dtype=torch.complex64), torch.zeros(2, dtype=torch.uint16), nn.MSELoss()],
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_beside_the_weights(kind, tmp_path):
    network = small()
    state = prefixed("network.", network)
    torch.save({"hyper_parameters": {"setting": OBJECTS[kind]}, "state_dict": state, "epoch": 1}, tmp_path / "a.ckpt")
    assert same_weights(load_weights(small(), tmp_path / "a.ckpt"), network)
    read = read_checkpoint_state(tmp_path / "a.ckpt")
    assert list(read) == list(state)
    assert all(torch.equal(read[key], value) and read[key].dtype == value.dtype for key, value in state.items())


def test_every_dtype_and_layout_survives_reading_without_the_objects(tmp_path):
    dtypes = [torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.bool, torch.int16,
              torch.int32, torch.uint16, torch.float8_e4m3fn]  # fmt: skip
    state = {f"x.{dtype}": torch.tensor([0.0, 1.0, 3.0]).to(dtype) for dtype in dtypes}
    base = torch.arange(24.0).view(2, 3, 4)
    state |= {"x.view": base[1, :, ::2], "x.transposed": base.transpose(0, 2), "x.empty": torch.empty(0, 3)}
    state |= {"x.scalar": torch.tensor(5), "x.parameter": nn.Parameter(base.clone()), "x.base": base}
    torch.save({"state_dict": state, "hyper_parameters": OBJECTS["module"]}, tmp_path / "a.ckpt")
    read = read_checkpoint_state(tmp_path / "a.ckpt")
    for key, value in state.items():
        assert read[key].dtype == value.dtype
        assert read[key].shape == value.shape
        assert torch.equal(read[key].float(), value.float())


def test_files_of_timm_and_torchvision_and_of_old_releases(tmp_path):
    network = create_network("cifar_resnet20", num_classes=3)
    arguments = argparse.Namespace(model="cifar_resnet20", lr=0.1)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    folder = str(tmp_path)
    saver = timm.utils.CheckpointSaver(network, optimizer, args=arguments, checkpoint_dir=folder, recovery_dir=folder)
    saver.save_checkpoint(0, metric=90.0)
    torch.save({"model": network.state_dict(), "args": arguments}, tmp_path / "model_1.pth")
    old = {"model": network.state_dict(), "args": arguments}
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("model_best.pth.tar", "model_1.pth", "old.pth"):
        assert same_weights(create_network("cifar_resnet20", num_classes=3, weights=tmp_path / name), network)


def test_another_number_of_classes(tmp_path, caplog):
    network = create_network("cifar_resnet20", num_classes=7)
    torch.save({"state_dict": prefixed("model.", network)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"2 differing shapes .*reset_head=true"):
        create_network("cifar_resnet20", weights=tmp_path / "w.pth")
    target = create_network("cifar_resnet20")
    start = {key: value.clone() for key, value in target.state_dict().items()}
    with caplog.at_level(logging.INFO):
        load_weights(target, tmp_path / "w.pth", reset_head=True)
    assert "fc.weight, fc.bias) keeps its start" in caplog.text
    for key, value in target.state_dict().items():
        assert torch.equal(value, (start if key.startswith("fc.") else network.state_dict())[key])
    made = create_network("cifar_resnet20", weights=tmp_path / "w.pth", reset_head=True)
    assert "reset_head" not in made.recipe
    # Only the classifier: other layers of another shape are another network.
    other = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 4, 3), bn=nn.BatchNorm2d(4), fc=nn.Linear(2, 5)))
    with pytest.raises(ValueError, match=r"conv\.weight: network") as error:
        assign_weights(other, small().state_dict(), "w.pth", reset_head=True)
    assert "fc.weight" not in str(error.value)
    assert "reset_head" not in str(error.value)
    # The same number of classes: the head is loaded.
    torch.save(network.state_dict(), tmp_path / "w.pth")
    same = create_network("cifar_resnet20", num_classes=7, weights=tmp_path / "w.pth", reset_head=True)
    assert same_weights(same, network)


def test_errors_list_the_keys_found(tmp_path):
    torch.save({"epoch": 1, "generator": small().state_dict(), "critic": small().state_dict()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"epoch \(int\); generator \(OrderedDict\); critic \(OrderedDict\)"):
        read_weights(tmp_path / "w.pth")
    torch.save({"weights": small().state_dict()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"checkpoint with a state_dict .* got a dictionary with the keys weights"):
        read_checkpoint_state(tmp_path / "w.pth")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("key", ["conv.weight", "bn.running_var"])
def test_broken_weights_are_named(key, value):
    state = small().state_dict()
    state[key].view(-1)[1] = value
    target = small()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(ValueError, match=rf"w\.pth are broken, NaN or infinite in {key}"):
        assign_weights(target, state, "w.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_numbers_of_another_kind_are_refused():
    state = small().state_dict()
    assign_weights(small(), {key: value.double() for key, value in state.items()}, "w.pth")
    state["conv.weight"] = state["conv.weight"].to(torch.int8)
    with pytest.raises(ValueError, match=r"another kind: conv\.weight: network torch\.float32, file torch\.int8"):
        assign_weights(small(), state, "w.pth")


def test_the_content_decides_and_not_the_suffix(tmp_path):
    network = small()
    save_file(network.state_dict(), tmp_path / "w.pth")
    torch.save(network.state_dict(), tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        assert same_weights(load_weights(small(), tmp_path / name), network)
