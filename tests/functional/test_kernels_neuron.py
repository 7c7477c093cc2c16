"""The neuron's kernel against the eager code, to the bit."""

import ast
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ftbc_pl.functional.kernels
from ftbc_pl import convert
from ftbc_pl.functional import neuron
from ftbc_pl.functional.kernels import available
from ftbc_pl.functional.kernels import neuron as kernels
from tests.functional.kernels import DEVICE, SEEDS, SHAPES, few, generator_of, in_layout
from tests.networks import images, small_cnn

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])


def case(shape, dim, last, dtype, seed, steps):
    generator, channels = generator_of(seed), shape[dim]
    wide = torch.promote_types(dtype, torch.float32)
    current = in_layout(torch.randn(steps, *shape, generator=generator), dim + 1, last).to(DEVICE, dtype)
    membrane = in_layout(torch.randn(shape, generator=generator), dim, last).to(DEVICE, wide)
    threshold = (torch.rand(channels, generator=generator) + 0.3).to(DEVICE, dtype)
    bias = torch.randn(steps, channels, generator=generator).to(DEVICE, wide)
    return current, membrane, threshold, bias


def eager(current, membrane, threshold, bias, dim):
    theta, b = (neuron.per_channel(values, membrane.ndim, dim) for values in (threshold, bias))
    return neuron.integrate_and_fire_(current, membrane, theta, b, torch.empty_like(current))


@few
@given(
    shape_and_dim=SHAPES,
    last=st.booleans(),
    dtype=DTYPES,
    seed=SEEDS,
    steps=st.integers(1, 4),
    inplace=st.booleans(),
    biased=st.booleans(),
)
def test_neurons_over_several_steps(shape_and_dim, last, dtype, seed, steps, inplace, biased):
    shape, dim = shape_and_dim
    current, membrane, threshold, bias = case(shape, dim, last, dtype, seed, steps)
    v, x, counts = membrane.clone(), current.clone(), torch.zeros(steps, dtype=torch.int64, device=DEVICE)
    out = x if inplace else torch.empty_like(x)
    assert kernels.integrate_and_fire_(x, v, threshold, bias if biased else None, out, dim, counts) is out
    expected = eager(current, membrane, threshold, bias if biased else torch.zeros_like(bias), dim)
    assert torch.equal(out, expected)
    assert torch.equal(v, membrane)
    assert torch.equal(counts, (expected > 0).flatten(1).sum(1))


def test_spikes_are_counted_without_being_written():
    current, membrane, threshold, bias = case((3, 5, 4, 3), 1, False, torch.float32, 0, 3)
    v, x, counts = membrane.clone(), current.clone(), torch.ones(3, dtype=torch.int64, device=DEVICE)
    assert kernels.integrate_and_fire_(x, v, threshold, bias, None, 1, counts) is None
    assert torch.equal(x, current)
    expected = eager(current, membrane, threshold, bias, 1)
    assert torch.equal(counts, 1 + (expected > 0).flatten(1).sum(1))
    assert torch.equal(v, membrane)


@pytest.mark.parametrize("last", [False, True])
def test_blocks_of_a_program_make_no_difference(last, monkeypatch):
    monkeypatch.setattr(kernels, "_BLOCK", 16)
    current, membrane, threshold, bias = case((3, 5, 4, 3), 1, last, torch.float32, 0, 3)
    v, out = membrane.clone(), torch.empty_like(current)
    kernels.integrate_and_fire_(current, v, threshold, bias, out, 1)
    assert torch.equal(out, eager(current, membrane, threshold, bias, 1))
    assert torch.equal(v, membrane)


@pytest.mark.parametrize("first", [1, 3])
def test_16_bits_do_not_depend_on_how_the_steps_are_cut(first):
    current, membrane, threshold, bias = case((3, 5, 4), 1, False, torch.bfloat16, 0, 4)
    v, whole, parts = membrane.clone(), torch.empty_like(current), torch.empty_like(current)
    kernels.integrate_and_fire_(current, v, threshold, bias, whole, 1)
    for steps in (slice(0, first), slice(first, 4)):
        kernels.integrate_and_fire_(current[steps], membrane, threshold, bias[steps], parts[steps], 1)
    assert torch.equal(parts, whole)
    assert torch.equal(membrane, v)


