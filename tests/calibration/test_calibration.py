import pytest
import torch
from torch import nn

from ftbc_pl import calibrate_, convert, evaluate, prepare
from ftbc_pl.calibration.solvers.balanced import mean_weight_for
from ftbc_pl.evaluation import TimestepAccuracy
from ftbc_pl.functional.readout import error_products, least_squares_readout
from ftbc_pl.simulation.visitors import Simulation
from tests.networks import create, images, small_cnn


def double_snn(num_steps=8, network=None, activation="qcfs"):
    network = small_cnn() if network is None else network
    network = prepare(network, activation, levels=4, threshold=0.75)
    return convert(network, num_steps, batches=[images()]).double()


def biases(snn):
    return [site.temporal_bias.clone() for _, site in snn.neurons()]


def calibration_of(snn):
    return [*biases(snn), snn.readout_weights.clone()]


def test_zero_bias_changes_nothing():
    snn = double_snn()
    with snn.uncalibrated():
        without = snn(images().double())
    assert torch.equal(snn(images().double()), without)


def test_one_forward_a_batch_calibrates_all_sites():
    snn = double_snn(network=create("cifar_resnet20"))
    forwards = []
    snn.network.register_forward_hook(lambda *_: forwards.append(1))
    loader = [images(4, 32, seed=i).double() for i in range(3)]
    report = calibrate_(snn, loader, num_batches=2, progress=False)
    assert report.forward_passes == len(forwards) == 2
    assert report.images == 8
    assert len(report.sites) == 19
    assert all(bias.abs().max() > 0 for bias in biases(snn))
    snn.time_chunk = 3  # three chunks are one forward
    report = calibrate_(snn, loader, solver="heuristic", passes=2, num_batches=3, progress=False)
    assert report.forward_passes == 6
    assert len(forwards) == 2 + 3 * 6
    assert report.images == 12


class FiringFractions(Simulation):
    """Records the fraction of fired neurons and the ANN's target at each site and step."""

    def __init__(self, num_steps):
        super().__init__(num_steps, ann_rows=True)
        self.rows_of = {}

    def simulate(self, call, site, current, out):
        super().simulate(call, site, current, out)
        dims = [d for d in range(1, out.ndim) if d != site.channel_dim + 1]
        target = (out[0].mean([d - 1 for d in dims]) / site.threshold).clamp(0, 1)
        self.rows_of[call.name] = ((out[1:] > 0).double().mean(dims), target, out[0].numel() / len(site.threshold))


def test_exact_meets_every_target_of_its_calibration_batch():
    snn = double_snn()
    calibrate_(snn, [images().double()], solver="exact", progress=False)
    fractions = FiringFractions(8)
    snn.reset()
    with torch.no_grad():
        snn.visit(images().double(), fractions)
    assert len(fractions.rows_of) == 2
    for fired, target, samples in fractions.rows_of.values():
        assert ((fired - target).abs() <= 1.001 / samples).all()


