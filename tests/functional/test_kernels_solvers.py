"""The steps under `heuristic` and `balanced` in kernels against the eager code."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftbc_pl.calibration.solvers.balanced import balanced_sums
from ftbc_pl.functional.kernels import balanced, heuristic
from ftbc_pl.functional.kernels import neuron as kernels
from ftbc_pl.functional.neuron import fire_, per_channel
from ftbc_pl.functional.targets import Target
from tests.functional.kernels import DEVICE, SEEDS, SHAPES, count_launches, few
from tests.functional.test_kernels_selection import case
from tests.solving import balanced_bias, heuristic_bias


@few
@given(
    shape_and_dim=SHAPES,
    last=st.booleans(),
    seed=SEEDS,
    granularity=st.sampled_from(["channel", "layer"]),
    alpha=st.sampled_from([0.4, 1.0, 1e-3]),
)
def test_a_step_under_heuristic(shape_and_dim, last, seed, granularity, alpha):
    shape, dim = shape_and_dim
    current, membrane, threshold, activation = case(shape, dim, last, seed)
    target = Target.of(activation, threshold, dim)
    bias, v, out = threshold * 0.3, membrane.clone(), torch.empty_like(current)
    expected = heuristic_bias(membrane.add_(current), bias, target, threshold, dim, alpha, granularity)
    layer = granularity == "layer"
    heuristic.heuristic_step_(
        current, v, threshold, target.activation, target.count, alpha, bias, out, dim, layer=layer
    )
    if layer:  # the mean of the channels is added up in another order, in 64 bits
        torch.testing.assert_close(bias, expected, rtol=1e-6, atol=1e-7)
    else:
        assert torch.equal(bias, expected)
    check_fired(membrane, bias, threshold, dim, out, v)


def check_fired(membrane, bias, threshold, dim, out, v):
    theta, b = (per_channel(values, membrane.ndim, dim) for values in (threshold, bias))
    assert torch.equal(out, fire_(membrane.add_(b), theta, torch.empty_like(out)))
    assert torch.equal(v, membrane)


@pytest.mark.parametrize("last", [False, True])
def test_tiles_and_chunks_of_a_program_make_no_difference(last, monkeypatch):
    monkeypatch.setattr(heuristic, "_ROWS", 16)
    monkeypatch.setattr(heuristic, "_CHANNELS", 4)
    monkeypatch.setattr(heuristic, "_CHUNK", 2)
    current, membrane, threshold, _ = case((3, 5, 4, 4), 1, last, 0)
    bias, v = threshold * 0.3, membrane.clone()
    fired = heuristic.integrate_and_count_(current, v, threshold, bias, 1)
    theta, b = (per_channel(values, 4, 1) for values in (threshold, bias))
    assert torch.equal(v, membrane + current)
    assert torch.equal(fired, (v + b >= theta).sum((0, 2, 3)))


@few
@given(shape_and_dim=SHAPES, last=st.booleans(), seed=SEEDS, mean_weight=st.sampled_from([0.0, 1.0, 3.3, 1e6]))
def test_a_step_under_balanced(shape_and_dim, last, seed, mean_weight):
    shape, dim = shape_and_dim
    current, membrane, threshold, activation = case(shape, dim, last, seed)
    error = membrane.flip(0).contiguous().clone(memory_format=torch.preserve_format)
    error = torch.empty_like(membrane).copy_(error)
    v, e, out, bias = membrane.clone(), error.clone(), torch.empty_like(current), torch.empty_like(threshold)
    scale = balanced.Scale.of(threshold)
    balanced.balanced_step_(current, v, threshold, e, activation, scale, mean_weight, bias, out, dim)
    membrane.add_(current)
    error.add_(activation)
    assert torch.equal(bias, balanced_bias(membrane, error, threshold, dim, mean_weight))
    check_fired(membrane, bias, threshold, dim, out, v)
    assert torch.equal(e, error.sub_(out))


@pytest.mark.parametrize("value", [0.0, -3.0, 5.0, 1e30])
def test_a_channel_of_one_value_under_balanced(value):
    membrane, threshold = torch.full((4, 2), value, device=DEVICE), torch.tensor([1.0, 0.3], device=DEVICE)
    zero, out, bias = torch.zeros_like(membrane), torch.empty_like(membrane), torch.empty_like(threshold)
    expected = balanced_bias(membrane, zero, threshold, 1, 3.0)
    balanced.balanced_step_(
        zero, membrane, threshold, zero.clone(), zero, balanced.Scale.of(threshold), 3.0, bias, out, 1
    )
    assert torch.equal(bias, expected)


@pytest.mark.parametrize("layer", [False, True])
def test_sums_of_candidates(layer):
    current, membrane, threshold, activation = case((3, 5, 4, 4), 1, True, 0)
    error, scale = torch.zeros_like(membrane), balanced.Scale.of(threshold, layer)
    sums = balanced.integrate_and_sum_(current, membrane, error, activation, scale, 1)
    granularity = "layer" if layer else "channel"
    assert torch.equal(sums, balanced_sums(membrane, activation, threshold, 1, granularity))


def test_a_step_takes_few_launches(monkeypatch):
    current, membrane, threshold, activation = case((2, 5, 3, 3), 1, True, 0)
    bias, modules, scale = torch.zeros_like(threshold), [kernels, heuristic, balanced], balanced.Scale.of(threshold)
    mean, error = activation.double().mean((0, 2, 3)), torch.zeros_like(membrane)
    args = current, membrane, threshold
    steps = [
        lambda: heuristic.heuristic_step_(*args, mean, 18, 0.4, bias, current, 1),
        lambda: balanced.balanced_step_(*args, error, activation, scale, 3.0, bias, current, 1),
    ]
    assert [count_launches(monkeypatch, modules, step) for step in steps] == [4, 4]


def test_16_bit_errors_are_refused():
    values = torch.zeros(4, 3, device=DEVICE)
    with pytest.raises(ValueError, match="error of float32"):
        balanced.integrate_and_sum_(values, values, values.bfloat16(), values, balanced.Scale.of(values[0] + 1), 1)