def test_the_same_current_at_every_step_is_read_from_one_place():
    current, membrane, threshold, bias = case((3, 5, 4), 1, False, torch.float32, 0, 4)
    static, v, out = current[:1].expand_as(current), membrane.clone(), torch.empty_like(current)
    kernels.integrate_and_fire_(static, v, threshold, bias, out, 1)
    assert torch.equal(out, eager(static.clone(), membrane, threshold, bias, 1))


def test_channels_in_the_middle_of_memory_take_the_eager_code(monkeypatch):
    monkeypatch.delattr(kernels, "launch")
    current, membrane, threshold, bias = case((3, 4, 5, 6), 1, False, torch.float32, 0, 2)
    current, membrane = current.transpose(-1, -2), membrane.transpose(-1, -2)
    v, out = membrane.clone(), torch.empty_like(current)
    kernels.integrate_and_fire_(current, v, threshold, bias, out, 1)
    assert torch.equal(out, eager(current, membrane, threshold, bias, 1))


@few
@given(shape_and_dim=SHAPES, last=st.booleans(), dtype=DTYPES, seed=SEEDS)
def test_one_step_with_the_bias_and_what_the_output_lacks(shape_and_dim, last, dtype, seed):
    shape, dim = shape_and_dim
    _, membrane, threshold, bias = case(shape, dim, last, dtype, seed, 1)
    error, v = torch.ones_like(membrane), membrane.clone()
    out, counts = torch.empty_like(membrane, dtype=dtype), torch.zeros(1, dtype=torch.int64, device=DEVICE)
    kernels.fire_(v, threshold, bias[0], out, dim, error=error, counts=counts)
    theta, b = (neuron.per_channel(values, len(shape), dim) for values in (threshold, bias[0]))
    expected = neuron.fire_(membrane.add_(b), theta, torch.empty_like(out))
    assert torch.equal(out, expected)
    assert torch.equal(v, membrane)
    assert torch.equal(error, 1 - expected.to(error.dtype))
    assert counts.item() == torch.count_nonzero(expected)


def test_one_step_in_another_order_of_memory_is_refused():
    membrane = torch.zeros(3, 4, 5, device=DEVICE)
    with pytest.raises(ValueError, match="Copy them"):
        kernels.fire_(membrane, membrane[0, :, 0], membrane[0, :, 0], membrane.mT.contiguous().mT, 1)


def test_only_a_gpu_has_kernels():
    assert not available(torch.device("cpu"))
    assert available(DEVICE) == (DEVICE.type == "cuda")


def test_a_gpu_on_which_kernels_do_not_run_has_none():
    with pytest.warns(UserWarning, match="don't run on cuda:63"):
        assert not available.__wrapped__(torch.device("cuda", 63))


def test_networks_run_in_kernels_where_there_are_some(monkeypatch):
    snn = convert(small_cnn(), 3, batches=[images()]).to(DEVICE)
    for _, site in snn.neurons():
        torch.nn.init.normal_(site.temporal_bias, std=0.3)
    batch, found = images().to(DEVICE), []
    for kernels_exist in (False, True):
        monkeypatch.setattr("ftbc_pl.functional.kernels.available", lambda device, exist=kernels_exist: exist)
        with snn.uncalibrated():
            uncalibrated = snn(batch)
        found.append((uncalibrated, snn(batch)))
        monkeypatch.delattr("ftbc_pl.layers.integrate_and_fire_", raising=False)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_triton_is_not_imported_before_a_kernel_runs():
    package = Path(ftbc_pl.functional.kernels.__file__).parent
    for path in package.parents[1].rglob("*.py"):
        if path.parent == package and path.name != "__init__.py":
            continue
        for node in ast.parse(path.read_text()).body:  # what is inside a function is imported later
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "triton" not in ast.unparse(node), path
                assert "functional.kernels." not in ast.unparse(node), path
