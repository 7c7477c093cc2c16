"""What the readout gives by itself, measured beside the other accuracies."""

import pytest
import torch
from torch import nn

from ftbc_pl.calibration import calibrate_, uncalibrated_readout
from ftbc_pl.conversion import convert
from ftbc_pl.evaluation import Comparison, evaluate
from ftbc_pl.functional.readout import error_products, least_squares_readout, mean_readout
from ftbc_pl.io import load_snn, save_snn
from tests.digits import classifier, digits


@pytest.fixture(scope="module")
def snn():
    images, _ = digits()
    network = convert(classifier(4), 4, batches=[images[:80]])
    calibrate_(network, [images[:80]], progress=False)
    return network


def count_forwards(network):
    calls = []
    network.register_forward_hook(lambda *_: calls.append(None))
    return calls


def test_it_is_the_least_squares_readout_of_the_network_without_bias(snn):
    images, _ = digits()
    batches = [images[:80], images[80:140]]
    with snn.uncalibrated():
        products = sum(error_products(snn(batch), snn.network(batch)) for batch in batches)
    found = uncalibrated_readout(snn, [(batch, None) for batch in batches], 2)
    torch.testing.assert_close(found.double(), least_squares_readout(products), rtol=0, atol=1e-6)


def test_it_leaves_the_network_as_it_is(snn):
    before = {name: value.clone() for name, value in snn.state_dict().items()}
    uncalibrated_readout(snn, [digits()[0][:40]])
    assert all(torch.equal(value, before[name]) for name, value in snn.state_dict().items())


def test_a_network_of_several_outputs_has_none():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = classifier()

        def forward(self, images):
            return self.body(images), self.body(images) * 2

    images, _ = digits()
    assert uncalibrated_readout(convert(Two(), 2, batches=[images[:40]]), [images[:40]]) is None


def test_its_accuracy_costs_no_further_forward_and_equals_that_of_such_a_network(snn):
    images, labels = digits()
    held_out = images[800:1200], labels[800:1200]
    weights = uncalibrated_readout(snn, [images[:80]])
    plain, both = Comparison(4), Comparison(4)
    forwards = []
    for comparison, own in ((plain, None), (both, weights)):
        snn.uncalibrated_readout = own
        calls = count_forwards(snn.network)
        comparison.update(snn, *held_out)
        forwards.append(len(calls))
    assert forwards[0] == forwards[1] > 0
    found = both.compute()
    assert found.uncalibrated == plain.compute().uncalibrated
    assert plain.compute().readout_only is None
    bare = convert(classifier(4), 4, batches=[images[:80]])
    bare.readout_weights.copy_(weights)
    assert found.readout_only == evaluate(bare, [held_out], progress=False).tolist()
    bare.readout_weights.copy_(mean_readout(4))
    assert found.uncalibrated == evaluate(bare, [held_out], progress=False).tolist()
    assert found.readout_only != found.uncalibrated


def test_counting_starts_anew(snn):
    images, labels = digits()
    comparison = Comparison(4)
    snn.uncalibrated_readout = uncalibrated_readout(snn, [images[:80]])
    comparison.update(snn, images[:50], 9 - labels[:50])
    comparison.reset()
    comparison.update(snn, images[800:900], labels[800:900])
    assert comparison.compute().readout_only[-1] > 0.5


def test_it_is_saved_with_the_network(snn, tmp_path):
    snn.uncalibrated_readout = uncalibrated_readout(snn, [digits()[0][:80]])
    save_snn(snn, tmp_path / "with")
    assert torch.equal(load_snn(tmp_path / "with", ann=classifier(4)).uncalibrated_readout, snn.uncalibrated_readout)
    snn.uncalibrated_readout = None
    save_snn(snn, tmp_path / "without")
    assert load_snn(tmp_path / "without", ann=classifier(4)).uncalibrated_readout is None
