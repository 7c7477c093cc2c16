"""Maxima and minima: their values convert, also beside indices that nobody uses; what else orders values is named."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ftbc_pl import ConversionError, calibrate_, convert
from tests.networks import images
from tests.own_networks import conv, head, network


def between(function):
    """A network with a function between its convolution with ReLU and its head."""
    return network(lambda x, a, c: c(function(F.relu(a(x))).mean((2, 3))), a=conv(), c=head(4))


def unpacked(x):
    values, _ = torch.max(x, 2, keepdim=True)
    return values


SAME = {
    "the first of two results": (lambda x: x.max(3, True)[0], lambda x: x.amax(3, True)),
    "values by name": (lambda x: torch.max(x, dim=-1, keepdim=True).values, lambda x: x.amax(3, True)),
    "unpacked": (unpacked, lambda x: x.amax(2, True)),
    "an axis": (lambda x: x.max(axis=3)[0].unsqueeze(3), lambda x: x.amax(3).unsqueeze(3)),
    "a minimum": (lambda x: torch.min(x, 2, keepdim=True)[0], lambda x: x.amin(2, True)),
    "the larger of two": (lambda x: torch.max(x, 1 - x), lambda x: torch.maximum(x, 1 - x)),
    "the smaller of two": (lambda x: x.min(other=1 - x), lambda x: torch.minimum(x, 1 - x)),
    "zeros like the input": (
        lambda x: torch.max(x - 0.1, torch.zeros_like(x)),
        lambda x: torch.maximum(x - 0.1, torch.zeros(1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("written", "meant"), SAME.values(), ids=SAME)
def test_extremes_are_what_they_mean_however_they_are_written(written, meant):
    found, expected = (convert(between(f), 8, batches=[images()], threshold="max") for f in (written, meant))
    assert [site.operation for site in found.report.sites] == [site.operation for site in expected.report.sites]
    for snn in (found, expected):
        calibrate_(snn, [images()], num_batches=1)
    assert torch.equal(found(images()), expected(images()))
    assert torch.equal(found.network(images()), between(written)(images()))


class PointNet(nn.Module):
    """A vanilla PointNet as published: one maximum over all points, by `torch.max(x, 2, keepdim=True)[0]`."""

    def __init__(self):
        super().__init__()
        self.points = nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 16, 1))
        self.norm, self.hidden, self.head = nn.BatchNorm1d(16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = torch.max(self.norm(self.points(x)), 2, keepdim=True)[0].view(-1, 16)
        return F.log_softmax(self.head(F.relu(self.hidden(x))), dim=-1)


def test_a_point_net_converts():
    torch.manual_seed(0)
    network, x = PointNet().eval(), torch.randn(8, 3, 20)
    snn = convert(network, 64, batches=[x], threshold="max")
    exact = network(x)
    assert [site.operation for site in snn.report.sites] == ["relu", "amax", "relu", "log_softmax"]
    assert ((snn(x).mean(0) - exact).norm() / exact.norm()).item() < 0.05


class Queries(nn.Module):
    """Attention of learned queries, as many for each image."""

    def __init__(self):
        super().__init__()
        self.tokens, self.queries = nn.Conv2d(3, 8, 3, stride=2), nn.Parameter(torch.randn(1, 2, 8))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        tokens = F.relu(self.tokens(x)).flatten(2).transpose(1, 2)
        queries = self.queries.expand(len(tokens), -1, -1)
        return self.head(F.scaled_dot_product_attention(queries, tokens, tokens).flatten(1))


def test_constants_for_each_image_may_meet_what_is_not_linear():
    torch.manual_seed(0)
    network = Queries().eval()
    snn = convert(network, 64, batches=[images()], threshold="max")
    exact = network(images())
    assert ((snn(images()).mean(0) - exact).norm() / exact.norm()).item() < 0.01
    calibrate_(snn, [images()], num_batches=1)
    whole = snn(images())
    snn.time_chunk = 7
    assert torch.equal(snn(images()), whole)


def indices_beside(x):
    values, indices = x.max(1, keepdim=True)
    return x * values + indices


REFUSED = {
    "indices in a sum": (indices_beside, "argmax: it orders values"),
    "indices that choose": (lambda x: x + x.gather(1, x.max(1, True)[1]), "argmax: it orders values"),
    "the whole batch": (lambda x: x / (1 + x.max()), r"max: it returns the extreme of the whole batch: use torch.amax"),
    "indices of a pooling": (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], "pool with return_indices=False"),
    "over the batch": (lambda x: x / (1 + x.max(0)[0]), "amax: it takes images of the batch together"),
} | {
    name: (lambda x, name=name, rest=rest: x + getattr(x, name)(*rest)[0].mean(1, True), f"{name}: it orders values")
    for name, rest in {
        "sort": (1,), "topk": (4, 1), "median": (1, True), "mode": (1, True), "kthvalue": (2, 1, True), "cummax": (1,),
        "cummin": (1,),
    }.items()
}  # fmt: skip


@pytest.mark.parametrize(("function", "message"), REFUSED.values(), ids=REFUSED)
def test_what_orders_values_in_another_way_is_named(function, message):
    with pytest.raises(ConversionError, match=message) as caught:
        convert(between(function), 3, batches=[images()])
    assert str(caught.value).count("\n") == 1


def test_indices_that_nobody_uses_are_not_among_the_problems():
    with pytest.raises(ConversionError) as caught:
        convert(between(lambda x: F.gelu(x.max(1, keepdim=True)[0] + x)), 3, batches=[images()])
    assert "gelu" in str(caught.value)
    assert "argmax" not in str(caught.value)


class SpatialTransformer(nn.Module):
    """A localisation network moves its features, as in the tutorial of PyTorch."""

    def __init__(self):
        super().__init__()
        self.conv, self.place, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 6), nn.Linear(8, 5)
        self.place.bias.data = torch.tensor([1.0, 0, 0, 0, 1, 0])

    def forward(self, x):
        x = F.relu(self.conv(x))
        grid = F.affine_grid(self.place(x.mean((2, 3))).view(-1, 2, 3), x.size(), align_corners=False)
        return self.head(F.grid_sample(x, grid, align_corners=False).mean((2, 3)))


def test_a_spatial_transformer_converts():
    torch.manual_seed(0)
    network = SpatialTransformer().eval()
    snn = convert(network, 64, batches=[images()], threshold="max")
    exact = network(images())
    assert [site.operation for site in snn.report.sites] == ["relu", "grid_sample"]
    assert ((snn(images()).mean(0) - exact).norm() / exact.norm()).item() < 0.02
