"""A run's results of any length, for tests of what is made from them."""

from dataclasses import replace

from ftbc_pl.reports import RunResults
from ftbc_pl.sites import SiteRecord, Spread

CALIBRATION = {
    "solver": "exact",
    "granularity": "channel",
    "images": 100,
    "forward_passes": 1,
    "seconds": 2.25,
    "dead_channels": 3,
    "saturated_channels": 0,
}
# As the command line writes them, in part.
SETTINGS = {
    "model": {"network": "cifar_resnet20", "activation": "qcfs", "levels": 4},
    "data": {"class_path": "ftbc_pl.data.ImageData", "init_args": {"root": "data", "name": "torch/cifar10"}},
    "ftbc": {"solver": "exact", "readout": "least_squares"},
    "ckpt_path": "runs/long/best.ckpt",
}


def make_results(num_steps: int = 8, num_sites: int = 3, **changes: object) -> RunResults:
    """Accuracy rises by 1/64 a step from ¼ and ½; site 1 is a rate-exact one, the others spike."""
    sites = [
        SiteRecord(
            name=f"layer{index}.act",
            kind="spiking",
            shape=(16, 8, 8),
            threshold=Spread(0.5, 1.0, 1.5),
            firing_rate=(index + 1) / (num_sites + 1),
            temporal_bias_rms=tuple((index + 1) / step for step in range(1, num_steps + 1)),
            operation="relu6",
            origin="module",
            source="models/resnet.py:42",
            channels=16,
            threshold_from="max",
            upper=6.0,
            folded=64,
        )
        for index in range(num_sites)
    ]
    sites.insert(1, SiteRecord(name="maxpool", kind="rate-exact", shape=(16, 4, 4)))
    results = RunResults(
        ann_accuracy=0.90625,
        num_steps=num_steps,
        split="test",
        images=1000,
        accuracy_uncalibrated=[0.25 + min(step, 20) / 64 for step in range(num_steps)],
        accuracy_calibrated=[0.5 + min(step, 20) / 64 for step in range(num_steps)],
        calibration=dict(CALIBRATION),
        conversion={"spiking": num_sites, "rate_exact": 1, "summary": f"{num_sites + 1} sites."},
        sites=sites,
        settings={"model": {"network": "cifar_resnet20", "levels": 4}, "ftbc": {"num_steps": num_steps}},
        versions={"ftbc_pl": "0.1.0", "torch": "2.15.0"},
    )
    return replace(results, **changes)


def make_uncalibrated_results(num_steps: int = 8) -> RunResults:
    """A run with calibration switched off."""
    return make_results(num_steps, sites=[], accuracy_calibrated=None, calibration=None)
