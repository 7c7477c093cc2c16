import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftbc_pl.functional.neuron import integrate_and_fire_
from ftbc_pl.functional.selection import by_counts, by_partition, by_sorting, largest
from ftbc_pl.functional.targets import Target
from ftbc_pl.functional.thresholds import histogram, mse_threshold, percentile_threshold
from tests import reference
from tests.solving import balanced_bias, exact_bias, heuristic_bias


@given(
    st.sampled_from([largest, by_counts, by_partition, by_sorting]),
    st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=30),
    st.data(),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_order_statistics(find, values, data, dtype):
    rank = data.draw(st.integers(0, len(values) - 1))
    value, before = find(torch.tensor(values, dtype=dtype).unsqueeze(1), torch.tensor([rank]), 1)
    assert value.item() == reference.order_statistic(values, rank)
    assert before.item() == (reference.order_statistic(values, rank - 1) if rank else float("inf"))


@pytest.mark.parametrize("find", [by_counts, by_partition, by_sorting])
@pytest.mark.parametrize("size", [3, 25], ids=["few values a channel", "many"])
def test_order_statistics_of_channels_in_any_layout(find, size):
    values = torch.randn(6, 5, size, 20)
    ranks = torch.tensor([0, 120 * size - 1, 3, 40, 11])
    expected = values.movedim(1, 0).flatten(1).sort(1, descending=True).values.gather(1, ranks[:, None]).squeeze(1)
    assert torch.equal(find(values, ranks, 1)[0], expected)
    assert torch.equal(find(values.contiguous(memory_format=torch.channels_last), ranks, 1)[0], expected)
    last = values.movedim(1, -1).contiguous()
    assert torch.equal(find(last, ranks, 3)[0], expected)


@pytest.mark.parametrize("limit", [1, 250, 10_000])
def test_sorting_some_channels_at_a_time_makes_no_difference(limit, monkeypatch):
    monkeypatch.setattr("ftbc_pl.functional.selection._SORTED", limit)
    values, ranks = torch.randn(20, 5, 6), torch.tensor([0, 119, 3, 40, 11])
    assert all(
        torch.equal(a, b) for a, b in zip(by_sorting(values, ranks, 1), by_counts(values, ranks, 1), strict=True)
    )


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    coarse=st.booleans(),
    granularity=st.sampled_from(["channel", "layer"]),
)
def test_exact_meets_the_fraction_to_one_sample_and_ties(seed, scale, coarse, granularity):
    generator = torch.Generator().manual_seed(seed)
    membrane = torch.randn(20, 4, 3, generator=generator) * scale
    if coarse:
        membrane = (membrane * 2 / scale).round() * scale / 2
    threshold = torch.rand(4, generator=generator) + 0.1
    activation = torch.rand(20, 4, 3, generator=generator) * torch.tensor([0.0, 0.3, 1.0, 9.0]).view(1, 4, 1)
    target = Target.of(activation, threshold, 1)
    bias = exact_bias(membrane, target, threshold, 1, granularity)
    excess = membrane + bias.view(1, 4, 1) - threshold.view(1, 4, 1)
    assert bias.isfinite().all()
    fired = membrane + bias.view(1, 4, 1) >= threshold.view(1, 4, 1)
    groups = [(fired[:, c], excess[:, c], target.fraction[c].item()) for c in range(4)]
    if granularity == "layer":
        groups = [(fired, excess, target.fraction.mean().item())]
    for fires, distance, fraction in groups:
        tied = (distance.abs() <= 1e-5 * scale + 1e-6).sum().item()
        assert abs(fires.sum().item() - fraction * fires.numel()) <= 1 + tied


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), number=st.integers(2, 40))
def test_exact_cuts_half_way_between_two_neurons(seed, number):
    generator = torch.Generator().manual_seed(seed)
    membrane = torch.randn(number, 3, generator=generator, dtype=torch.float64)
    threshold = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    wanted = torch.randint(1, number, (3,), generator=generator)
    target = Target.of((wanted / number * threshold).expand(number, 3), threshold, 1)
    bias = exact_bias(membrane, target, threshold, 1)
    for channel in range(3):
        expected = reference.exact_bias(
            membrane[:, channel].tolist(), threshold[channel].item(), wanted[channel].item() / number
        )
        assert bias[channel].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_exact_leaves_dead_and_saturated_channels_alone_that_are_right_already():
    membrane = torch.tensor([[-1.0, 3.0], [0.2, 5.0]])
    target = Target.of(torch.tensor([[0.0, 2.0], [0.0, 2.0]]), torch.ones(2), 1)
    assert exact_bias(membrane, target, torch.ones(2), 1).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("layer", [False, True])
