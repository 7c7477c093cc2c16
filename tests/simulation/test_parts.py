"""Large inputs of rate-exact sites are taken in parts, with the bits of the whole."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ftbc_pl import calibrate_, convert, layers
from tests.networks import images

pytestmark = pytest.mark.filterwarnings("ignore:weights='ridge' fits")


class Pooled(nn.Module):
    """Maxima, alone and beside a constant with as many rows."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(64, 5)

    def forward(self, x):
        x = F.max_pool2d(self.conv(x).relu(), 2)
        return self.head(torch.maximum(x, torch.full_like(x, 0.1)).flatten(1))


class Attending(nn.Module):
    """Queries that see the image only, and a mask with as many rows as the keys."""

    def __init__(self):
        super().__init__()
        self.patch, self.query, self.key = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        query, key = self.query(x), self.key(x.relu())
        mask = torch.zeros(len(key), 16, 16)
        return self.head(F.scaled_dot_product_attention(query, key, key, attn_mask=mask).relu().mean(1))


def test_a_call_with_a_mask_of_all_rows_is_never_taken_in_parts(monkeypatch):
    torch.manual_seed(0)
    batch = images(6, 8)
    snn = convert(Attending().eval(), 4, batches=[batch])
    calibrate_(snn, [batch], progress=False)
    expected = snn(batch)
    monkeypatch.setattr(layers, "MOST_BYTES", 1)
    calibrate_(snn, [batch], progress=False)
    assert torch.equal(snn(batch), expected)


@pytest.mark.parametrize("weights", ["keep", "ridge"])
@pytest.mark.parametrize("steps_at_once", [1, 2, 3])
def test_large_inputs_of_rate_exact_sites_are_taken_in_parts(steps_at_once, weights, monkeypatch):
    torch.manual_seed(0)
    batch = images(60, 8)
    snn = convert(Pooled().eval(), 7, batches=[batch])
    calibrate_(snn, [batch], weights=weights, progress=False)
    expected, biases = snn(batch), [site.temporal_bias.clone() for _, site in snn.neurons()]
    monkeypatch.setattr(layers, "MOST_BYTES", steps_at_once * batch.new_empty(60, 4, 8, 8).nbytes)
    snn.time_chunk = 7
    assert torch.equal(snn(batch), expected)
    calibrate_(snn, [batch], weights=weights, progress=False)
    assert all(torch.equal(site.temporal_bias, bias) for (_, site), bias in zip(snn.neurons(), biases, strict=True))
    assert torch.equal(snn(batch), expected)
