"""Batches as loaders hand them out, labels and outputs of every shape: the right accuracy, or an error."""

import math
from collections import namedtuple

import pytest
import torch
from torch import nn

from ftbc_pl import calibrate_, convert, evaluate
from ftbc_pl.conversion.batch import images_and_labels, to_images
from ftbc_pl.evaluation import Comparison, TimestepAccuracy
from ftbc_pl.evaluation.module import SpikingClassifier
from tests.networks import images, small_cnn

LABELS = torch.arange(16) % 10
Sample = namedtuple("Sample", "label image")
BATCHES = {
    "a pair": lambda x, y: (x, y),
    "a list": lambda x, y: [x, y],
    "file names": lambda x, y: (x, y, [str(i) for i in range(len(x))]),
    "a list of numbers": lambda x, y: (x, y.tolist()),
    "image, label": lambda x, y: {"image": x, "label": y, "path": ["a"] * len(x)},
    "pixel_values, labels": lambda x, y: {"labels": y, "pixel_values": x},
    "other capitals": lambda x, y: {"Image": x, "Target": y},
    "a dict in a list": lambda x, y: [{"data": x, "label": y}],
    "a dict of labels": lambda x, y: (x, {"target": y}),
    "names that come in another order": lambda x, y: Sample(y, x),
}


@pytest.mark.parametrize("form", BATCHES.values(), ids=BATCHES)
def test_a_batch_in_any_form_gives_the_same_accuracy(form):
    x = images()
    batch = form(x, LABELS)
    found, labels = images_and_labels(batch)
    assert torch.equal(found, x)
    assert torch.equal(labels, LABELS)
    snn = convert(small_cnn(), 3, batches=[batch])
    calibrate_(snn, [batch], progress=False)
    by_hand = (snn.readout(snn(x)).argmax(-1) == LABELS).double().mean(1)
    assert torch.equal(evaluate(snn, [batch], progress=False), by_hand)
    module = SpikingClassifier(snn)
    module.validation_step(batch, 0)
    assert module.comparison.compute().calibrated == by_hand.tolist()
    assert torch.equal(module.predict_step(batch, 0)["predicted"], snn.readout(snn(x)).argmax(-1))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"picture": images(), "label": LABELS}, r"under one of the keys image, .*, got picture, label"),
        ({"image": images(), "kind": LABELS}, r"Expected labels under one of the keys label, .*, got image, kind"),
        (("a.png", LABELS), r"Expected batches of images, .* got a tuple of \(str, Tensor\)"),
        ((images(), ["cat"] * 16), "Expected labels as a tensor, got a list"),
        (images(), "got images alone"),
        ((images(),), "got images alone"),
        (None, "Expected batches of images, .* got NoneType"),
        ((images().byte(), LABELS), r"floating-point type, got uint8: scale and normalise them"),
        ((images().to(torch.complex64), LABELS), "floating-point type, got complex64: use real numbers"),
    ],
)
def test_a_batch_of_another_form_is_an_error_that_says_which_are_known(batch, message):
    with pytest.raises(TypeError, match=message):
        images_and_labels(batch)
    snn = convert(small_cnn(), 2, batches=[images()])
    with pytest.raises(TypeError, match=message):
        evaluate(snn, [batch], progress=False)


def test_conversion_and_calibration_say_the_same_of_integers():
    with pytest.raises(TypeError, match="got uint8"):
        convert(small_cnn(), 2, batches=[images().byte()])
    with pytest.raises(TypeError, match="got uint8"):
        convert(small_cnn(), 2, example=images().byte())
    snn = convert(small_cnn(), 2, batches=[images()])
    with pytest.raises(TypeError, match="got uint8"):
        calibrate_(snn, [images().byte()], progress=False)


def test_images_alone_are_a_batch():
    assert torch.equal(to_images(images()), images())


def accuracy(logits, labels):
    metric = TimestepAccuracy(len(logits))
    metric.update(logits, labels)
    return metric.compute().reshape(-1).tolist()


# Two steps, four images, the logit of class 1: class 1 where it is above 0.
ONE_LOGIT = torch.tensor([[0.5, -0.5, 2.0, 0.0], [1.0, 1.0, -1.0, -1.0]])
HARD = torch.tensor([1, 0, 1, 1])