def test_heuristic_equals_the_reference_step_by_step(layer):
    generator = torch.Generator().manual_seed(0)
    threshold = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    bias = torch.zeros(4, 3, dtype=torch.float64)
    expected = bias.clone()
    for _ in range(3):
        currents = torch.randn(4, 16, 3, generator=generator, dtype=torch.float64)
        activation = torch.rand(16, 3, generator=generator, dtype=torch.float64)
        outputs, expected = reference.heuristic(currents, activation, threshold, 0.5, expected, 0.4, layer)
        target = Target.of(activation, threshold, 1)
        membrane = (0.5 * threshold).expand(16, 3).clone()
        for t in range(4):
            granularity = "layer" if layer else "channel"
            args = (membrane + currents[t], bias[t], target, threshold, 1, 0.4, granularity)
            bias[t] = heuristic_bias(*args)
            spikes = integrate_and_fire_(
                currents[t : t + 1], membrane, threshold, bias[t].view(1, 1, 3), torch.empty(1, 16, 3).double()
            )
            assert torch.equal(spikes[0], outputs[t])
        torch.testing.assert_close(bias, expected, rtol=0, atol=1e-15)


@pytest.mark.slow
@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    mean_weight=st.sampled_from([0.0, 1.0, 10.0, 1e6]),
    thresholds=st.lists(st.sampled_from([0.5, 1.0, 4.0]), min_size=3, max_size=3),
)
def test_balanced_is_the_best_of_all_candidates(seed, mean_weight, thresholds):
    generator = torch.Generator().manual_seed(seed)
    threshold = torch.tensor(thresholds)
    # Multiples of θ/16 leave nothing to rounding.
    membrane, error = (
        torch.randint(-40, 60, (6, 3, 2), generator=generator) * (threshold / 16).unsqueeze(1) for _ in range(2)
    )
    bias = balanced_bias(membrane, error, threshold, 1, mean_weight)
    for channel, theta in enumerate(thresholds):
        expected, _ = reference.balanced_bias(
            membrane[:, channel].double(), error[:, channel].double(), theta, mean_weight, candidates(theta)
        )
        assert bias[channel].item() == expected


def candidates(threshold):
    return [k * threshold / 256 for k in range(-256, 513)]


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    mean_weight=st.sampled_from([0.0, 3.0]),
    thresholds=st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=2, max_size=2),
)
def test_balanced_has_one_bias_a_layer_where_thresholds_differ(seed, mean_weight, thresholds):
    generator = torch.Generator().manual_seed(seed)
    threshold = torch.tensor(thresholds, dtype=torch.float64)
    membrane, error = (torch.randint(-16, 40, (30, 2), generator=generator).double() / 16 for _ in range(2))
    bias, same = balanced_bias(membrane, error, threshold, 1, mean_weight, "layer").tolist()
    assert bias == same

    def loss(candidate):
        left = error - threshold * (membrane + candidate >= threshold)
        return (left.square().mean() + mean_weight * left.mean() ** 2).item()

    assert loss(bias) == pytest.approx(min(map(loss, candidates(max(thresholds)))), rel=1e-9)


def test_least_squares_is_as_good_as_the_best_of_all_cuts_between_neurons():
    generator = torch.Generator().manual_seed(0)
    membrane, error = (torch.rand(50, 4, generator=generator, dtype=torch.float64) * 1.5 for _ in range(2))
    threshold = torch.ones(4, dtype=torch.float64)
    bias = balanced_bias(membrane, error, threshold, 1, 0.0)

    def losses(bias):
        return (error - (membrane + bias >= threshold).double()).square().sum(0)

    # A cut between two neurons closer than θ/256 may be missed: that costs at most a neuron or two.
    cuts = torch.stack([losses(1 - membrane[i]) for i in range(50)]).amin(0)
    assert (losses(bias) <= cuts + 1).all()
    assert (losses(bias) == cuts).any()


