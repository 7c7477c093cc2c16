import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from ftbc_pl.models import create_network, load_weights, select_pooling


def count_relu_calls(network, images):
    calls = []
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda module, args, out: calls.append(module))
    network.eval()(images)
    return calls


@pytest.mark.parametrize(
    ("name", "sites", "parameters"),
    [
        ("cifar_resnet20", 19, 272_474),
        ("cifar_resnet56", 55, 855_770),
        ("cifar_resnet110", 109, 1_730_714),
        ("cifar_vgg16", 15, 33_642_442),
    ],
)
def test_cifar_networks_call_each_relu_once(name, sites, parameters):
    network = timm.create_model(name)
    calls = count_relu_calls(network, torch.randn(1, 3, 32, 32))
    assert len(calls) == len(set(calls)) == sites
    # 272,474 = He et al.'s 0.27 million, with the 1x1 projections of two stages
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_the_small_mobilenet_follows_timm():
    network = create_network("cifar_mobilenetv2", num_classes=7, in_chans=1, input_size=32).eval()
    images = torch.randn(2, 1, 32, 32)
    assert sum(isinstance(module, nn.ReLU6) for module in network.modules()) == 17
    assert network.forward_features(images).shape == (2, 320, 8, 8)
    assert network(images).shape == (2, 7)
    assert network.pretrained_cfg["input_size"] == (1, 32, 32)


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_vgg16"])
def test_cifar_networks_follow_timm(name):
    network = create_network(name, num_classes=7, in_chans=1, input_size=48, drop_rate=0.1).eval()
    images = torch.randn(2, 1, 48, 48)
    assert network.pretrained_cfg["input_size"] == (1, 48, 48)
    assert network(images).shape == (2, 7)
    features = network.forward_features(images)
    hidden = network.forward_head(features, pre_logits=True)
    assert hidden.shape == (2, network.head_hidden_size)
    assert torch.equal(network.get_classifier()(hidden), network(images))
    network.reset_classifier(3)
    assert network(images).shape == (2, 3)
    network.reset_classifier(0)
    assert torch.equal(network(images), hidden)
    with pytest.raises(ValueError, match="global_pool 'avg'"):
        network.reset_classifier(3, "max")


def test_unknown_names():
    with pytest.raises(ValueError, match="'cifar_resnet21'; did you mean cifar_resnet20"):
        create_network("cifar_resnet21")
    with pytest.raises(ValueError, match=r"expected a pretrained tag that timm knows, got 'resnet18\.nonsense'"):
        create_network("resnet18.nonsense")
    with pytest.raises(ValueError, match="leave one out"):
        create_network("resnet18", pretrained=True, weights="resnet18.pt")


def randomised(name="cifar_resnet20", **kwargs):
    network = create_network(name, **kwargs)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1)
    return network


def same_weights(one, other):
    return all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in one.state_dict().items())


@pytest.mark.parametrize("kind", ["safetensors", "state dict", "lightning", "compiled", "timm", "without counters"])
def test_weights_from_a_file(tmp_path, kind):
    network = randomised()
    state = network.state_dict()
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "state dict":
        torch.save(state, path)
    elif kind == "without counters":
        torch.save({key: value for key, value in state.items() if "num_batches" not in key}, path)
    elif kind == "timm":
        torch.save(
            {"arch": "cifar_resnet20", "state_dict": {f"module.{key}": value for key, value in state.items()}}, path
        )
    else:
        prefix = "network._orig_mod." if kind == "compiled" else "network."
        state = {prefix + key: value for key, value in state.items()} | {"loss.weight": torch.ones(10)}
        torch.save({"epoch": 3, "state_dict": state, "hyper_parameters": {"lr": 0.1}}, path)
    assert same_weights(network, create_network("cifar_resnet20", weights=path))


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(randomised(num_classes=7).state_dict(), path)
    network = create_network("cifar_resnet20")
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"2 differing shapes \(fc.weight: network \(10, 64\), file \(7, 64\); fc.bias"
    ):
        load_weights(network, path)
    with pytest.raises(ValueError, match=r"missing keys \(.*; …\), \d+ unexpected keys \(.*; …\)") as error:
        create_network("cifar_vgg16", weights=path)
    assert len(str(error.value)) < 800
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_files_that_hold_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="found none"):
        create_network("cifar_resnet20", weights=tmp_path / "absent.pt")
    for name, content in (("text.pt", b"not weights"), ("text.safetensors", b"not weights"), ("empty.pt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="could not read it"):
            create_network("cifar_resnet20", weights=tmp_path / name)
    torch.save(randomised().state_dict(), tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:20_000])
    with pytest.raises(ValueError, match="could not read it"):
        create_network("cifar_resnet20", weights=tmp_path / "cut.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(ValueError, match="tensors only"):
        create_network("cifar_resnet20", weights=tmp_path / "module.pt")
    torch.save({"epoch": 1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="expected a state dict"):
        create_network("cifar_resnet20", weights=tmp_path / "other.pt")


def poolings(network):
    return [type(module) for module in network.modules() if isinstance(module, nn.MaxPool2d | nn.AvgPool2d)]


@pytest.mark.parametrize(("name", "count"), [("cifar_vgg16", 5), ("vgg16_bn", 5), ("resnet18", 1)])
def test_pooling_is_selectable_and_reversible(name, count):
    network = create_network(name, num_classes=2, pooling="avg")
    assert poolings(network) == [nn.AvgPool2d] * count
    assert poolings(select_pooling(network, "max")) == [nn.MaxPool2d] * count


def test_pooling_keeps_its_geometry():
    network = create_network("resnet18", num_classes=2, pooling="avg")
    assert (network.maxpool.kernel_size, network.maxpool.stride, network.maxpool.padding) == (3, 2, 1)


def test_pooling_leaves_shortcuts_alone():
    network = create_network("resnet18d", num_classes=2)
    before = poolings(network)
    assert nn.AvgPool2d in before
    assert poolings(select_pooling(network, "max")) == before


def test_pooling_that_does_not_exist():
    with pytest.raises(ValueError, match="one of"):
        create_network("resnet18", pooling="median")
    with pytest.raises(ValueError, match="leave pooling out"):
        create_network("cifar_resnet20", pooling="avg")
