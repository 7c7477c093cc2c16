from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ftbc_pl.functional.expansion import Moments, expansion
from ftbc_pl.functional.patches import Affine, Identity, sampled_positions, sampled_rows
from ftbc_pl.functional.ridge import PENALTIES, constant_per_step, correction, solve_ridge
from ftbc_pl.functional.ridge_sums import Design, RidgeSums, joint_sums, ridge_sums
from tests import reference

conv, transposed = Affine.convolution, Affine.transposed_convolution
IMAGES = 12


def padded(mode):
    return lambda x, w: F.conv2d(F.pad(x, (1, 1, 1, 1), mode=mode), w)


# Of each term: geometry, the same as torch does it, and the shape of its input without the batch.
LINEAR = (Affine.linear((3, 6)), F.linear, (6,))
TOKENS = (Affine.linear((3, 4)), F.linear, (5, 4))
CONV = (conv((4, 2, 3, 3), padding=1), lambda x, w: F.conv2d(x, w, padding=1), (2, 5, 5))
PROJECTION = (conv((4, 3, 1, 1), stride=2), lambda x, w: F.conv2d(x, w, stride=2), (3, 9, 9))
GROUPED = (conv((4, 2, 3, 3), padding=1, groups=2), lambda x, w: F.conv2d(x, w, padding=1, groups=2), (4, 5, 5))
DEPTHWISE = (conv((4, 1, 3, 3), padding=1, groups=4), lambda x, w: F.conv2d(x, w, padding=1, groups=4), (4, 5, 5))
SHORTCUT = (Identity(4), lambda x, w: x * w.view(-1, 1, 1), (4, 5, 5))
KINDS = {
    "linear": ([LINEAR], 1),
    "linear on tokens": ([TOKENS], 2),
    "linear on tokens with an identity": ([TOKENS, (Identity(3), lambda x, w: x * w, (5, 3))], 2),
    "convolution": ([CONV], 1),
    "stride, dilation, padding by side": (
        [
            (
                conv((3, 2, 3, 2), stride=(2, 1), padding=(2, 0), dilation=(1, 2)),
                lambda x, w: F.conv2d(x, w, None, (2, 1), (2, 0), (1, 2)),
                (2, 6, 7),
            )
        ],
        1,
    ),
    "padding: same": (
        [
            (
                conv((3, 2, 3, 5), padding="same", dilation=(2, 1)),
                lambda x, w: F.conv2d(x, w, padding="same", dilation=(2, 1)),
                (2, 5, 6),
            )
        ],
        1,
    ),
    "padding: same, even kernel": (
        [
            (
                conv((3, 2, 2, 4), padding="same"),
                lambda x, w: F.conv2d(F.pad(x, (1, 2, 0, 1)), w),
                (2, 5, 6),
            )
        ],
        1,
    ),
    "padding: valid": ([(conv((3, 2, 2, 3), padding="valid"), F.conv2d, (2, 5, 6))], 1),
    "padding: reflect": ([(conv((3, 2, 3, 3), padding=1, mode="reflect"), padded("reflect"), (2, 5, 5))], 1),
    "padding: replicate": ([(conv((3, 2, 3, 3), padding=1, mode="replicate"), padded("replicate"), (2, 5, 5))], 1),
    "padding: circular": ([(conv((3, 2, 3, 3), padding=1, mode="circular"), padded("circular"), (2, 5, 5))], 1),
    "one dimension": ([(conv((3, 2, 4), stride=3, padding=2), lambda x, w: F.conv1d(x, w, None, 3, 2), (2, 13))], 1),
    "three dimensions": (
        [(conv((2, 2, 2, 2, 3), padding=1), lambda x, w: F.conv3d(x, w, padding=1), (2, 3, 4, 3))],
        1,
    ),
    "groups": ([GROUPED], 1),
    "groups with an identity": ([GROUPED, SHORTCUT], 1),
    "depthwise": ([DEPTHWISE], 1),
    "depthwise, two outputs an input": (
        [(conv((4, 1, 3, 3), groups=2, stride=2), lambda x, w: F.conv2d(x, w, stride=2, groups=2), (2, 7, 7))],
        1,
    ),
    "depthwise with an identity": ([DEPTHWISE, SHORTCUT], 1),
    "transposed": (
        [
            (
                transposed((2, 3, 3, 2), stride=(2, 1), padding=(1, 0), output_padding=(1, 0), dilation=(1, 2)),
                lambda x, w: F.conv_transpose2d(x, w, None, (2, 1), (1, 0), (1, 0), 1, (1, 2)),
                (2, 4, 4),
            )
        ],
        1,
    ),
    "transposed in groups": (
        [
            (
                transposed((4, 2, 3), stride=2, padding=1, groups=2),
                lambda x, w: F.conv_transpose1d(x, w, None, 2, 1, 0, 2),
                (4, 9),
            )
        ],
        1,
    ),
    "transposed, cropped, three dimensions": (
        [
            (
                transposed((2, 2, 1, 2, 2), padding=(0, 1, 1)),
                lambda x, w: F.conv_transpose3d(x, w, None, 1, (0, 1, 1)),
                (2, 2, 5, 5),
            )
        ],
        1,
    ),
    "identity": ([SHORTCUT], 1),
    "two identities": ([SHORTCUT, SHORTCUT], 1),
    "added": ([CONV, PROJECTION], 1),
    "added to an identity": ([CONV, SHORTCUT], 1),
    "dense, depthwise and identity": ([SHORTCUT, CONV, DEPTHWISE], 1),
    "groups of two kinds": ([GROUPED, DEPTHWISE], 1),
}


