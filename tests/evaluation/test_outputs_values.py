"""Networks whose outputs are values, trained within seconds: a regression, a U-Net, a classifier of one output."""

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics import ROC, Accuracy, MeanSquaredError, MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryJaccardIndex

from ftbc_pl import calibrate_, choose_exit_, convert, evaluate, evaluate_exit
from ftbc_pl.evaluation import evaluate_outputs
from tests.digits import body, digits, train_
from tests.networks import create, images, small_cnn

TRAIN, TEST = slice(0, 800), slice(800, 1300)
STEPS = 16


class UNet(nn.Module):
    """One level down and up again, with a concatenation across."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.down, self.middle = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up, self.out = nn.Conv2d(24, 8, 3, padding=1), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        across = F.relu(self.down(x))
        x = F.relu(self.middle(F.avg_pool2d(across, 2)))
        x = torch.cat([F.interpolate(x, scale_factor=2.0), across], 1)
        return self.out(F.relu(self.up(x)))


@cache
def trained(kind):
    """A trained network, its inputs and its targets."""
    batch, labels = digits()
    if kind == "regression":  # how much ink, and how far to the right
        ink = batch.mean((1, 2, 3))
        place = (batch * torch.linspace(-1, 1, 8)).mean((1, 2, 3)) / ink
        targets, network, loss = torch.stack([ink, place], 1) * 10, body(2), F.mse_loss
    elif kind == "segmentation":  # the strokes, of images with noise
        targets, network, loss = (batch > 0.5).float(), UNet(), F.binary_cross_entropy_with_logits
        batch = batch + 0.2 * torch.randn(batch.shape, generator=torch.Generator().manual_seed(0))
    else:  # is it 5 or more?
        targets, network, loss = (labels >= 5).float().unsqueeze(1), body(1), F.binary_cross_entropy_with_logits
    return train_(network, batch[TRAIN], targets[TRAIN], loss, epochs=10), batch, targets


def spiking(kind, **options):
    network, batch, targets = trained(kind)
    snn = convert(network, STEPS, batches=[batch[:200]], threshold="max")
    calibrate_(snn, [batch[:200]], progress=False, **options)
    return snn, [(batch[TEST], targets[TEST])]


METRICS = {"regression": MeanSquaredError, "segmentation": BinaryJaccardIndex, "binary": BinaryAccuracy}


@pytest.mark.parametrize("kind", METRICS)
def test_a_metric_of_ones_own_is_computed_at_every_step(kind):
    snn, loader = spiking(kind)
    (batch, targets), metric = loader[0], METRICS[kind]()
    found = evaluate(snn, [(batch[:200], targets[:200]), (batch[200:], targets[200:])], metric=metric, progress=False)
    predictions = snn.readout(snn(batch))
    expected = [METRICS[kind]()(prediction, targets) for prediction in predictions]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert metric.update_count == 0  # the one handed in is as it was
    ann = METRICS[kind]()(snn.network(batch), targets)
    if kind == "regression":
        assert ann < 0.1
        assert found[-1] < ann + 0.1 < found[0]
    else:
        assert ann > 0.8
        assert found[-1] > ann - 0.05


@pytest.mark.parametrize("kind", METRICS)
def test_the_readout_by_least_squares_brings_values_closer(kind):
    snn, loader = spiking(kind)
    by_least_squares = evaluate_outputs(snn, loader, progress=False)
    snn, loader = spiking(kind, readout="mean")
    by_mean = evaluate_outputs(snn, loader, progress=False)
    assert by_least_squares.shape == (STEPS,)
    assert by_least_squares[-1] < 0.2
    assert by_least_squares[3] < by_mean[3]


def test_the_distance_is_that_of_its_definition():
    snn, loader = spiking("regression")
    batch = loader[0][0]
    found = evaluate_outputs(snn, [batch[:300], batch[300:]], progress=False)
    ann, predictions = snn.network(batch), snn.readout(snn(batch))
    expected = torch.stack([(prediction - ann).norm() / ann.norm() for prediction in predictions])
    torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=0)


def test_several_outputs_have_a_distance_each():
    snn = convert(create("resnet18", features_only=True), 2, batches=[images(2, 32)])
    found = evaluate_outputs(snn, [images(2, 32)], progress=False)
    assert [tuple(errors.shape) for errors in found] == [(2,)] * len(snn.network(images(2, 32)))


def test_a_classifier_of_one_output_may_stop_early():
    snn, loader = spiking("binary")
    batch, targets = loader[0]
    choose_exit_(snn, [batch], loss=0.02, progress=False)
    result = evaluate_exit(snn, [(batch, targets.long())], progress=False)
    by_metric = evaluate(snn, loader, metric=BinaryAccuracy(), progress=False)
    torch.testing.assert_close(result.accuracy_fixed.float(), by_metric)
    assert result.mean_steps < STEPS


def test_accuracy_is_that_of_torchmetrics():
    snn = convert(small_cnn(), 3, batches=[images()])
    loader = [(images(10), torch.arange(10)), (images(6, seed=2), torch.arange(6))]
    own = Accuracy("multiclass", num_classes=10, average="micro")
    torch.testing.assert_close(
        evaluate(snn, loader, metric=own, progress=False).double(), evaluate(snn, loader, progress=False)
    )


def test_metrics_of_several_numbers_have_the_steps_in_front_of_each():
    snn = convert(small_cnn(), 3, batches=[images()])
    loader = [(images(8), torch.arange(8) % 10)]
    accuracy = Accuracy("multiclass", num_classes=10)
    expected = evaluate(snn, loader, metric=accuracy, progress=False)
    found = evaluate(snn, loader, metric=MetricCollection({"top": accuracy}), progress=False)
    assert list(found) == ["top"]
    assert torch.equal(found["top"], expected)
    rates, _, thresholds = evaluate(snn, loader, metric=ROC("multiclass", num_classes=10, thresholds=4), progress=False)
    assert rates.shape == (3, 10, 4)
    assert thresholds.shape == (3, 4)


def test_what_is_no_metric_is_said():
    snn = convert(small_cnn(), 1, batches=[images()])
    with pytest.raises(TypeError, match=r"expected a metric of TorchMetrics.*an object, not its class"):
        evaluate(snn, [], metric=Accuracy)


def test_an_empty_loader_is_an_error():
    snn = convert(small_cnn(), 2, batches=[images()])
    with pytest.raises(ValueError, match="loader is empty"):
        evaluate(snn, [], metric=MeanSquaredError(), progress=False)
    with pytest.raises(ValueError, match="loader is empty"):
        evaluate_outputs(snn, [], progress=False)
