"""Every spelling of an activation spikes: modules, functions, shared modules, code without gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ftbc_pl import calibrate_, convert
from tests.networks import count_activations, images, randomise_
from tests.own_networks import Nested, conv, head, network

ACTIVATIONS = {
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
    "clamp": lambda x: x.clamp(min=0),
    "clamp by position": lambda x: torch.clamp(x, 0),
    "clamp_min": lambda x: x.clamp_min(0.0),
    "clip": lambda x: torch.clip(x, min=0),
    "clamp_": lambda x: x.clamp_(min=0),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, 0.0, 0.7),
    "bounded clamp": lambda x: x.clamp(0, 0.3),
}
BOUNDS = {"relu6": 6.0, "hardtanh": 0.7, "bounded clamp": 0.3}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_spelling_of_an_activation_spikes(name):
    act = ACTIVATIONS[name]
    ann = network(lambda x, a, b, c: c(act(b(act(a(x)))).mean((2, 3))), a=conv(), b=conv(4, 4), c=head(4))
    assert count_activations(ann, images(2))[0] == 2
    snn = convert(ann, 3, batches=[images()], threshold="max")
    assert [site.origin for site in snn.report.sites] == ["function", "function"]
    assert snn.report.spiking == 2
    assert [site.upper for site in snn.report.sites] == [BOUNDS.get(name)] * 2


@pytest.mark.parametrize("threshold", ["max", "mse", 99.0])
@pytest.mark.parametrize("bound", [0.01, 0.3])
def test_thresholds_respect_an_upper_bound(threshold, bound):
    ann = nn.Sequential(conv()(), nn.Hardtanh(0, bound), nn.Flatten(), nn.Linear(256, 5)).eval()
    ann[0].weight.data[0], ann[0].bias.data[:2] = 0, torch.tensor([-1.0, 9.0])  # dead, and always at the bound
    snn = convert(ann, 4, batches=[images()], threshold=threshold)
    _, site = next(snn.neurons())
    assert (site.threshold <= bound).all()
    if threshold == "max":
        assert site.threshold[1] == torch.tensor(bound)
    assert snn(images()).isfinite().all()


def test_thresholds_respect_an_upper_bound_where_nothing_is_active():
    ann = nn.Sequential(conv()(), nn.Hardtanh(0, 0.5), nn.Flatten(), nn.Linear(256, 5)).eval()
    ann[0].weight.data.zero_()
    ann[0].bias.data.fill_(-1)
    for options in ({"batches": [images()]}, {"example": images(2), "measure": False}):
        _, site = next(convert(ann, 4, **options).neurons())
        assert (site.threshold == 0.5).all()


def test_a_shared_module_gets_a_neuron_for_every_call():
    torch.manual_seed(0)
    ann = randomise_(Nested())
    relus, _ = count_activations(ann, images(2))
    snn = convert(ann, 3, batches=[images()], threshold="max")
    assert relus == 8 == snn.report.spiking
    assert [site.name for site in snn.report.sites] == ["act", *(f"act#{i}" for i in range(2, 8)), "(network)"]
    assert [site.origin for site in snn.report.sites] == ["shared module"] * 7 + ["function"]
    assert len({id(site) for site in snn.sites}) == 8


def ranks(kind):
    return {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}[kind]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"groups": 4}, {"dilation": 2}], ids=str)
def test_convolutions_of_any_rank_and_kind(rank, options):
    kind, norm = ranks(rank)
    dims = tuple(range(2, 2 + rank))
    ann = network(
        lambda x, a, b, n, c: c(F.relu(n(b(F.relu(a(x))))).mean(dims)),
        a=conv(3, 4, kind=kind),
        b=conv(4, 8, kind=kind, **options),
        n=lambda: norm(8),
        c=head(8),
    )
    batch = torch.randn(4, 3, *[6] * rank, generator=torch.Generator().manual_seed(0))
    for fold in (False, True):
        snn = convert(ann, 3, batches=[batch], threshold="max", fold_bn=fold)
        assert [site.channels for site in snn.report.sites] == [4, 8]
        assert snn.report.folded_layers == fold
        assert calibrate_(snn, [batch], progress=False).forward_passes == 1
        assert snn(batch).shape == (3, 4, 5)


class Swish(torch.autograd.Function):
    """x·ReLU6(x + 3)/6, with a backward of its own."""

    @staticmethod
    def forward(ctx, x):
        return x * F.relu6(x + 3) / 6

    @staticmethod
    def backward(ctx, grad):
        return grad


@torch.no_grad()
def without_gradient(x):
    return F.max_pool2d(x.relu(), 2)


@pytest.mark.parametrize(
    ("function", "operations"),
    [(Swish.apply, ["relu6", "mul"]), (without_gradient, ["relu", "max_pool2d"])],
    ids=["Function", "no_grad"],
)
def test_code_without_gradients_is_seen_through(function, operations):
    ann = network(lambda x, a, c: c(function(a(x)).mean((2, 3))), a=conv(), c=head(4))
    snn = convert(ann, 3, batches=[images()])
    assert [site.operation for site in snn.report.sites] == operations


def test_a_module_of_two_operations_is_not_a_shared_one():
    class HardSwish(nn.Module):
        def forward(self, x):
            return x * F.relu6(x + 3) / 6

    ann = nn.Sequential(conv()(), HardSwish(), nn.Flatten(), nn.Linear(256, 5)).eval()
    sites = convert(ann, 3, batches=[images()]).report.sites
    assert [(site.operation, site.origin) for site in sites] == [("relu6", "module"), ("mul", "module")]


def test_a_network_may_keep_its_activations():
    class Keeping(Nested):
        def forward(self, x):
            self.kept = torch.relu(self.stem(x))
            return super().forward(x)

    torch.manual_seed(0)
    snn = convert(randomise_(Keeping()), 3, batches=[images()], threshold="max", fold_bn=True)
    assert not snn.network.kept.requires_grad
    assert snn(images()).shape == (3, 16, 5)


def test_weights_that_no_module_holds_are_constants():
    scale = nn.Parameter(torch.tensor(2.0))
    ann = network(lambda x, a, c: c((F.relu(a(x)) * (scale + 1)).mean((2, 3))), a=conv(), c=head(4))
    assert [site.operation for site in convert(ann, 3, batches=[images()]).report.sites] == ["relu"]


def test_casts_in_the_forward_are_no_failure_of_the_check():
    ann = network(
        lambda x, a, c: c(F.softmax(F.relu(a(x.float())), 1, dtype=torch.float32).to(torch.float32).mean((2, 3))),
        a=conv(),
        c=head(4),
    )
    assert convert(ann, 3, batches=[images()]).report.spiking == 1
