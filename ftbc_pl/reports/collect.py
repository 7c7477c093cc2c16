"""Gather what a run measured into its results."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from ftbc_pl.calibration import CalibrationReport
from ftbc_pl.conversion import SpikingNetwork
from ftbc_pl.evaluation import Accuracies
from ftbc_pl.layers import SpikingNeuron
from ftbc_pl.reports.results import RunResults, SiteSummary, ThresholdSummary

_PACKAGES = ("ftbc_pl", "torch", "lightning", "timm", "torchmetrics")


def collect_results(
    snn: SpikingNetwork,
    accuracies: Accuracies,
    calibration: CalibrationReport | None,
    split: str,
    settings: dict[str, Any],
    links: Mapping[str, str] | None = None,
) -> RunResults:
    """Put the results of a run together.

    Args:
        snn: The spiking network.
        accuracies: What the evaluation measured.
        calibration: What the calibration did, or None if there was none.
        split: ``validation`` or ``test``.
        settings: The configuration of the run.
        links: Where its logs are, as `logger_links` finds them.
    """
    calibrated = {} if calibration is None else {site.name: site for site in calibration.sites}
    sites = []
    conversion = snn.report
    for converted, site in zip(conversion.sites, snn.sites, strict=True):
        report = calibrated.get(converted.name)
        threshold = None
        if isinstance(site, SpikingNeuron):
            theta = site.threshold
            threshold = ThresholdSummary(theta.min().item(), theta.mean().item(), theta.max().item())
        sites.append(
            SiteSummary(
                converted.name,
                converted.kind,
                list(converted.shape),
                threshold,
                None if report is None else report.firing_rate,
                [] if report is None else list(report.temporal_bias_rms),
                converted.operation,
                converted.origin,
                converted.source,
                converted.channels,
                converted.threshold,
                converted.upper,
                converted.folded,
            )
        )
    cost = None
    if calibration is not None:
        cost = {key: value for key, value in calibration.to_dict().items() if key != "sites"}
    return RunResults(
        ann_accuracy=accuracies.ann,
        num_steps=snn.num_steps,
        split=split,
        images=accuracies.images,
        accuracy_uncalibrated=accuracies.uncalibrated,
        accuracy_calibrated=accuracies.calibrated,
        calibration=cost,
        conversion=conversion.totals() | {"summary": conversion.summary()},
        sites=sites,
        settings=settings,
        versions={name: version(name) for name in _PACKAGES},
        links=dict(links or {}),
    )