@pytest.mark.parametrize("solver", ["balanced", "exact", "heuristic"])
@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_chunks_of_any_size_give_the_same_biases(solver, chunk):
    snn = double_snn()
    calibrate_(snn, [images().double()], solver=solver, progress=False)
    whole = biases(snn)
    snn.time_chunk = chunk
    calibrate_(snn, [images().double()], solver=solver, progress=False)
    for a, b in zip(biases(snn), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", ["balanced", "exact", "heuristic"])
def test_biases_of_four_steps_are_the_first_four_of_eight(solver):
    short, long = double_snn(4), double_snn(8)
    horizon = 4 if solver == "balanced" else None
    for snn in (short, long):
        snn.time_chunk = 1
        calibrate_(snn, [images().double()], solver=solver, horizon=horizon, progress=False)
    for a, b in zip(biases(short), biases(long), strict=True):
        assert torch.equal(a, b[:4])


@pytest.mark.parametrize("solver", ["balanced", "exact"])
def test_biases_of_several_batches_are_averaged(solver):
    loader = [images(seed=i).double() for i in (1, 2)]
    snn = double_snn()
    apart = []
    for batch in loader:
        calibrate_(snn, [batch], solver=solver, progress=False)
        apart.append(biases(snn))
    calibrate_(snn, loader, solver=solver, num_batches=2, progress=False)
    for both, first, second in zip(biases(snn), *apart, strict=True):
        torch.testing.assert_close(both, (first + second) / 2, rtol=0, atol=1e-15)


@pytest.mark.parametrize("solver", ["balanced", "exact", "heuristic"])
def test_a_layer_has_one_bias_a_step(solver):
    snn = double_snn()
    calibrate_(snn, [images().double()], solver=solver, granularity="layer", progress=False)
    for bias in biases(snn):
        assert (bias == bias[:, :1]).all()
        assert bias.abs().max() > 0


@pytest.mark.parametrize("solver", ["balanced", "exact", "heuristic"])
@pytest.mark.parametrize("threshold", ["mse", "max"])
def test_dead_and_saturated_channels_are_normal_and_counted(solver, threshold):
    network = small_cnn()
    network[0].weight.data[:2] = 0
    network[0].bias.data[:2] = torch.tensor([-5.0, 5.0])
    snn = convert(network, 6, batches=[images()], threshold=threshold)
    report = calibrate_(snn, [images()], solver=solver, progress=False)
    assert all(bias.isfinite().all() for bias in biases(snn))
    assert snn(images()).isfinite().all()
    assert report.sites[0].dead_channels >= 1
    assert report.sites[0].saturated_channels >= 1


@pytest.mark.parametrize("horizon", [None, 1, 2, 4])
def test_a_horizon_stands_for_a_mean_weight(horizon):
    snn = double_snn(8)
    calibrate_(snn, [images().double()], solver="balanced", horizon=horizon, progress=False)
    chosen = biases(snn)
    calibrate_(snn, [images().double()], solver="balanced", mean_weight=mean_weight_for(horizon or 8), progress=False)
    assert all(torch.equal(a, b) for a, b in zip(biases(snn), chosen, strict=True))


@pytest.mark.slow
def test_calibration_brings_the_spiking_network_closer_to_the_ann():
    snn = double_snn(4, create("cifar_resnet20"))
    batch = images(32, 32).double()
    exact = snn.network(batch)

    def error():
        return (snn(batch).mean(0) - exact).norm().item()

    uncalibrated = error()
    calibrate_(snn, [batch], progress=False)
    assert error() < 0.7 * uncalibrated


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["exact", "heuristic"])
def test_the_readout_comes_closest_to_the_ann(solver):
    snn = double_snn(6, create("cifar_resnet20"))
    batch = images(32, 32).double()
    report = calibrate_(snn, [batch], solver=solver, progress=False)
    weights, outputs, ann = snn.readout_weights, snn(batch), snn.network(batch)
    assert torch.equal(weights, weights.tril())
    torch.testing.assert_close(weights.sum(1), torch.ones(6).double())
    assert report.readout_weights == tuple(weights[-1].tolist())
    read = snn.readout(outputs)
    for t in range(6):
        torch.testing.assert_close(read[t], sum(weights[t, s] * outputs[s] for s in range(t + 1)))
    errors = (read - ann).square().sum([1, 2])
    means = torch.stack([outputs[: t + 1].mean(0) for t in range(6)])
    by_mean = (means - ann).square().sum([1, 2])
    assert errors[0] == pytest.approx(by_mean[0].item())
    assert (errors[1:] < by_mean[1:]).all()
    with snn.uncalibrated():
        torch.testing.assert_close(snn.readout(outputs), means)
    calibrate_(snn, [batch], solver=solver, readout="mean", progress=False)
    torch.testing.assert_close(snn.readout(outputs), means)


def errors_on(snn, batch):
    return error_products(snn(batch), snn.network(batch))


def test_the_readout_is_that_of_all_batches_and_for_the_heuristic_of_the_last_one():
    batches, snn = [images(8, seed=i).double() for i in range(2)], double_snn(4)
    total = torch.zeros(4, 4, dtype=torch.float64)
    for batch in batches:
        calibrate_(snn, [batch], progress=False)
        total += errors_on(snn, batch)
    calibrate_(snn, batches, num_batches=2, progress=False)
    torch.testing.assert_close(snn.readout_weights, least_squares_readout(total))
    calibrate_(snn, batches, solver="heuristic", num_batches=2, progress=False)
    torch.testing.assert_close(snn.readout_weights, least_squares_readout(errors_on(snn, batches[1])))


def test_several_outputs_share_a_readout_that_comes_closer_to_all_of_them():
    snn = convert(create("resnet18", features_only=True), 3, batches=[images(2, 32)]).double()
    batch = images(2, 32).double()
    calibrate_(snn, [batch], progress=False)
    ann, outputs = snn.network(batch), snn(batch)
    products = sum(error_products(o, a) / a.square().sum() for o, a in zip(outputs, ann, strict=True))
    torch.testing.assert_close(snn.readout_weights, least_squares_readout(products))
    read = snn.readout(outputs)
    weights = snn.readout_weights
    torch.testing.assert_close(read[1][2], sum(weights[2, s] * outputs[1][s] for s in range(3)))


def test_nan_names_the_site_and_leaves_the_calibration_alone():
    snn = double_snn()
    calibrate_(snn, [images().double()], progress=False)
    before = calibration_of(snn)
    bad = images().double()
    bad[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"Site 1 \(.*\) has NaN or infinite input"):
        calibrate_(snn, [bad], progress=False)
    assert all(torch.equal(a, b) for a, b in zip(calibration_of(snn), before, strict=True))