def case(kind, seed=0, noise=0.3, images=IMAGES):
    """Design, functions, inputs and an error that the terms can explain but for noise."""
    terms, dim = KINDS[kind]
    generator = torch.Generator().manual_seed(seed)
    design = Design(tuple(geometry for geometry, _, _ in terms), dim)
    # Means over time of spikes, most of them zeros.
    inputs = [torch.randn(images, *shape, generator=generator).double().relu() for _, _, shape in terms]
    error = 0.0
    for (geometry, function, _), x in zip(terms, inputs, strict=True):
        weight = torch.randn(weight_shape(geometry), generator=generator).double()
        error = error + 0.2 * function(x, weight)
    error = error + noise * torch.randn(error.shape, generator=generator).double() + 0.1
    return design, [function for _, function, _ in terms], inputs, error


def weight_shape(term):
    return (term.channels,) if isinstance(term, Identity) else term.weight_shape


def naive(design, functions, inputs, error, penalty, chosen=slice(None)):
    """Predictions of the mean error at all rows, (C, B, rows), fitted to the chosen images by the twin."""
    shapes = [weight_shape(term) for term in design.terms]
    of_terms = [
        reference.weight_columns(function, x, shape, design.channel_dim)
        for function, x, shape in zip(functions, inputs, shapes, strict=True)
    ]
    ends = torch.tensor([0, *(one.shape[2] for one in of_terms)]).cumsum(0).tolist()
    numbers = [list(range(begin, end)) for begin, end in pairwise(ends)]
    fewest = min(term.groups for term in design.terms)
    shared = [n for term, own in zip(design.terms, numbers, strict=True) if term.groups == fewest for n in own]
    scales = [own for term, own in zip(design.terms, numbers, strict=True) if term.groups != fewest] + [shared]
    lacking = error.movedim(design.channel_dim, 0)
    predicted = []
    for channel, columns in enumerate(torch.cat(of_terms, 2)):
        columns = columns.unflatten(0, (len(error), -1))
        own = lacking[channel].reshape(len(error), -1)
        weights, constant = reference.ridge(columns[chosen].flatten(0, 1), own[chosen].flatten(), scales, penalty)
        predicted.append(columns @ weights + constant)
    return torch.stack(predicted)


def predicted(design, fit, inputs):
    found = correction(design, fit, inputs).movedim(design.channel_dim, 0)
    return (
        found.flatten(2) + fit.constant[0].view(-1, 1, 1)
        if found.ndim > 2
        else found.unsqueeze(2) + fit.constant[0].view(-1, 1, 1)
    )


def all_sums(design, inputs, error, **options):
    return ridge_sums(design, inputs, error, rows=10**9, **options)


def squares(values):
    return float(values.square().sum())