@pytest.mark.parametrize("logits", [ONE_LOGIT, ONE_LOGIT.unsqueeze(-1)], ids=["(T, B)", "(T, B, 1)"])
@pytest.mark.parametrize(
    "labels",
    [HARD, HARD.unsqueeze(1), HARD.float(), HARD.float().unsqueeze(1), HARD.bool(), torch.tensor([0.9, 0.1, 0.5, 0.6])],
)
def test_one_logit_decides_between_two_classes_by_its_sign(logits, labels):
    assert accuracy(logits, labels) == [0.75, 0.25]


def binary():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 1)).eval()


@pytest.mark.parametrize("squeezed", [False, True])
def test_a_network_of_one_output(squeezed):
    network = nn.Sequential(binary(), nn.Flatten(0)) if squeezed else binary()
    x = images(32)
    labels = (network(x) > 0).float().detach()
    assert 0 < labels.mean() < 1
    snn = convert(network, 64, batches=[x], threshold="max")
    mean = snn(x).mean(0).reshape(-1)
    by_hand = ((mean > 0) == labels.reshape(-1).bool()).double().mean().item()
    assert by_hand > 0.8
    assert evaluate(snn, [(x, labels)], progress=False)[-1].item() == by_hand
    comparison = Comparison(64, calibrated=False)
    comparison.update(snn, x, labels)
    assert (comparison.compute().ann, comparison.compute().images) == (1.0, 32)
    found = SpikingClassifier(snn).predict_step(x, 0)
    assert torch.equal(found["predicted"][-1], (snn.readout(snn(x))[-1].reshape(-1) > 0).long())
    sure = snn.readout(snn(x))[-1].reshape(-1).abs().sigmoid()
    torch.testing.assert_close(found["probability"], sure)


CLASSES = torch.tensor([[[3.0, 1, 0], [0, 2, 1]], [[0, 0, 9], [0, 2, 1]]])  # classes 0, 1 and 2, 1


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([0, 1]),
        torch.tensor([[0], [1]]),
        torch.tensor([0.0, 1.0]),
        torch.tensor([[1, 0, 0], [0, 1, 0]]),
        torch.tensor([[0.6, 0.2, 0.2], [0.1, 0.5, 0.4]]),
        torch.tensor([[True, False, False], [False, True, False]]),
    ],
)
def test_labels_of_several_classes(labels):
    assert accuracy(CLASSES, labels) == [1.0, 0.5]


