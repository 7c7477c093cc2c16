import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftbc_pl.functional.readout import error_products, least_squares_readout, mean_readout
from tests import reference


def random_outputs(steps, seed, batch=5, classes=4):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(batch, classes, generator=generator)
    # Late outputs are closer, and what is wrong with one step is partly wrong with the next.
    noise = torch.randn(steps, batch, classes, generator=generator).cumsum(0).flip(0)
    return target + noise, target


def test_the_mean_is_a_readout():
    outputs, _ = random_outputs(5, 0)
    read = torch.tensordot(mean_readout(5).float(), outputs, 1)
    torch.testing.assert_close(read, torch.stack([outputs[: t + 1].mean(0) for t in range(5)]))


@given(st.integers(1, 6), st.integers(0, 100))
def test_errors_add_up_over_batches(steps, seed):
    outputs, target = random_outputs(steps, seed)
    products = error_products(outputs, target)
    assert products.dtype == torch.float64
    torch.testing.assert_close(products, reference.error_products(outputs, target), rtol=1e-6, atol=1e-9)
    parts = error_products(outputs[:, :2], target[:2]) + error_products(outputs[:, 2:], target[2:])
    torch.testing.assert_close(products, parts, rtol=1e-12, atol=1e-12)


@given(st.integers(1, 8), st.integers(0, 100))
def test_weights_are_those_of_the_naive_solution(steps, seed):
    products = error_products(*random_outputs(steps, seed))
    weights = least_squares_readout(products)
    for t in range(1, steps + 1):
        expected = reference.readout(products, t)
        torch.testing.assert_close(weights[t - 1, :t], expected, rtol=1e-9, atol=1e-9)
        assert weights[t - 1, :t].sum().item() == pytest.approx(1)
        assert not weights[t - 1, t:].any()


@given(st.integers(2, 6), st.integers(0, 100), st.integers(0, 100))
def test_no_other_weights_have_a_smaller_error(steps, seed, other):
    outputs, target = random_outputs(steps, seed)
    products = error_products(outputs, target)
    penalised = products + torch.diag(1e-2 * products.diagonal())
    best = least_squares_readout(products)[-1]
    change = torch.randn(steps, generator=torch.Generator().manual_seed(other), dtype=products.dtype)
    changed = best + change - change.mean()
    assert best @ penalised @ best <= changed @ penalised @ changed


def test_outputs_without_errors_are_averaged():
    torch.testing.assert_close(least_squares_readout(torch.zeros(4, 4, dtype=torch.float64)), mean_readout(4))


def test_a_step_without_error_is_all_that_counts():
    outputs, target = random_outputs(4, 0)
    outputs[2] = target
    torch.testing.assert_close(least_squares_readout(error_products(outputs, target))[-1], torch.eye(4).double()[2])


def test_weights_depend_on_no_later_step():
    products = error_products(*random_outputs(6, 0))
    for t in range(1, 7):
        shorter = least_squares_readout(products[:t, :t])
        torch.testing.assert_close(shorter, least_squares_readout(products)[:t, :t], rtol=1e-12, atol=1e-12)


def test_a_useless_first_step_is_left_out():
    outputs, target = torch.zeros(3, 10, 4), torch.zeros(10, 4)
    outputs[0] = 100.0
    outputs[1:] = torch.randn(2, 10, 4, generator=torch.Generator().manual_seed(0))
    assert least_squares_readout(error_products(outputs, target))[-1, 0].abs() < 0.01


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_infinite_outputs_are_refused(value):
    outputs, target = random_outputs(3, 0)
    outputs[1, 0, 0] = value
    with pytest.raises(ValueError, match="The output has NaN or infinite values during calibration"):
        least_squares_readout(error_products(outputs, target))
