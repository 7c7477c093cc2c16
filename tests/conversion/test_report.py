from dataclasses import asdict

import torch
from torch import nn

from ftbc_pl import convert, prepare
from tests.networks import create, images, small_cnn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU6()
        self.pool, self.gate, self.head = nn.MaxPool2d(2), nn.Linear(4, 4), nn.Linear(4, 10)

    def forward(self, x):
        x = self.pool(self.act(self.norm(self.conv(x))))
        x = self.act(x.mean((2, 3)))
        return self.head(torch.relu(x) * self.gate(x).sigmoid())


def small(**options):
    torch.manual_seed(0)
    return convert(Small().eval(), 2, batches=[images()], **options)


TABLE = """\
site         kind        operation   input  threshold  origin         folded
----------- ----------- ----------- ------ ---------- -------------- -------
act          spiking     hardtanh    4×8×8  max ≤ 6    shared module  16
pool         rate-exact  max_pool2d  4×8×8             module
act#2        spiking     hardtanh    4      max ≤ 6    shared module
(network)    spiking     relu        4      max        function
(network)#2  rate-exact  sigmoid     4                 function
(network)#3  rate-exact  mul         4                 function

6 sites: 3 spiking (hardtanh 2, relu 1), 3 rate-exact (max_pool2d 1, sigmoid 1, mul 1); 264 neurons per image; \
1 normalisation layer folded (16 numbers)."""


def test_the_table_shows_every_site_and_the_totals():
    assert str(small(threshold="max", fold_bn=True).report) == TABLE


def test_the_report_is_plain_data():
    report = small(threshold=99.5).report
    first = asdict(report.sites[0])
    assert first.pop("source").startswith("conversion/test_report.py:")
    assert first == {
        "name": "act", "kind": "spiking", "operation": "hardtanh", "origin": "shared module", "shape": (4, 8, 8),
        "rows": 1, "channels": 4, "threshold_from": "percentile 99.5", "upper": 6.0, "folded": 16,
        "threshold": None, "firing_rate": None, "temporal_bias_rms": (), "dead_channels": 0, "saturated_channels": 0,
    }  # fmt: skip
    totals = report.totals()
    assert totals == {
        "spiking": 3, "rate_exact": 3, "neurons": 4 * 64 + 8, "folded_layers": 1, "folded": 16,
        "operations": {"spiking": {"hardtanh": 2, "relu": 1}, "rate-exact": {"max_pool2d": 1, "sigmoid": 1, "mul": 1}},
    }  # fmt: skip
    assert report.to_dict()["totals"] == totals
    assert len(report.to_dict()["sites"]) == 6


def test_it_says_where_thresholds_come_from():
    for activation, word, bound in (("qcfs", "learned", None), ("rts", "mse", 0.5)):
        network = prepare(small_cnn(), activation, threshold=0.5)
        report = convert(network, 2, batches=[images(2)]).report
        assert [(site.threshold_from, site.upper) for site in report.sites] == [(word, bound)] * 2


def test_numbers_folded_add_up():
    report = convert(create("resnet18"), 2, batches=[images(2, 64)], fold_bn=True).report
    assert sum(site.folded for site in report.sites) == report.folded == 19200
    assert report.folded_layers == 20
