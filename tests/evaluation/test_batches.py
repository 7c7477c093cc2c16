"""Batches of any form, and images that are not finite: the same for every measure of a spiking network."""

import math

import pytest
import torch
from torch import nn
from torchmetrics import MeanSquaredError
from torchmetrics.classification import MulticlassAccuracy

from ftbc_pl import choose_exit_, convert, diagnose, evaluate, evaluate_exit, measure_energy
from ftbc_pl.evaluation import evaluate_outputs
from ftbc_pl.evaluation.module import SpikingClassifier
from tests.networks import images, small_cnn

LABELS = torch.arange(16) % 10
FORMS = {
    "three": lambda x, y: (x, y, ["a.png"] * len(x)),
    "dict": lambda x, y: {"image": x, "label": y},
    "pixel_values": lambda x, y: {"labels": y, "pixel_values": x},
    "one-hot": lambda x, y: (x, nn.functional.one_hot(y, 10)),
    "column": lambda x, y: [x, y.unsqueeze(1)],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_batches_of_any_form_do_for_every_measure(form):
    x = images(64)
    labels = small_cnn()(x).argmax(1)
    snn = convert(small_cnn(), 8, batches=[x])
    batch = form(x, labels)
    choose_exit_(snn, [batch], loss=0.1, progress=False)
    found, expected = (evaluate_exit(snn, [b], progress=False) for b in (batch, (x, labels)))
    assert found.accuracy == expected.accuracy
    assert torch.equal(found.accuracy_fixed, evaluate(snn, [batch], progress=False))
    assert torch.equal(evaluate_outputs(snn, [batch], progress=False), evaluate_outputs(snn, [x], progress=False))
    assert measure_energy(snn, [batch], progress=False).sops.shape == (8,)
    assert diagnose(snn, [batch], progress=False).error.shape == (2, 8)


@pytest.mark.parametrize("form", [FORMS["three"], FORMS["dict"]], ids=["three", "dict"])
def test_batches_of_any_form_do_for_every_metric(form):
    x = images()
    snn = convert(small_cnn(), 4, batches=[x])
    targets = small_cnn()(x).detach()
    exact = evaluate(snn, [(x, targets)], metric=MeanSquaredError(), progress=False)
    assert torch.equal(evaluate(snn, [form(x, targets)], metric=MeanSquaredError(), progress=False), exact)


def test_images_that_are_not_finite_are_named_by_every_measure():
    broken = images()
    broken[5, 0, 0, 0] = math.nan
    snn = convert(small_cnn(), 2, batches=[images()])
    batch = (broken, LABELS)
    for measure in (
        lambda: choose_exit_(snn, [batch], progress=False),
        lambda: evaluate_exit(snn, [batch], progress=False),
        lambda: evaluate_outputs(snn, [batch], progress=False),
        lambda: evaluate(snn, [batch], metric=MulticlassAccuracy(10), progress=False),
        lambda: measure_energy(snn, [batch], progress=False),
        lambda: diagnose(snn, [batch], progress=False),
        lambda: SpikingClassifier(snn).predict_step(batch, 0),
    ):
        with pytest.raises(ValueError, match=r"in 1 of 16 images of a batch \(the first is number 5\)"):
            measure()
