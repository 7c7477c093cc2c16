import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ftbc_pl import ConversionError, calibrate_, convert, load_snn, save_snn
from ftbc_pl.conversion.fold import fold_batch_norm_
from tests.networks import create, images, randomise_
from tests.own_networks import Apply

# name: normalisation layers, those behind a layer (the others follow an add or a concatenation)
NETWORKS = {
    "resnet18": (20, 20),
    "mobilenetv2_100": (52, 52),  # BatchNormAct2d
    "tf_efficientnet_lite0": (49, 49),  # convolutions that pad by themselves
    "regnetx_002": (44, 44),
    "densenet121": (121, 59),
    "resnetv2_50": (49, 32),
    "repvgg_a0": (61, 44),
}


def norms(network):
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_outputs_stay_the_same(name):
    network = create(name, num_classes=10).double()
    batch = images(2, 64).double()
    expected = network(batch)
    folded = copy.deepcopy(network)
    numbers = fold_batch_norm_(folded, batch)
    torch.testing.assert_close(folded(batch), expected, rtol=0, atol=1e-11 * expected.abs().max().item())
    assert (len(norms(network)), len(numbers)) == NETWORKS[name]
    assert len(norms(folded)) == len(norms(network)) - len(numbers)
    assert sum(numbers.values()) == sum(4 * m.num_features for m in norms(network)) - sum(
        4 * m.num_features for m in norms(folded)
    )


def test_convert_folds_its_copy_only():
    network = create("resnet18")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    batch = images(2, 64)
    snn = convert(network, 4, batches=[batch], threshold="max")
    plain = convert(network, 4, batches=[batch], threshold="max", fold_bn=False)
    after = network.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not norms(snn.network)
    assert len(norms(plain.network)) == 20
    assert [call.name for call in snn.calls] == [call.name for call in plain.calls]
    torch.testing.assert_close(snn.network(batch), network(batch), rtol=1e-3, atol=1e-3)
    for (_, a), (_, b) in zip(snn.neurons(), plain.neurons(), strict=True):
        torch.testing.assert_close(a.threshold, b.threshold, rtol=1e-3, atol=1e-4)
    assert calibrate_(snn, [batch], progress=False).forward_passes == 1


def conv(**options):
    return nn.Conv2d(3, 3, 1, **options)


class Standardised(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias)


def hooked(layer):
    layer.register_forward_hook(lambda module, args, out: out + 1)
    return layer


CASES = {
    "convolution": (Apply(lambda x, a, n: n(a(x)), a=conv(), n=nn.BatchNorm2d(3)), 1),
    "without bias": (Apply(lambda x, a, n: n(a(x)), a=conv(bias=False), n=nn.BatchNorm2d(3)), 1),
    "without scale": (Apply(lambda x, a, n: n(a(x)), a=conv(), n=nn.BatchNorm2d(3, affine=False)), 1),
    "grouped": (Apply(lambda x, a, n: n(a(x)), a=conv(groups=3), n=nn.BatchNorm2d(3)), 1),
    "transposed": (Apply(lambda x, a, n: n(a(x)), a=nn.ConvTranspose2d(3, 5, 2), n=nn.BatchNorm2d(5)), 1),
    "linear": (
        Apply(lambda x, a, n: n(a(x.mean((2, 3)))), a=nn.Linear(3, 5), n=nn.BatchNorm1d(5)),
        1,
    ),
    "linear, no scale": (
        Apply(lambda x, a, n: n(a(x.mean((2, 3)))), a=nn.Linear(3, 5), n=nn.BatchNorm1d(5, affine=False)),
        1,
    ),
    "functional convolution with a module's weights": (
        Apply(lambda x, a, n: n(F.conv2d(x, a.weight, a.bias)), a=conv(), n=nn.BatchNorm2d(3)),
        1,
    ),
    "output read twice": (
        Apply(lambda x, a, n: n(y := a(x)) + y, a=conv(), n=nn.BatchNorm2d(3)),
        0,
    ),
    "output handed out": (Apply(lambda x, a, n: [y := a(x), n(y)], a=conv(), n=nn.BatchNorm2d(3)), 0),
    "layer called twice": (Apply(lambda x, a, n: n(a(a(x))), a=conv(), n=nn.BatchNorm2d(3)), 0),
    "norm called twice": (
        Apply(lambda x, a, b, n: n(b(n(a(x)))), a=conv(), b=conv(), n=nn.BatchNorm2d(3)),
        0,
    ),
    "weights computed": (Apply(lambda x, a, n: n(a(x)), a=Standardised(3, 3, 1), n=nn.BatchNorm2d(3)), 0),
    "weights tied": (
        Apply(lambda x, a, n: n(a(x)) * a.weight.mean(), a=conv(), n=nn.BatchNorm2d(3)),
        0,
    ),
    "hook": (Apply(lambda x, a, n: n(a(x)), a=hooked(conv()), n=nn.BatchNorm2d(3)), 0),
    "something between": (Apply(lambda x, a, n: n(F.relu(a(x))), a=conv(), n=nn.BatchNorm2d(3)), 0),
    "grouped transposed": (
        Apply(lambda x, a, n: n(a(x)), a=nn.ConvTranspose2d(3, 6, 2, groups=3), n=nn.BatchNorm2d(6)),
        0,
    ),
    "channels that are no features": (
        Apply(lambda x, a, n: n(a(x.flatten(2))), a=nn.Linear(64, 3), n=nn.BatchNorm1d(3)),
        0,
    ),
    "statistics of the batch": (
        Apply(lambda x, a, n: n(a(x)), a=conv(), n=nn.BatchNorm2d(3, track_running_stats=False)),
        0,
    ),
}