def test_slices_of_the_batch_make_no_difference(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    membrane, error = (torch.randn(12, 3, 5, generator=generator) for _ in range(2))
    threshold = torch.tensor([0.5, 1.0, 2.0])

    def results():
        potential, out = membrane.clone(), torch.empty(2, 12, 3, 5)
        integrate_and_fire_(torch.stack([error, error]), potential, threshold.view(3, 1), None, out)
        excess = membrane - threshold.view(3, 1)
        found = by_counts(excess, torch.tensor([0, 30, 59]), 1)
        return [potential, out, *found, balanced_bias(membrane, error, threshold, 1, 3.0)]

    whole = results()
    monkeypatch.setattr("ftbc_pl.functional.neuron._SLICE", 20)  # two or fewer rows at once
    assert all(torch.equal(a, b) for a, b in zip(results(), whole, strict=True))


def test_balanced_without_limit_matches_the_mean_like_exact():
    generator = torch.Generator().manual_seed(0)
    membrane, activation = torch.randn(500, 3, 4, generator=generator), torch.rand(500, 3, 4, generator=generator)
    threshold = torch.tensor([1.0, 1.5, 2.0])
    bias = balanced_bias(membrane, activation, threshold, 1, 1e9)
    exact = exact_bias(membrane, Target.of(activation, threshold, 1), threshold, 1)
    assert ((bias - exact).abs() <= threshold / 256).all()


def test_balanced_of_parts_adds_up_to_the_bit_in_any_order():
    generator = torch.Generator().manual_seed(0)
    membrane, error = (torch.randn(64, 5, 7, generator=generator) for _ in range(2))
    order = torch.randperm(64, generator=generator)
    threshold = torch.rand(5, generator=generator) + 0.5
    whole = balanced_bias(membrane, error, threshold, 1, 3.0)
    assert torch.equal(whole, balanced_bias(membrane[order], error[order], threshold, 1, 3.0))
    last = balanced_bias(membrane.movedim(1, 2), error.movedim(1, 2), threshold, 2, 3.0)
    assert torch.equal(whole, last)


@pytest.mark.parametrize("theta", [1.0, 0.3])
@pytest.mark.parametrize("value", [0.0, -3.0, 0.5, 0.999, 5.0, 1e30])
@pytest.mark.parametrize("wanted", [0, 1, 9])
def test_balanced_of_a_constant_channel_fires_all_or_none(theta, value, wanted):
    membrane, threshold = torch.full((4, 2), value * theta), torch.full((2,), theta)
    bias = balanced_bias(membrane, torch.full((4, 2), wanted * theta), threshold, 1, 10.0)
    assert bias.isfinite().all()
    assert (bias.abs() <= 2 * theta).all()
    # No candidate keeps a neuron silent that is more than θ above its threshold, or fires one more than 2θ below.
    expected = value >= -1 and (wanted > 0 or value > 2)
    assert (membrane + bias >= threshold).tolist() == [[expected] * 2] * 4


def test_mse_threshold_is_the_best_of_all_candidates():
    activation = torch.rand(4000, 2, dtype=torch.float64).square() * torch.tensor([1.0, 7.0])
    maximum = activation.amax(0)
    counts = histogram(activation, maximum, 1)
    found = mse_threshold(counts, maximum, 4, 0.5)
    for channel in range(2):
        best = reference.mse_threshold(activation[:, channel], 4, 0.5)
        assert found[channel].item() == pytest.approx(best, abs=maximum[channel].item() * 0.0101)


def test_mse_threshold_of_few_steps_is_that_of_four():
    activation = torch.rand(4000, 2).square()
    maximum = activation.amax(0)
    counts = histogram(activation, maximum, 1)
    four = mse_threshold(counts, maximum, 4, 0.5)
    assert all(torch.equal(mse_threshold(counts, maximum, steps, 0.5), four) for steps in (1, 2, 3))
    assert (mse_threshold(counts, maximum, 5, 0.5) > four).all()


def test_histograms_add_up_and_give_percentiles():
    activation = torch.rand(1000, 2)
    maximum = activation.amax(0)
    parts = [histogram(part, maximum, 1) for part in activation.split(300)]
    assert torch.equal(sum(parts), histogram(activation, maximum, 1))
    found = percentile_threshold(sum(parts), maximum, 90)
    expected = activation.quantile(0.9, dim=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_dead_channel_has_a_histogram():
    counts = histogram(torch.zeros(10, 1), torch.zeros(1), 1)
    assert counts.sum() == 10
    assert mse_threshold(counts, torch.zeros(1), 4, 0.5).item() == 0.0
