"""All steps of a site under `exact` in one launch against one step after the other in eager code, to the bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftbc_pl.calibration.solvers.exact import exact_bias
from ftbc_pl.functional.kernels import exact_site
from ftbc_pl.functional.neuron import fire_, per_channel
from ftbc_pl.functional.targets import Target
from tests.functional.kernels import DEVICE, SEEDS, SHAPES, few
from tests.functional.test_kernels_selection import case


def check(shape, dim, last, seed, coarse=False, dtype=torch.float32, inplace=False):
    _, membrane, threshold, activation = case(shape, dim, last, seed, coarse)
    currents = torch.stack([case(shape, dim, last, seed + k + 1, coarse)[0].to(dtype) for k in range(2)])
    if last:
        currents = currents.movedim(dim + 1, -1).contiguous().movedim(-1, dim + 1)
    target = Target.of(activation, threshold, dim)
    v, bias = membrane.clone(), torch.full((2, shape[dim]), torch.nan, device=DEVICE)
    counts = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    given_currents = currents.clone()
    out = given_currents if inplace else torch.empty_like(currents)
    cut = target.cut("channel", torch.float32)
    assert exact_site.fits(v, given_currents, out, dim)
    exact_site.exact_site_(given_currents, v, threshold, cut, bias, out, dim, counts)
    theta = per_channel(threshold.to(dtype), len(shape), dim)
    for step, current in enumerate(currents):
        membrane.add_(current)
        expected = exact_bias(membrane, target, threshold, dim)
        assert torch.equal(bias[step], expected)
        spikes = fire_(membrane.add_(per_channel(expected, len(shape), dim)), theta, torch.empty_like(current))
        assert torch.equal(out[step], spikes)
        assert counts[step] == torch.count_nonzero(spikes)
    assert torch.equal(v, membrane)


@few
@given(
    shape_and_dim=SHAPES,
    last=st.booleans(),
    seed=SEEDS,
    coarse=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    inplace=st.booleans(),
)
def test_channels_that_a_program_holds(shape_and_dim, last, seed, coarse, dtype, inplace):
    check(*shape_and_dim, last, seed, coarse, dtype, inplace)


# With a small sample the bracket holds too little or too much now and then: all ways to the value are taken.
@pytest.mark.parametrize(("sample", "last", "coarse"), [(8, False, False), (64, True, False), (8, True, True)])
def test_channels_that_stay_in_memory(sample, last, coarse, monkeypatch):
    for name, value in {"_RESIDENT": 4, "_SAMPLE": sample, "_BLOCK": 64}.items():
        monkeypatch.setattr(exact_site, name, value)
    check((5, 3, 5, 4), 1, last, 1, coarse)


def test_a_channel_of_one_value_only(monkeypatch):
    for name, value in {"_RESIDENT": 4, "_SAMPLE": 4, "_BLOCK": 64}.items():
        monkeypatch.setattr(exact_site, name, value)
    shape = (40, 3)
    current = torch.zeros(1, *shape, device=DEVICE)
    threshold = torch.tensor([1.0, 2.0, 0.5], device=DEVICE)
    activation = torch.tensor([0.0, 1.0, 0.5], device=DEVICE).expand(shape).contiguous()
    cut = Target.of(activation, threshold, 1).cut("channel", torch.float32)
    v, bias, out = torch.ones(shape, device=DEVICE), torch.empty(1, 3, device=DEVICE), torch.empty_like(current)
    counts, target = torch.zeros(1, dtype=torch.int64, device=DEVICE), Target.of(activation, threshold, 1)
    exact_site.exact_site_(current, v, threshold, cut, bias, out, 1, counts)
    assert torch.equal(bias[0], exact_bias(torch.ones(shape, device=DEVICE), target, threshold, 1))
