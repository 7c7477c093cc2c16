"""Firing rates, in 0..1 whatever the rows of the batch stand for."""

import pytest
from torch import nn

from ftbc_pl import calibrate_, convert, measure_energy, measure_firing_rates
from tests.networks import images
from tests.own_networks import conv, head, network, tokens

STEPS = 3


def merged(x, conv, body, head):
    """Tokens that are rows of the batch."""
    batch = len(x)
    x = tokens(conv(x).relu()).reshape(-1, 4)
    return head(body(x).relu().reshape(batch, -1, 6).mean(1))


@pytest.mark.parametrize("schedule", ["stream", "accumulate"])
def test_firing_rates_are_those_of_the_calibration(schedule):
    ann = network(merged, conv=conv(), body=lambda: nn.Linear(4, 6), head=head(6))
    batch = images(8, 4)
    snn = convert(ann, STEPS, batches=[batch], schedule=schedule)
    report = calibrate_(snn, [batch], progress=False)
    assert snn.report.neurons == 16 * 4 + 16 * 6
    assert measure_energy(snn, [batch], progress=False).neurons.tolist() == [64, 96]
    for site, rates in zip(report.sites, measure_firing_rates(snn, [batch], progress=False).values(), strict=True):
        assert len(rates) == len(snn.prediction_steps)
        assert rates.mean().item() == pytest.approx(site.firing_rate)