@pytest.mark.parametrize("kind", KINDS)
def test_the_fit_is_that_of_the_naive_solution(kind):
    design, functions, inputs, error = case(kind)
    fit = solve_ridge(design, all_sums(design, inputs, error), penalties=(0.1,))
    assert fit.penalty == 0.1
    expected = naive(design, functions, inputs, error, 0.1)
    torch.testing.assert_close(predicted(design, fit, inputs), expected, rtol=1e-8, atol=1e-8)
    left = error.movedim(design.channel_dim, 0).reshape(expected.shape) - expected
    torch.testing.assert_close(fit.after, left.square().sum((1, 2)), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_changes_have_the_shape_of_the_weights_and_run_as_the_layer_does(kind):
    design, functions, inputs, error = case(kind)
    fit = solve_ridge(design, all_sums(design, inputs, error))
    for term, function, x, change in zip(design.terms, functions, inputs, fit.changes, strict=True):
        assert change.shape == weight_shape(term)
        torch.testing.assert_close(term.apply(x, change, design.channel_dim), function(x, change))


@pytest.mark.parametrize("kind", ["linear on tokens", "added to an identity", "groups with an identity"])
@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0])
def test_the_penalty_is_the_best_for_the_images_held_out(kind, noise):
    design, functions, inputs, error = case(kind, noise=noise, images=25)
    held_out = torch.arange(25) % 5 == 4
    lacking = error.movedim(design.channel_dim, 0).reshape(design.channels, 25, -1)
    constant = lacking[:, ~held_out].mean((1, 2), keepdim=True)
    errors = {float("inf"): squares((lacking - constant)[:, held_out])}
    for penalty in PENALTIES:
        expected = naive(design, functions, inputs, error, penalty, ~held_out)
        errors[penalty] = squares((lacking - expected)[:, held_out])
    fit = solve_ridge(design, all_sums(design, inputs, error))
    assert fit.penalty == min(errors, key=errors.get)
    assert fit.held_out == pytest.approx(errors[fit.penalty] / errors[float("inf")], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_when_nothing_lacks(kind):
    design, _, inputs, error = case(kind)
    fit = solve_ridge(design, all_sums(design, inputs, torch.zeros_like(error)))
    assert not any(change.any() for change in fit.changes)
    assert not fit.constant.any()
    assert fit.held_out == 1


@given(st.sampled_from(sorted(KINDS)), st.integers(0, 100), st.integers(1, 30), st.sampled_from([3, 5120]))
@settings(max_examples=20, deadline=None)
def test_the_error_never_grows(kind, seed, images, largest):
    design, _, inputs, error = case(kind, seed, images=images)
    design = replace(design, largest=largest)
    error = torch.randn(error.shape, generator=torch.Generator().manual_seed(seed)).double()  # nothing explains it
    fit = solve_ridge(design, all_sums(design, inputs, error))
    lacking = error.movedim(design.channel_dim, 0).reshape(design.channels, images, -1)
    left = (lacking - predicted(design, fit, inputs)).square().sum((1, 2))
    before = (lacking - lacking.mean((1, 2), keepdim=True)).square().sum((1, 2))
    torch.testing.assert_close(fit.before, before)
    assert (left <= before * (1 + 1e-9) + 1e-12).all()
    assert (left <= fit.after * (1 + 1e-9) + 1e-12).all()


def test_columns_are_fitted_in_parts_where_there_are_too_many():
    design, _, inputs, error = case("convolution", noise=0.0)
    together = solve_ridge(design, all_sums(design, inputs, error))
    parts = replace(design, largest=9)
    assert parts.parts == (5, 4)  # 18 columns: parts of 81 // 18 = 4
    sums = all_sums(parts, inputs, error)
    assert sums.training.shared_shared.numel() <= 9**2
    fit = solve_ridge(parts, sums)
    left = squares(error.movedim(1, 0).flatten(2) - predicted(parts, fit, inputs))
    assert together.after.sum() < left < 0.95 * fit.before.sum()


@given(st.sampled_from(sorted(KINDS)), st.lists(st.integers(0, 12), max_size=3), st.sampled_from([30, 100, 10**6]))
@settings(max_examples=20, deadline=None)
def test_sums_of_parts_are_those_of_the_whole(kind, cuts, rows):
    design, _, inputs, error = case(kind)
    whole = ridge_sums(design, inputs, error, rows=rows)
    edges = sorted({0, *cuts, IMAGES})
    parts = [
        ridge_sums(design, [x[a:b] for x in inputs], error[a:b], first=a, images=IMAGES, rows=rows)
        for a, b in pairwise(edges)
    ]
    found = sum(parts[1:], parts[0])
    for one, two in ((whole.training, found.training), (whole.held_out, found.held_out)):
        for expected, added in zip(one.tensors(), two.tensors(), strict=True):
            torch.testing.assert_close(added, expected, rtol=1e-12, atol=1e-11)


def test_parts_give_the_weights_of_the_whole():
    design, _, inputs, error = case("added to an identity", images=40)
    whole = solve_ridge(design, ridge_sums(design, inputs, error, rows=400))
    parts = [
        ridge_sums(design, [x[a:b] for x in inputs], error[a:b], first=a, images=40, rows=400)
        for a, b in ((0, 7), (7, 40))
    ]
    fit = solve_ridge(design, parts[1] + parts[0])
    assert fit.penalty == whole.penalty
    for one, two in zip(fit.changes, whole.changes, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def test_sums_can_be_reduced_over_processes():
    design, _, inputs, error = case("added to an identity")
    sums = all_sums(design, inputs, error)
    twice = sums.mapped(lambda tensor: 2 * tensor)
    for one, two in zip(twice.training.tensors(), (sums + sums).training.tensors(), strict=True):
        assert torch.equal(one, two)


def test_a_fit_is_the_same_each_time():
    design, _, inputs, error = case("dense, depthwise and identity")
    fits = [solve_ridge(design, ridge_sums(design, inputs, error, rows=100)) for _ in range(2)]
    for one, two in zip(*(fit.changes for fit in fits), strict=True):
        assert torch.equal(one, two)


def test_tokens_that_are_rows_of_the_batch_are_those_of_whole_images():
    """Rows of 12 images, 5 of each, are held out an image at a time, and a part of them is sampled, as of positions."""
    torch.manual_seed(0)
    design = Design((Affine.linear((3, 4)),), channel_dim=1)
    x, error = torch.randn(60, 4).double(), torch.randn(60, 3).double()
    sums = ridge_sums(design, [x], error, images=12, each=5)
    held_out = torch.arange(60) // 5 % 5 == 4
    torch.testing.assert_close(sums.held_out.shared[0, 0, 0], x[held_out].sum(0))
    torch.testing.assert_close(sums.training.shared_error[0, 0], x[~held_out].T @ error[~held_out])
    parts = [ridge_sums(design, [x[a:b]], error[a:b], first=a // 5, images=12, each=5) for a, b in ((0, 20), (20, 60))]
    torch.testing.assert_close((parts[0] + parts[1]).held_out.shared, sums.held_out.shared)
    few = ridge_sums(design, [x], error, images=12, each=5, rows=20)
    # A third, but for what the shift from image to image adds.
    assert (few.training.rows + few.held_out.rows).item() == 24
    numbers = torch.arange(60)[sampled_rows(torch.arange(60), 5, 12, 20)]
    assert numbers.div(5, rounding_mode="floor").unique().tolist() == list(range(12))


@given(st.integers(1, 3000), st.integers(1, 50), st.integers(1, 5000))
def test_positions_are_spread_evenly(count, images, rows):
    positions = sampled_positions(count, torch.arange(images), images, rows)
    assert positions.shape == (images, min(count, max(1, rows // images)))
    assert positions.min() >= 0
    assert positions.max() < count
    for chosen in positions:
        ordered = chosen.sort().values
        gaps = torch.cat([ordered.diff(), ordered[:1] + count - ordered[-1:]])
        assert gaps.min() >= count // positions.shape[1]
        assert gaps.max() <= -(-count // positions.shape[1])


def test_all_positions_are_looked_at_by_some_images():
    positions = sampled_positions(64, torch.arange(100), 100, 800)
    assert len(positions.unique()) == 64


@pytest.mark.parametrize("dead", [0.0, 0.7])
def test_constant_channels_change_no_weights(dead):
    design, _, inputs, error = case("added to an identity", noise=0.0)
    lively = solve_ridge(design, all_sums(design, [x.clone() for x in inputs], error))
    assert lively.changes[1][2] != 0
    conv_input, shortcut = inputs
    conv_input[:, 1] = 0  # a border of zeros around another constant would not be constant
    shortcut[:, 2] = dead
    fit = solve_ridge(design, all_sums(design, [conv_input, shortcut.float()], error))
    assert not fit.changes[0][:, 1].any()
    assert fit.changes[1][2] == 0
    assert fit.changes[1][1] != 0
    assert all(change.isfinite().all() for change in fit.changes)


@pytest.mark.parametrize("kind", KINDS)
def test_constant_inputs_change_no_weights(kind):
    design, _, inputs, error = case(kind)
    # Means over time of a constant current are constant only up to rounding.
    inputs = [torch.full_like(x, 0.3) + 1e-8 * torch.rand(x.shape, dtype=x.dtype) for x in inputs]
    if any(isinstance(term, Affine) and any(map(any, term.padding)) for term in design.terms):
        inputs = [torch.zeros_like(x) for x in inputs]
    fit = solve_ridge(design, all_sums(design, inputs, error))
    assert not any(change.any() for change in fit.changes)
    torch.testing.assert_close(fit.constant[0], error.movedim(design.channel_dim, 0).flatten(1).mean(1))


@pytest.mark.parametrize("images", [1, 4, 5])
def test_too_few_images_change_nothing_wild(images):
    design, _, inputs, error = case("linear", images=images)
    fit = solve_ridge(design, all_sums(design, inputs, error))
    assert all(change.isfinite().all() for change in fit.changes)
    if images < 5:  # none is held out, so nothing tells which penalty is right
        assert not fit.changes[0].any()
        assert fit.penalty == float("inf")


def test_fewer_rows_than_unknowns_are_fitted():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 300, generator=generator).double()
    error = x @ torch.randn(300, 2, generator=generator).double() + 1
    design = Design((Affine.linear((2, 300)),))
    fit = solve_ridge(design, ridge_sums(design, [x], error))
    assert fit.held_out < 1
    assert squares(error - correction(design, fit, [x]) - fit.constant) < 0.1 * squares(error)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["inputs", "error"])
def test_infinite_values_are_refused(value, where):
    design, _, inputs, error = case("added to an identity")
    (error if where == "error" else inputs[0])[3] = value
    with pytest.raises(ValueError, match="expected finite inputs and currents to fit weights to"):
        solve_ridge(design, all_sums(design, inputs, error))


def test_terms_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match=r"one number of output channels, got \[3, 4\]"):
        Design((Affine.linear((3, 6)), Identity(4)))


def test_a_joint_fit_is_that_of_all_running_means_with_a_constant_of_their_own():
    design, functions, inputs, error = case("added to an identity")
    generator = torch.Generator().manual_seed(1)
    streams = [(x + torch.randn(4, *x.shape, generator=generator).double()).relu() for x in inputs]
    currents = torch.randn(4, *error.shape, generator=generator).double() + 0.3 * streams[1]
    steps, weights = (1, 2, 4), (1.0, 2.0, 5.0)
    sums = joint_sums(design, streams, currents, error, steps, weights, rows=10**9)
    fit = solve_ridge(design, sums, penalties=(0.1,))
    assert fit.penalty == 0.1
    # The twin: rows of all t, with square roots of their weights, about their means.
    roots = torch.tensor(weights).double().sqrt()
    columns = [
        torch.cat(
            [
                reference.weight_columns(function, stream[:t].mean(0), weight_shape(term), 1)
                for function, stream, term in zip(functions, streams, design.terms, strict=True)
            ],
            2,
        )
        for t in steps
    ]
    for channel in range(design.channels):
        rows, lacking = [], []
        for root, t, several in zip(roots, steps, columns, strict=True):
            own = (error - currents[:t].mean(0))[:, channel].flatten()
            rows.append(root * (several[channel] - several[channel].mean(0)))
            lacking.append(root * (own - own.mean()))
        expected, constant = reference.ridge(torch.cat(rows), torch.cat(lacking), [list(range(18)), [18]], 0.1)
        assert constant == pytest.approx(0, abs=1e-9)
        found = torch.cat([fit.changes[0][channel].flatten(), fit.changes[1][channel].view(1)])
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
        for number, (t, several) in enumerate(zip(steps, columns, strict=True)):
            left = (error - currents[:t].mean(0))[:, channel].flatten() - several[channel] @ expected
            assert fit.constant[number, channel].item() == pytest.approx(left.mean().item())


def test_a_joint_fit_to_one_step_is_the_plain_fit():
    design, _, inputs, error = case("convolution")
    streams = torch.stack([inputs[0], 3 * inputs[0]])
    joint = joint_sums(design, [streams], torch.zeros(2, *error.shape).double(), error, [2], [1.0])
    plain = ridge_sums(design, [2 * inputs[0]], error)
    for one, two in zip(joint.training.tensors(), plain.training.tensors(), strict=True):
        torch.testing.assert_close(one, two)


def test_late_steps_count_more_in_a_joint_fit():
    design, _, inputs, error = case("convolution")
    given = [inputs[0].expand(4, *inputs[0].shape)], error.expand(4, *error.shape), 2 * error, [1, 2, 4]
    for one, two in zip(
        joint_sums(design, *given).training.tensors(),
        joint_sums(design, *given, [1.0, 4.0, 16.0]).training.tensors(),
        strict=True,
    ):
        assert torch.equal(one, two)


@pytest.mark.parametrize("steps", [[2, 1], [1, 1], [0, 2], [1, 5], []])
def test_steps_out_of_order_are_refused(steps):
    design, _, inputs, error = case("convolution")
    with pytest.raises(ValueError, match=r"expected ascending steps in 1 … 4"):
        joint_sums(design, [inputs[0].expand(4, *inputs[0].shape)], error.expand(4, *error.shape), error, steps)


def test_constants_of_steps_have_the_running_means_of_the_fit():
    design, _, inputs, error = case("convolution")
    fit = solve_ridge(design, ridge_sums(design, inputs, error))
    fit = replace(fit, constant=torch.tensor([[1.0, -1.0], [3.0, 0.0], [2.0, 4.0]]).double())
    steps = constant_per_step(fit, [1, 2, 4], num_steps=6)
    means = steps.cumsum(0) / torch.arange(1, 7).unsqueeze(1)
    torch.testing.assert_close(means[[0, 1, 3]], fit.constant)
    assert torch.equal(steps[2], steps[3])
    assert torch.equal(steps[3], steps[5])


def test_expansion_gives_back_mean_and_range():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(20, 3, 4, 4, generator=generator) * torch.tensor([0.4, 1.2, 50.0]).view(-1, 1, 1) + 5
    current = 0.5 * torch.randn(20, 3, 4, 4, generator=generator) - 1
    scale, shift = expansion(Moments.of(target), Moments.of(current[:7]) + Moments.of(current[7:]))
    torch.testing.assert_close(
        scale[:2], (target.std((0, 2, 3)) / current.std((0, 2, 3)))[:2].double(), rtol=1e-5, atol=0
    )
    assert scale[2] == 4
    expanded = current * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
    torch.testing.assert_close(expanded.mean((0, 2, 3)), target.mean((0, 2, 3)).double(), rtol=1e-5, atol=1e-5)


def test_constant_channels_are_not_expanded():
    varying = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    constant = torch.tensor([0.1, 0.0]).expand(10, 2)
    for target, current in ((varying, constant), (constant, varying)):
        scale, shift = expansion(Moments.of(target), Moments.of(current))
        assert torch.equal(scale, torch.ones(2).double())
        torch.testing.assert_close(shift, (target.double().mean(0) - current.double().mean(0)))


def test_memory_of_sums_is_bounded():
    design = Design((Affine.linear((10, 25_088)),))
    parts, size = design.parts
    assert parts * size >= 25_088
    assert parts * size**2 <= design.largest**2
    resnet = Design((conv((512, 512, 3, 3), padding=1), conv((512, 256, 1, 1), stride=2)))
    assert resnet.parts == (1, 4864)
    assert RidgeSums.zeros(Design((DEPTHWISE[0],)), torch.device("cpu")).shared_shared.shape == (4, 1, 9, 9)
