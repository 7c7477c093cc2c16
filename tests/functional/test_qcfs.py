import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftbc_pl import prepare
from ftbc_pl.functional.neuron import integrate_and_fire_
from ftbc_pl.functional.qcfs import qcfs
from tests import reference
from tests.pipeline import needs_compiler

DYADIC = st.integers(-4000, 4000).map(lambda n: n / 256)


@given(x=DYADIC, threshold=st.integers(1, 64).map(lambda n: n / 8), levels=st.integers(1, 32))
def test_equals_the_formula(x, threshold, levels):
    got = qcfs(torch.tensor([x], dtype=torch.float64), torch.tensor(threshold, dtype=torch.float64), levels)
    assert got.item() == pytest.approx(reference.qcfs(x, threshold, levels), abs=1e-12)


@given(x=DYADIC, threshold=st.integers(-3, 4).map(lambda n: 2.0**n), levels=st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_constant_input_over_as_many_steps_as_levels_gives_qcfs_to_the_bit(x, threshold, levels):
    theta = torch.tensor(threshold, dtype=torch.float64)
    current = torch.full((levels, 1), x, dtype=torch.float64)
    membrane = torch.full((1,), 0.5 * threshold, dtype=torch.float64)
    spikes = integrate_and_fire_(current, membrane, theta, None, torch.empty_like(current))
    assert torch.equal(spikes.mean(0), qcfs(current[0], theta, levels))


# θ = 2, L = 4: the clip is inside for −0.25 < x < 1.75, steps of ½ at 0.25, 0.75, 1.25, 1.75.
# Gradient to θ: h/θ − x/θ inside, 1 above, 0 below; at the bounds the gradient to x is 0 and that to θ is h/θ.
HAND_WRITTEN = [
    # x, h(x), dh/dx, dh/dθ
    (-1.0, 0.0, 0.0, 0.0),
    (-0.25, 0.0, 0.0, 0.0),
    (-0.125, 0.0, 1.0, 0.0625),
    (0.0, 0.0, 1.0, 0.0),
    (0.25, 0.5, 1.0, 0.125),
    (1.0, 1.0, 1.0, 0.0),
    (1.5, 1.5, 1.0, 0.0),
    (1.75, 2.0, 0.0, 1.0),
    (3.0, 2.0, 0.0, 1.0),
]


@pytest.mark.parametrize(("x", "value", "to_x", "to_threshold"), HAND_WRITTEN)
def test_value_and_gradients(x, value, to_x, to_threshold):
    inputs = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    out = qcfs(inputs, threshold, 4)
    out.backward()
    assert (out.item(), inputs.grad.item(), threshold.grad.item()) == (value, to_x, to_threshold)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_the_same_when_compiled(dtype):
    torch.manual_seed(0)
    network = prepare(
        torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4), torch.nn.ReLU()).to(dtype),
        "qcfs",
        levels=4,
        threshold=0.5,
    )
    x = torch.randn(32, 6, dtype=dtype, generator=torch.Generator().manual_seed(1))
    gradients = []
    for run in (network, torch.compile(network)):
        network.zero_grad()
        run(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    assert all(grad.abs().max() > 0 for grad in gradients[0])
    torch.testing.assert_close(*gradients)