def test_maps_are_judged_at_every_position():
    logits = torch.randn(3, 2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    masks = torch.randint(0, 4, (2, 5, 6), generator=torch.Generator().manual_seed(1))
    by_hand = [(step.argmax(1) == masks).double().mean().item() for step in logits]
    one_hot = nn.functional.one_hot(masks, 4).movedim(-1, 1)
    for labels in (masks, masks.unsqueeze(1), one_hot, one_hot.float()):
        assert accuracy(logits, labels) == by_hand
    inside = logits[:, :, :1]
    by_hand = [((step.squeeze(1) > 0) == (masks > 1)).double().mean().item() for step in inside]
    assert accuracy(inside, (masks > 1).float()) == by_hand


def test_a_network_of_maps_from_its_conversion_to_its_accuracy():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 1)).eval()
    x = images(6)
    masks = network(x).argmax(1)
    assert masks.unique().numel() > 1
    snn = convert(network, 32, batches=[x], threshold="max")
    calibrate_(snn, [x], progress=False)
    predicted = snn.readout(snn(x)).argmax(2)
    by_hand = (predicted == masks).double().flatten(1).mean(1)
    assert by_hand[-1] > 0.9
    assert torch.equal(evaluate(snn, [(x, masks)], progress=False), by_hand)
    comparison = Comparison(32)
    comparison.update(snn, x, masks)
    assert (comparison.compute().ann, comparison.compute().images) == (1.0, 6)
    found = SpikingClassifier(snn).predict_step(x, 0)
    assert torch.equal(found["predicted"], predicted)
    torch.testing.assert_close(found["probability"], snn.readout(snn(x))[-1].softmax(1).amax(1))
    with pytest.raises(ValueError, match=r"\(6, 12, 12\) .* \(6, 3, 12, 12\), got labels of shape \(6,\)"):
        evaluate(snn, [(x, masks[:, 0, 0])], progress=False)


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        ((4, 10), torch.zeros(3), r"Expected logits \(1, 3, classes\), got \(1, 4, 10\) for labels \(3,\)"),
        ((4, 10), torch.zeros(()), r"got \(1, 4, 10\) for labels \(\)"),
        ((4, 10), torch.zeros(4, 3), r"outputs of shape \(4, 10\), got labels of shape \(4, 3\)"),
        ((4, 10), torch.zeros(4, 1, 1), r"outputs of shape \(4, 10\), got labels of shape \(4, 1, 1\)"),
        ((4, 10), torch.zeros(4, 8, 8), r"outputs of shape \(4, 10\), got labels of shape \(4, 8, 8\)"),
        ((4, 10, 1, 1), torch.zeros(4), r"outputs of shape \(4, 10, 1, 1\), got labels of shape \(4,\)"),
        ((4, 1), torch.zeros(4, 2), r"outputs of shape \(4, 1\), got labels of shape \(4, 2\)"),
        ((4, 5, 8, 8), torch.zeros(4, 8, 9), r"\(4, 8, 8\) .* \(4, 5, 8, 8\), got labels of shape \(4, 8, 9\)"),
        ((4, 10), torch.tensor([0, 1, 2, 10]), r"Expected classes 0 to 9 .* that hold 10"),
        ((4, 10), torch.tensor([0, 1, 2, -1]), r"Expected classes 0 to 9 .* that hold -1"),
        ((4, 10), torch.tensor([0, 1, 2, 0.5]), r"Expected classes 0 to 9 .* that hold 0.5"),
        ((4, 10), torch.tensor([0, 1, 2, math.nan]), r"Expected classes 0 to 9 .* that hold nan"),
        ((2, 5, 1, 2), torch.tensor([[[0, 255]], [[0, 1]]]), r"Expected classes 0 to 4 .* that hold 255"),
        ((2, 3), torch.tensor([[1, 1, 0], [0, 0, 1]]), "one-hot or soft labels that add up to 1"),
        ((2, 3), torch.tensor([[2.0, -1.0, 0.0], [0, 0, 1]]), "one-hot or soft labels in 0..1"),
        ((3, 1), torch.tensor([-1, 1, 1]), r"Expected labels 0 and 1, .* that hold -1"),
        ((3, 1), torch.tensor([0, 1, 2]), r"Expected labels 0 and 1, .* that hold 2"),
    ],
)
def test_what_does_not_fit_is_an_error_that_states_both(outputs, labels, message):
    metric = TimestepAccuracy(1)
    with pytest.raises(ValueError, match=message):
        metric.update(torch.randn(1, *outputs), labels)
    assert metric.total == 0


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = small_cnn()

    def forward(self, x):
        return {"out": self.body(x), "again": self.body(x)}


def test_several_outputs_have_no_accuracy():
    snn = convert(Pair(), 2, batches=[images()])
    for measure in (evaluate, lambda snn, loader, progress: Comparison(2).update(snn, *loader[0])):
        with pytest.raises(ValueError, match=r"Accuracy needs one output .*, the network gives a dict"):
            measure(snn, [(images(), LABELS)], progress=False)


def test_images_that_are_not_finite_have_no_accuracy():
    # A neuron whose membrane is NaN never fires, so the logits of such an image look like any others.
    broken = images()
    broken[5, 0, 0, 0], broken[7, 1, 0, 0] = math.nan, math.inf
    snn = convert(small_cnn(), 2, batches=[images()])
    for measure in (evaluate, lambda snn, loader, progress: Comparison(2).update(snn, *loader[0])):
        with pytest.raises(ValueError, match=r"in 2 of 16 images of a batch \(the first is number 5\)"):
            measure(snn, [(broken, LABELS)], progress=False)


def test_one_probability_is_decided_by_no_sign():
    # Above 0 for every image, so that all would be of class 1.
    x, labels = images(), LABELS % 2
    for network in (nn.Sequential(binary(), nn.Sigmoid()), nn.Sequential(binary(), nn.Sigmoid(), nn.Flatten(0))):
        snn = convert(network, 2, batches=[x])
        for measure in (
            lambda snn: evaluate(snn, [(x, labels)], progress=False),
            lambda snn: Comparison(2).update(snn, x, labels),
            lambda snn: SpikingClassifier(snn).predict_step(x, 0),
        ):
            with pytest.raises(ValueError, match="is a probability, since its forward ends in a sigmoid"):
                measure(snn)
    several = nn.Sequential(small_cnn(), nn.Sigmoid())
    assert evaluate(convert(several, 2, batches=[x]), [(x, LABELS)], progress=False).shape == (2,)
