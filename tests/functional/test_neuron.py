import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftbc_pl.functional.neuron import integrate_and_fire_, per_channel
from ftbc_pl.functional.temporal_difference import temporal_difference
from tests import reference

SIXTEENTHS = st.integers(-64, 64).map(lambda n: n / 16)


def test_golden_trajectory():
    # θ = 1, v0 = ½: u = 1.25, 0.75, 1.5, 1, 1 → spikes 1, 0, 1, 1, 1; the last two neurons fire exactly at θ.
    current = torch.tensor([0.75, 0.5, 0.75, 0.5, 1.0], dtype=torch.float64).unsqueeze(1)
    membrane = torch.full((1,), 0.5, dtype=torch.float64)
    out = integrate_and_fire_(current, membrane, torch.tensor(1.0), None, torch.empty_like(current))
    assert out.flatten().tolist() == [1, 0, 1, 1, 1]
    assert membrane.item() == 0.0


@given(st.lists(st.tuples(SIXTEENTHS, SIXTEENTHS), min_size=1, max_size=12), st.integers(1, 32).map(lambda n: n / 8))
def test_equals_the_naive_neuron(steps, threshold):
    current = torch.tensor([x for x, _ in steps], dtype=torch.float64).view(-1, 1, 1)
    bias = torch.tensor([b for _, b in steps], dtype=torch.float64).view(-1, 1, 1)
    membrane = torch.full((1, 1), threshold / 2, dtype=torch.float64)
    out = integrate_and_fire_(current, membrane, torch.tensor(threshold), bias, torch.empty_like(current))
    expected = reference.neuron([x for x, _ in steps], threshold, 0.5, [b for _, b in steps])
    assert out.flatten().tolist() == expected


def test_may_overwrite_its_input():
    current = torch.randn(5, 4, 3, dtype=torch.float64)
    theta = torch.ones(3, dtype=torch.float64)
    apart = integrate_and_fire_(current, torch.zeros(4, 3).double(), theta, None, torch.empty_like(current))
    inside = integrate_and_fire_(current, torch.zeros(4, 3).double(), theta, None, current)
    assert inside is current
    assert torch.equal(apart, inside)


@pytest.mark.parametrize(("ndim", "dim", "shape"), [(4, 1, (5, 1, 3, 1, 1)), (3, 2, (5, 1, 1, 3)), (2, 1, (5, 1, 3))])
def test_per_channel(ndim, dim, shape):
    assert per_channel(torch.zeros(5, 3), ndim, dim).shape == shape


def test_running_mean_of_the_temporal_difference_is_the_function_of_the_running_mean():
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    steps = torch.arange(1, 7).view(-1, 1, 1)
    whole, _, _ = temporal_difference(torch.sigmoid, (x,), None, None, 0)
    torch.testing.assert_close(whole.cumsum(0) / steps, torch.sigmoid(x.cumsum(0) / steps), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("first", [1, 3, 5])
def test_temporal_difference_does_not_depend_on_how_the_steps_are_cut(first):
    x = torch.randn(6, 4, 3)
    whole, _, _ = temporal_difference(torch.square, (x,), None, None, 0)
    before, sums, total = temporal_difference(torch.square, (x[:first],), None, None, 0)
    after, _, _ = temporal_difference(torch.square, (x[first:],), sums, total, first)
    assert torch.equal(torch.cat([before, after]), whole)


def test_temporal_difference_keeps_the_memory_format():
    x = torch.randn(6, 3, 8, 8).contiguous(memory_format=torch.channels_last).unflatten(0, (2, 3))
    formats = []

    def pool(mean):
        formats.append(mean.is_contiguous(memory_format=torch.channels_last))
        return torch.nn.functional.max_pool2d(mean, 2)

    out, _, _ = temporal_difference(pool, (x,), None, None, 0)
    assert formats == [True]
    assert out.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_temporal_difference_of_a_product():
    a, b = torch.randn(2, 5, 3, 2, dtype=torch.float64)
    steps = torch.arange(1, 6).view(-1, 1, 1)
    out, _, _ = temporal_difference(torch.mul, (a, b), None, None, 0)
    expected = (a.cumsum(0) / steps) * (b.cumsum(0) / steps)
    torch.testing.assert_close(out.cumsum(0) / steps, expected, rtol=1e-13, atol=1e-13)
