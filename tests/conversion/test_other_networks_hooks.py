"""Hooks of a user's own: those that look on are left out, those that take part are part of the network or refused."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ftbc_pl import ConversionError, convert
from tests.conversion.test_other_networks import approaches, trained
from tests.networks import images, small_cnn

kept = []
LOOKING_ON = {
    "keeps a detached output": lambda module, args, output: kept.append(output.detach()),
    "keeps the output": lambda module, args, output: kept.append(output),
    "keeps a norm": lambda module, args, output: kept.append(float(output.data.norm())),
    "keeps an array": lambda module, args, output: kept.append(output.cpu().numpy()),
    "hands the output on": lambda module, args, output: output,
}


@pytest.fixture(autouse=True)
def nothing_kept():
    kept.clear()


@pytest.mark.parametrize("hook", LOOKING_ON.values(), ids=LOOKING_ON)
def test_a_hook_that_looks_on_is_left_out(hook):
    network = small_cnn()
    network[1].register_forward_hook(hook)
    with torch.no_grad():
        snn = convert(network, 64, batches=[images()], threshold="max")
        assert len(network[1]._forward_hooks) == 1
        kept.clear()
        snn(images())
        assert kept == []
        assert torch.equal(snn(images()), convert(small_cnn(), 64, batches=[images()], threshold="max")(images()))


def test_a_pre_hook_and_hooks_with_keywords_are_left_out_too():
    network = small_cnn()
    network[1].register_forward_pre_hook(lambda module, args: kept.append(args[0].detach()))
    network[1].register_forward_hook(
        lambda module, args, kwargs, output: kept.append(output.detach()), with_kwargs=True
    )
    network[3].register_forward_hook(lambda module, args, output: kept.append(output.detach()), always_call=True)
    snn = convert(network, 2, batches=[images()])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in snn.network.modules())
    assert not any(m._forward_hooks_with_kwargs or m._forward_hooks_always_called for m in snn.network.modules())


def test_it_is_said_which_are_left_out(caplog):
    def look(module, args, output):
        kept.append(output.detach())

    network = small_cnn()
    network[1].register_forward_hook(look)
    with caplog.at_level(logging.WARNING, "ftbc_pl"):
        convert(network, 2, batches=[images()])
    assert "since they change nothing: the forward hooks of ['1 (look)']" in caplog.text


TAKING_PART = {
    "scales": lambda module, args, output: output * 0.5,
    "a second activation": lambda module, args, output: F.relu(output - 0.1),
}


@pytest.mark.parametrize("hook", TAKING_PART.values(), ids=TAKING_PART)
@pytest.mark.parametrize("beside", [False, True])
def test_a_hook_that_changes_the_output_is_part_of_the_network(hook, beside):
    network = small_cnn()
    if beside:
        network[5].register_forward_hook(LOOKING_ON["keeps a detached output"])
    network[1].register_forward_hook(hook)
    with torch.no_grad():
        snn = convert(network, 64, batches=[images()], threshold="max")
        assert approaches(snn, network, images())
    assert not snn.network[5]._forward_hooks


def test_a_hook_that_hides_what_it_does_is_named():
    network = small_cnn()
    network[1].register_forward_hook(lambda module, args, output: output.detach() * 2)
    with pytest.raises(ConversionError, match=r"1 \(conversion/test_other_networks_hooks.py:\d+\): detach: it hides"):
        convert(network, 2, batches=[images()])


class ByHook(nn.Module):
    """Reads what a hook has kept."""

    def __init__(self):
        super().__init__()
        self.body, self.head = small_cnn(), nn.Linear(8, 10)
        self.body[5].register_forward_hook(self.keep)

    def keep(self, module, args, output):
        self.features = output

    def forward(self, x):
        self.body(x)
        return self.head(self.features.mean((2, 3)))


def test_a_hook_whose_features_are_read_stays():
    torch.manual_seed(0)
    network = trained(ByHook()).eval()
    assert approaches(convert(network, 64, batches=[images()], threshold="max"), network, images())


@pytest.mark.parametrize("fold_bn", [False, True])
def test_a_hook_that_computes_a_weight_stays(fold_bn):
    def standardise(module, args):
        module.weight = module.raw - module.raw.mean()

    network = small_cnn()
    network[3].raw = network[3].weight
    del network[3].weight
    network[3].register_forward_pre_hook(standardise)
    trained(network).eval()
    snn = convert(network, 64, batches=[images()], threshold="max", fold_bn=fold_bn)
    assert approaches(snn, network, images())
    assert snn.network[3]._forward_pre_hooks


def test_hooks_of_gradients_do_not_matter():
    network = small_cnn()
    network[1].register_full_backward_hook(lambda module, gradients, outputs: None)
    network[3].register_full_backward_pre_hook(lambda module, gradients: None)
    trained(network).eval()
    assert approaches(convert(network, 64, batches=[images()], threshold="max"), network, images())