def test_an_interrupt_leaves_the_calibration_alone():
    snn = double_snn()
    calibrate_(snn, [images().double()], progress=False)
    before = calibration_of(snn)

    def interrupted():
        yield images(seed=5).double()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate_(snn, interrupted(), num_batches=2, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(calibration_of(snn), before, strict=True))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"solver": "best"}, "solver must be one of balanced, exact, heuristic.*, got 'best'"),
        ({"mean_weight": -1.0, "solver": "balanced"}, "mean_weight must be finite and 0 or more, got -1"),
        ({"mean_weight": float("inf"), "solver": "balanced"}, "got inf; solver 'exact' is the limit"),
        ({"mean_weight": 3.0}, "mean_weight is an option of solver 'balanced'; 'exact' has none"),
        ({"granularity": "pixel"}, "granularity must be"),
        ({"readout": "last"}, "readout must be 'least_squares' or 'mean', got 'last'"),
        ({"alpha": 0.0}, "alpha must lie in"),
        ({"alpha": 0.4}, "alpha is an option of solver 'heuristic'; 'exact' has none"),
        ({"passes": 2}, "solver 'exact' needs one pass"),
        ({"horizon": 0, "solver": "balanced"}, "horizon must be at least 1, got 0"),
        ({"horizon": 9, "solver": "balanced"}, "predictions, one of 1 to 8, got 9"),
        ({"horizon": 2}, "horizon is an option of solver 'balanced' and of weights 'ridge'; 'exact' has none"),
        ({"horizon": 2, "mean_weight": 3.0, "solver": "balanced"}, "give one of the two"),
        ({"num_batches": 0}, "num_batches must be at least 1"),
        ({"num_batches": 2}, "needs num_batches = 2 batches, the loader holds 1"),
    ],
)
def test_bad_options(kwargs, message):
    with pytest.raises(ValueError, match=message):
        calibrate_(double_snn(), [images().double()], **kwargs, progress=False)


def test_accuracy_at_every_step():
    # Predicted classes: step 1 → (1, 0), step 2 → (0, 0); labels (1, 0).
    logits = torch.tensor([[[0.0, 1.0], [2.0, 0.0]], [[3.0, 1.0], [2.0, 1.0]]])
    metric = TimestepAccuracy(2)
    metric.update(logits, torch.tensor([1, 0]))
    assert metric.compute().tolist() == [1.0, 0.5]
    with pytest.raises(ValueError, match=r"Expected logits \(2, 1, classes\)"):
        metric.update(logits, torch.tensor([1]))


@pytest.mark.parametrize("steps", [1, 3])
def test_evaluate_equals_counting_by_hand(steps):
    snn = double_snn(steps)
    loader = [(images(5, seed=i).double(), torch.arange(5) % 10) for i in range(3)]
    correct = torch.zeros(steps)
    for batch, labels in loader:
        outputs = snn(batch)
        for t in range(steps):
            correct[t] += (outputs[: t + 1].mean(0).argmax(1) == labels).sum()
    assert torch.equal(evaluate(snn, loader, progress=False), correct.double() / 15)


@pytest.mark.parametrize("weights", ["keep", "ridge"])
def test_an_empty_batch_is_named(weights):
    with pytest.raises(ValueError, match="Expected images in each batch to calibrate with, got an empty batch"):
        calibrate_(double_snn(), [images().double()[:0]], weights=weights, progress=False)


def test_a_horizon_beside_the_only_prediction_is_refused():
    snn = convert(small_cnn(), 4, batches=[images()], schedule="accumulate")
    with pytest.raises(ValueError, match=r"horizon must be a timestep of the predictions, 4, the only .*, got 1"):
        calibrate_(snn, [images()], weights="ridge", horizon=1, progress=False)
    with pytest.raises(TypeError, match="horizon must be a whole number, got True"):
        calibrate_(snn, [images()], weights="ridge", horizon=True, progress=False)


def test_evaluate_needs_data():
    with pytest.raises(ValueError, match="the loader is empty"):
        evaluate(double_snn(), [], progress=False)


def test_a_linear_only_network_can_not_spike():
    with pytest.raises(ValueError, match="nothing would spike"):
        convert(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), 2, example=images(2))


def test_evaluate_needs_a_classifier():
    snn = convert(create("resnet18", features_only=True), 2, batches=[images(2, 32)])
    with pytest.raises(ValueError, match=r"Accuracy needs one output .* the network gives a list"):
        evaluate(snn, [(images(2, 32), torch.zeros(2))], progress=False)
