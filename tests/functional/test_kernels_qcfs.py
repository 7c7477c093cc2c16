"""The kernels of QCFS against the eager code."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftbc_pl.functional.kernels import qcfs as kernels
from ftbc_pl.functional.qcfs import _QCFS, qcfs
from tests.functional.kernels import DEVICE, SEEDS, count_launches, few, generator_of
from tests.functional.test_qcfs import HAND_WRITTEN


def gradients(function, x, threshold, levels, grad):
    x, threshold = x.detach().requires_grad_(), threshold.detach().requires_grad_()
    y = function.apply(x, threshold, levels)
    y.backward(grad)
    return y.detach(), x.grad, threshold.grad


@few
@given(
    shape=st.sampled_from([(3, 5, 4, 2), (17,), (2, 3), ()]),
    last=st.booleans(),
    levels=st.integers(1, 16),
    threshold=st.floats(0.125, 9.0, width=32),
    seed=SEEDS,
)
def test_values_and_gradients_to_the_bit(shape, last, levels, threshold, seed):
    generator = generator_of(seed)
    x = (torch.randn(shape, generator=generator) * threshold).to(DEVICE)
    if last and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    grad, theta = torch.randn(shape, generator=generator).to(DEVICE), torch.tensor(threshold, device=DEVICE)
    y, grad_x, grad_threshold = gradients(kernels.QCFS, x, theta, levels, grad)
    on_cpu = (values.cpu() for values in (x, theta))
    expected, expected_grad_x, expected_grad_threshold = gradients(_QCFS, *on_cpu, levels, grad.cpu())
    assert torch.equal(y.cpu(), expected)
    assert torch.equal(grad_x.cpu(), expected_grad_x)
    assert y.stride() == grad_x.stride() == x.stride()
    torch.testing.assert_close(grad_threshold.cpu(), expected_grad_threshold, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("x", "value", "to_x", "to_threshold"), HAND_WRITTEN)
def test_hand_written(x, value, to_x, to_threshold):
    found = gradients(
        kernels.QCFS, torch.tensor([x], device=DEVICE), torch.tensor(2.0, device=DEVICE), 4, torch.ones(1).to(DEVICE)
    )
    assert [values.item() for values in found] == [value, to_x, to_threshold]


@few
@given(dtype=st.sampled_from([torch.bfloat16, torch.float16]), levels=st.integers(1, 16), seed=SEEDS)
def test_16_bits_are_worked_out_in_32(dtype, levels, seed):
    # All values can be written in 16 bits: the interpreter cuts off what cannot, a GPU rounds.
    generator, threshold = generator_of(seed), torch.tensor(0.25 * levels, device=DEVICE)
    x, grad = (torch.randn(40, generator=generator).to(DEVICE, dtype) for _ in range(2))
    found = gradients(kernels.QCFS, x, threshold, levels, grad)
    expected = gradients(kernels.QCFS, x.float(), threshold, levels, grad.float())
    assert [values.dtype for values in found] == [dtype, dtype, torch.float32]
    assert all(torch.equal(a, b.to(a.dtype)) for a, b in zip(found, expected, strict=True))


def test_memory_that_is_not_dense_and_expanded_gradients():
    x, threshold = torch.randn(6, 8, device=DEVICE)[:, ::2], torch.tensor(1.0, device=DEVICE)
    grad = torch.ones((), device=DEVICE).expand(6, 4)
    found = gradients(kernels.QCFS, x, threshold, 4, grad)
    expected = gradients(_QCFS, x.cpu(), threshold.cpu(), 4, torch.ones(6, 4))
    assert torch.equal(found[0].cpu(), expected[0])
    assert torch.equal(found[1].cpu(), expected[1])


def test_gradient_to_a_fixed_threshold_is_not_worked_out(monkeypatch):
    x, threshold = torch.randn(5, device=DEVICE, requires_grad=True), torch.tensor(1.0, device=DEVICE)
    y = kernels.QCFS.apply(x, threshold, 4)
    assert count_launches(monkeypatch, [kernels], lambda: torch.autograd.grad(y, x, torch.ones_like(y))) <= 2


def test_a_launch_forward_and_two_backward(monkeypatch):
    x, threshold = torch.randn(5, device=DEVICE, requires_grad=True), torch.ones((), device=DEVICE, requires_grad=True)
    ys = []
    assert count_launches(monkeypatch, [kernels], lambda: ys.append(kernels.QCFS.apply(x, threshold, 4))) == 1
    grad = torch.ones(5, device=DEVICE)
    assert count_launches(monkeypatch, [kernels], lambda: torch.autograd.grad(ys[0], (x, threshold), grad)) == 2


def test_which_dtypes_have_a_kernel():
    assert kernels.supports(torch.zeros(1, dtype=torch.bfloat16))
    assert not kernels.supports(torch.zeros(1, dtype=torch.float64))


def test_partial_sums_of_programs_make_no_difference_but_rounding(monkeypatch):
    generator = generator_of(0)
    x, grad = (torch.randn(100, generator=generator).to(DEVICE) for _ in range(2))
    threshold = torch.tensor(1.0, device=DEVICE)
    whole = gradients(kernels.QCFS, x, threshold, 4, grad)
    monkeypatch.setattr(kernels, "_BLOCK", 16)
    parts = gradients(kernels.QCFS, x, threshold, 4, grad)
    assert torch.equal(parts[0], whole[0])
    assert torch.equal(parts[1], whole[1])
    torch.testing.assert_close(parts[2], whole[2])


def test_activations_run_in_kernels_where_there_are_some(monkeypatch):
    monkeypatch.setattr("ftbc_pl.functional.kernels.available", lambda device: True)
    threshold = torch.tensor(1.0, device=DEVICE)
    for dtype, name in ((torch.float32, "QCFSBackward"), (torch.float64, "_QCFSBackward")):
        x = torch.randn(5, device=DEVICE, dtype=dtype, requires_grad=True)
        assert qcfs(x, threshold, 4).grad_fn.name() == name
