"""Weights, images and thresholds that a training has broken: said where they are, and thresholds kept from breaking."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ftbc_pl import ConversionError, convert, prepare
from ftbc_pl.functional.qcfs import qcfs
from ftbc_pl.functional.relu import clipped_relu
from ftbc_pl.layers import QCFS, ClippedReLU
from tests.networks import images, small_cnn

NETWORK_VALUES = {
    "a convolution": ("0.weight", r"the weights hold NaN in 0.weight"),
    "the head": ("7.bias", r"the weights hold NaN in 7.bias"),
    "a running mean": ("4.running_mean", r"the weights hold NaN in 4.running_mean"),
}


@pytest.mark.parametrize(("name", "message"), NETWORK_VALUES.values(), ids=NETWORK_VALUES)
@pytest.mark.parametrize("fold_bn", [False, True])
def test_a_weight_that_is_nan_is_named(name, message, fold_bn):
    network = small_cnn()
    network.state_dict()[name].view(-1)[0] = math.nan
    with pytest.raises(ConversionError, match=f"NaN or infinite values on the example: {message}"):
        convert(network, 2, batches=[images()], fold_bn=fold_bn)


@pytest.mark.parametrize(("value", "what"), [(math.nan, "NaN"), (math.inf, "infinite values")])
@pytest.mark.parametrize("row", [0, 7])
def test_an_image_that_is_not_finite_is_named(value, what, row):
    x = images()
    x[row, 0, 0, 0] = value
    with pytest.raises(ValueError, match=f"NaN or infinite .*image {row} of batch 0 holds {what}"):
        convert(small_cnn(), 2, batches=[x])


def test_an_infinite_weight_is_named():
    network = small_cnn()
    network[7].weight.data[0, 0] = math.inf
    with pytest.raises(ConversionError, match=r"the weights hold infinite values in 7.weight"):
        convert(network, 2, batches=[images()])


def test_an_overflow_is_named_by_the_module_it_begins_in():
    network = small_cnn()
    network[3].weight.data.fill_(3e38)
    with pytest.raises(ConversionError, match="they begin in 3: its weights or the images are too large"):
        convert(network, 2, batches=[images()])


def test_an_infinite_variance_is_a_channel_switched_off():
    network = small_cnn()
    network[4].running_var[0] = math.inf
    assert convert(network, 2, batches=[images()])(images()).isfinite().all()


@pytest.mark.parametrize("activation", ["qcfs", "rts"])
@pytest.mark.parametrize("value", [0.0, -0.3, -1e11, math.nan, math.inf])
@pytest.mark.parametrize("training", [False, True])
def test_a_threshold_that_is_no_positive_number_is_named(activation, value, training):
    network = prepare(small_cnn(), activation, levels=4, threshold=1.0).train(training)
    network[5].threshold.data.fill_(value)
    with pytest.raises(ConversionError, match=r"^1 site can't be converted:\n  5: its threshold is .*, not a positive"):
        convert(network, 2, batches=[images()])
    if not math.isnan(value):
        assert network[5].threshold.item() == torch.tensor(value).item()


@pytest.mark.parametrize("function", [lambda x, theta: qcfs(x, theta, 4), clipped_relu], ids=["qcfs", "clipped_relu"])
def test_a_threshold_of_a_function_is_checked_too(function):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.tensor(-0.3))

        def forward(self, x):
            return function(x, self.theta).flatten(1)

    with pytest.raises(
        ConversionError, match=r"\(conversion/test_other_networks_values.py:\d+\): its threshold is -0.3"
    ):
        convert(Functional(), 2, batches=[images()])


def steps(network, learning_rate, count):
    optimizer = torch.optim.SGD(network.parameters(), learning_rate, momentum=0.9)
    for _ in range(count):
        optimizer.zero_grad()
        F.cross_entropy(network(images()), torch.arange(16) % 10).backward()
        optimizer.step()


def test_training_can_not_drive_a_threshold_to_zero_or_below():
    network = prepare(small_cnn(), "qcfs", levels=4, threshold=0.01).train()
    lowest = math.inf
    for _ in range(20):
        steps(network, 1.0, 1)
        lowest = min(lowest, *(m.threshold.item() for m in network if isinstance(m, QCFS)))
        network(images())
        assert all(m.threshold.item() > 0 for m in network if isinstance(m, QCFS))
    assert lowest <= 0  # without which nothing was tried
    steps(network, 1.0, 1)
    assert all(m.threshold.item() > 0 for m in network.eval() if isinstance(m, QCFS))
    convert(network, 2, batches=[images()])


def test_a_threshold_that_is_set_is_said(caplog):
    network = prepare(small_cnn(), "qcfs", levels=4, threshold=1.0).train()
    network.eval()
    assert caplog.text == ""
    network[5].threshold.data.fill_(-0.3)
    network.eval()
    assert "The threshold -0.3 of an activation (QCFS) is set to 1e-05" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_positive_thresholds_keep_their_bits_and_nan_is_not_hidden(dtype):
    site = QCFS(4).to(dtype).train()
    smallest = torch.finfo(dtype).smallest_normal
    for value in (8.0, 0.3, 1e-5, 1e-6, smallest):
        site.threshold.data.fill_(value)
        before = site.threshold.detach().clone()
        site(torch.ones(3, dtype=dtype))
        assert torch.equal(site.threshold, before)
    site.threshold.data.fill_(math.nan)
    assert site(torch.ones(3, dtype=dtype)).isnan().all()
    assert list(site.state_dict()) == ["threshold"]


def test_an_activation_used_twice_is_kept_positive_in_the_middle_of_a_forward():
    site = QCFS(4, 1.0).train()
    site.threshold.data.fill_(-1.0)
    site(site(torch.ones(3, requires_grad=True))).sum().backward()
    assert 0 < site.threshold.item() < 1e-3
    assert site.threshold.grad.isfinite()


def test_a_fixed_threshold_is_left_alone_in_eval_mode():
    site = ClippedReLU(threshold=1.0).eval()
    site.threshold.fill_(-1.0)
    site(torch.ones(3))
    assert site.threshold.item() == -1.0
