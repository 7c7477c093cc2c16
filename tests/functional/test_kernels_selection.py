"""Order statistics and the steps of the solvers in kernels against the eager code, to the bit."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftbc_pl.calibration.solvers.exact import exact_bias
from ftbc_pl.functional.kernels import exact, launch, selection
from ftbc_pl.functional.kernels import neuron as kernels
from ftbc_pl.functional.neuron import fire_, per_channel
from ftbc_pl.functional.selection import by_counts
from ftbc_pl.functional.targets import Target
from tests import reference
from tests.functional.kernels import DEVICE, SEEDS, SHAPES, count_launches, few, generator_of, in_layout


@few
@given(values=st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=30), data=st.data())
def test_order_statistics_of_any_numbers(values, data):
    rank = data.draw(st.integers(0, len(values) - 1))
    found = selection.largest(torch.tensor(values, device=DEVICE).unsqueeze(1), torch.tensor([rank], device=DEVICE), 1)
    expected = reference.order_statistic(values, rank)
    before = reference.order_statistic(values, rank - 1) if rank else float("inf")
    assert [value.item() for value in found] == [expected, before]


# Values that share their leading bits, all but the last bits, or none; the rank decides where the next larger one is.
@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-4, 1e-2, 10.0])
def test_the_next_larger_value_is_found_at_each_level(spread):
    values = 1 + spread * torch.randn(8, 1, generator=generator_of(0)).expand(8, 5).to(DEVICE)
    ranks = torch.tensor([0, 1, 2, 5, 7], device=DEVICE)
    found, expected = selection.largest(values.contiguous(), ranks, 1), by_counts(values, ranks, 1)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def case(shape, dim, last, seed, coarse=False):
    """Current, membrane, thresholds and the ANN's activation; some channels never fire, some always."""
    generator, channels = generator_of(seed), shape[dim]
    current, membrane = torch.randn(2, *shape, generator=generator)
    if coarse:  # many ties
        current, membrane = (current * 2).round() / 2, (membrane * 2).round() / 2
    # Can be written in 16 bits: the interpreter cuts off what cannot, a GPU rounds.
    threshold = torch.randint(10, 50, (channels,), generator=generator) / 32
    size = torch.tensor([0.0, 0.3, 1.0, 9.0, 0.5])[torch.arange(channels) % 5]
    activation = torch.rand(shape, generator=generator) * per_channel(size, len(shape), dim)
    current, membrane, activation = (
        in_layout(values, dim, last).to(DEVICE) for values in (current, membrane, activation)
    )
    return current, membrane, threshold.to(DEVICE), activation


@few
@given(
    shape_and_dim=SHAPES,
    last=st.booleans(),
    seed=SEEDS,
    coarse=st.booleans(),
    granularity=st.sampled_from(["channel", "layer"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_step_under_exact(shape_and_dim, last, seed, coarse, granularity, dtype):
    shape, dim = shape_and_dim
    current, membrane, threshold, activation = case(shape, dim, last, seed, coarse)
    current = current.to(dtype)
    target = Target.of(activation, threshold, dim)
    v, bias, counts = membrane.clone(), torch.empty_like(threshold), torch.zeros(1, dtype=torch.int64, device=DEVICE)
    out = torch.empty_like(current)
    cut = target.cut(granularity, torch.float32)
    exact.exact_step_(current, v, threshold, cut, bias, out, dim, counts)
    membrane.add_(current)
    expected = exact_bias(membrane, target, threshold, dim, granularity)
    assert torch.equal(bias, expected)
    theta = per_channel(threshold.to(dtype), len(shape), dim)
    spikes = fire_(membrane.add_(per_channel(expected, len(shape), dim)), theta, torch.empty_like(out))
    assert torch.equal(out, spikes)
    assert torch.equal(v, membrane)
    assert counts.item() == torch.count_nonzero(spikes)


@pytest.mark.parametrize(("last", "granularity"), [(False, "channel"), (True, "channel"), (True, "layer")])
def test_blocks_and_chunks_of_a_program_make_no_difference(last, granularity, monkeypatch):
    monkeypatch.setattr(selection, "_BLOCK", 16)
    monkeypatch.setattr(selection, "_CHUNK", 2)
    current, membrane, threshold, activation = case((3, 3, 4, 4), 1, last, 0)
    target, v, bias = Target.of(activation, threshold, 1), membrane.clone(), torch.empty_like(threshold)
    cut = target.cut(granularity, torch.float32)
    exact.exact_step_(current, v, threshold, cut, bias, torch.empty_like(current), 1)
    assert torch.equal(bias, exact_bias(membrane + current, target, threshold, 1, granularity))


def test_counts_of_several_processes_merge_by_adding():
    values, ranks = torch.randn(6, 2, generator=generator_of(0)).to(DEVICE), torch.tensor([3, 1], device=DEVICE)
    merges = []  # what each of two processes put into each of four merges in the last round
    for _ in range(5):  # each makes what is put into one more of them right
        put = [[], []]
        found = [
            selection.largest(part, ranks, 1, *merging(merges, mine))
            for part, mine in zip(values.split(3), put, strict=True)
        ]
        merges = list(zip(*put, strict=True))
    assert len(merges) == 4
    expected = by_counts(values, ranks, 1)
    for pair in found:
        assert all(torch.equal(a, b) for a, b in zip(pair, expected, strict=True))


def merging(merges, mine):
    """Functions that add and take the maximum, and keep what this process puts in."""

    def merge(combine, values):
        mine.append(values.clone())
        if merges:
            values.copy_(combine(*merges[len(mine) - 1]))
        return values

    return partial(merge, torch.add), partial(merge, torch.maximum)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("granularity", ["channel", "layer"])
def test_a_step_under_exact_takes_eight_launches(last, granularity, monkeypatch):
    current, membrane, threshold, activation = case((2, 5, 3, 3), 1, last, 0)
    cut, bias = Target.of(activation, threshold, 1).cut(granularity, torch.float32), torch.empty_like(threshold)
    counts = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    launches = count_launches(
        monkeypatch,
        [kernels, selection, exact],
        lambda: exact.exact_step_(current, membrane, threshold, cut, bias, current, 1, counts),
    )
    assert launches == 8


def test_other_dtypes_and_too_many_ranks_are_refused():
    values, ranks = torch.zeros(4, 3, dtype=torch.float64, device=DEVICE), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="float32 membrane"):
        selection.largest(values, ranks, 1)
    with pytest.raises(ValueError, match="3 ranks"):
        selection.largest(values.float(), ranks[:2], 1)
    assert not launch.supports(1, values)
    assert launch.supports(1, values.float(), values.bfloat16())
    assert not launch.supports(1, values.float(), values.T.contiguous().T[:, :1].expand(4, 3))
