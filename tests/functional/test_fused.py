"""The compiled neuron against the one that is not; a C++ compiler is needed."""

import pytest
import torch

from ftbc_pl import convert
from ftbc_pl.functional import fused
from ftbc_pl.functional.neuron import integrate_and_fire_, per_channel
from tests.networks import images, small_cnn
from tests.pipeline import needs_compiler

LAST = torch.channels_last


@needs_compiler
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("shape", "channel_dim", "memory_format", "dtype", "steps_at_once"),
    [
        ((4, 8, 5, 6), 1, torch.contiguous_format, torch.float32, 1),
        ((4, 8, 5, 6), 1, LAST, torch.float32, 2),
        ((4, 8, 5, 6), 1, torch.contiguous_format, torch.bfloat16, 2),
        ((1, 8, 5, 6), 1, LAST, torch.float32, 1),
        ((3, 1, 4, 4), 1, torch.contiguous_format, torch.float64, 1),
        ((6, 7), 1, torch.contiguous_format, torch.float32, 1),
        ((2, 5, 6), 2, torch.contiguous_format, torch.float32, 1),
        ((2, 3, 4, 5, 6), 1, torch.contiguous_format, torch.float32, 1),
    ],
)
def test_equals_the_neuron_that_is_not_compiled(
    shape, channel_dim, memory_format, dtype, steps_at_once, inplace, monkeypatch
):
    monkeypatch.setattr(fused, "_CPU_STEPS", steps_at_once)
    rows = torch.randn(3 * shape[0], *shape[1:], dtype=dtype).to(memory_format=memory_format)
    current = rows.unflatten(0, (3, shape[0]))
    membrane, channels = torch.randn_like(current[0]), shape[channel_dim]
    theta, bias = torch.rand(channels, dtype=dtype) + 0.5, torch.randn(3, channels, dtype=dtype)
    x, v = current.clone(), membrane.clone()
    out = x.view_as(x) if inplace else torch.empty_like(x)
    with monkeypatch.context() as only_compiled:
        only_compiled.delattr(fused, "integrate_and_fire_")
        fused.fused_integrate_and_fire_(x, v, theta, bias, out, channel_dim)
    expected_theta, expected_bias = (per_channel(values, len(shape), channel_dim) for values in (theta, bias))
    expected = integrate_and_fire_(current, membrane, expected_theta, expected_bias, torch.empty_like(current))
    assert torch.equal(out, expected)
    assert torch.equal(v, membrane)


def test_channels_in_the_middle_of_memory_are_not_compiled(monkeypatch):
    monkeypatch.delattr(fused, "_compiled")
    current = torch.randn(6, 3, 4, 5).to(memory_format=LAST).unflatten(0, (3, 2))
    membrane, out = torch.zeros_like(current[0]), torch.empty_like(current)
    fused.fused_integrate_and_fire_(current, membrane, torch.ones(4), torch.zeros(3, 4), out, 2)
    expected = integrate_and_fire_(current, torch.zeros_like(membrane), torch.tensor(1.0), None, torch.empty_like(out))
    assert torch.equal(out, expected)


@needs_compiler
def test_compiled_network_equals_the_network(monkeypatch):
    snn = convert(small_cnn(), 4, batches=[images()])
    for _, site in snn.neurons():
        torch.nn.init.normal_(site.temporal_bias, std=0.3)
    with snn.uncalibrated():
        uncalibrated = snn(images())
    calibrated = snn(images())
    snn.compile_neurons()
    monkeypatch.delattr("ftbc_pl.layers.integrate_and_fire_")
    assert torch.equal(snn(images()), calibrated)
    with snn.uncalibrated():
        assert torch.equal(snn(images()), uncalibrated)
    assert not torch.equal(calibrated, uncalibrated)