def randomise_affine_(network):
    for module in norms(network):
        if module.running_mean is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if module.weight is not None:
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
    return network.eval()


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_only_what_can_be_folded_is(name):
    network, count = CASES[name]
    torch.manual_seed(0)
    network = randomise_affine_(network.double())
    batch = images(4).double()
    expected = network(batch)
    folded = copy.deepcopy(network)
    assert len(fold_batch_norm_(folded, batch)) == count
    assert len(norms(folded)) == 1 - count
    torch.testing.assert_close(folded(batch), expected, rtol=0, atol=1e-12)


class LooksAtItsNorm(nn.Module):
    """A forward that knows more of its normalisation layer than the output."""

    def __init__(self, look):
        super().__init__()
        self.conv, self.norm, self.head, self.look = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5), look

    def forward(self, x):
        return self.head(F.relu(self.look(self.norm, self.conv(x))).mean((2, 3)))


def by_hand(norm, x):
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def by_class(norm, x):
    return norm(x) if isinstance(norm, nn.BatchNorm2d) else 2 * norm(x)


def as_usual(norm, x):
    return norm(x)


@pytest.mark.parametrize(
    ("look", "why"),
    [(by_hand, "does not run: AttributeError"), (by_class, "has other outputs"), (as_usual, "has infinite weights")],
)
def test_a_network_that_would_be_another_is_not_folded(look, why, tmp_path):
    network, batch = randomise_(LooksAtItsNorm(look)), images(4)
    if look is as_usual:  # small images, whose activations are finite
        network.conv.weight.data.fill_(1e10), network.conv.bias.data.zero_()
        network.norm.weight.data.fill_(1e30), network.norm.running_mean.zero_()
        batch = batch * 1e-30
    expected = network(batch)
    with pytest.warns(UserWarning, match=f"stays apart .* the network {why}"):
        snn = convert(network, 2, batches=[batch], threshold="max")
    assert torch.equal(snn.network(batch), expected)
    assert not snn.options.fold_bn
    assert snn.report.folded_layers == 0
    save_snn(snn, tmp_path / "snn")
    assert torch.equal(load_snn(tmp_path, ann=network)(batch), snn(batch))


@pytest.mark.parametrize("fold_bn", [False, True])
def test_a_saved_network_is_loaded_as_it_was_made(fold_bn, tmp_path):
    network, batch = randomise_(LooksAtItsNorm(as_usual)), images(4)
    snn = convert(network, 2, batches=[batch], fold_bn=fold_bn)
    save_snn(snn, tmp_path / "snn")
    loaded = load_snn(tmp_path, ann=network)
    assert len(norms(loaded.network)) == (0 if fold_bn else 1)
    assert torch.equal(loaded(batch), snn(batch))


def test_what_draws_at_random_is_not_blamed_on_folding():
    network = randomise_(LooksAtItsNorm(lambda norm, x: F.dropout(norm(x), 0.5)))
    with pytest.raises(ConversionError, match="drops at random"):
        convert(network, 2, batches=[images(4)])


def test_a_network_that_is_not_checked_has_to_run_folded():
    with pytest.warns(UserWarning, match="does not run"):
        snn = convert(randomise_(LooksAtItsNorm(by_hand)), 2, example=images(2), measure=False, check=False)
    assert not snn.options.fold_bn


def test_a_layer_stays_in_its_memory_format_and_type():
    network = randomise_(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))).to(memory_format=torch.channels_last)
    fold_batch_norm_(network, images(2))
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert network[0].weight.dtype == torch.float32
    assert network[0].bias.shape == (8,)
