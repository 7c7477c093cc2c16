"""Gather what a run measured into its results."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

from ftbc_pl.calibration import CalibrationReport
from ftbc_pl.energy import CONVENTIONS, EnergyCost
from ftbc_pl.evaluation import Accuracies, Diagnosis, ExitResult
from ftbc_pl.reports.results import RunResults
from ftbc_pl.simulation import SpikingNetwork
from ftbc_pl.sites import SiteRecord, Spread

_PACKAGES = ("ftbc_pl", "torch", "lightning", "timm", "torchmetrics")


def collect_results(
    snn: SpikingNetwork,
    accuracies: Accuracies,
    calibration: CalibrationReport | None,
    split: str,
    settings: dict[str, Any],
    links: Mapping[str, str] | None = None,
    energy: EnergyCost | None = None,
    energy_uncalibrated: EnergyCost | None = None,
    early_exit: ExitResult | None = None,
    diagnosis: Diagnosis | None = None,
    calibrated_earlier: bool = False,
) -> RunResults:
    """Put the results of a run together.

    Args:
        snn: The spiking network.
        accuracies: What the evaluation measured.
        calibration: What the calibration did, or None if there was none.
        split: `validation` or `test`.
        settings: The configuration of the run.
        links: Where its logs are, as `logger_links` finds them.
        energy: What the network costs, if that was measured.
        energy_uncalibrated: What it costs without its calibration.
        early_exit: What early exit does, if that was measured.
        diagnosis: Where the accuracy is lost, if that was measured.
        calibrated_earlier: Whether the network was saved by an earlier run.
    """
    conversion = snn.report
    return RunResults(
        ann_accuracy=accuracies.ann,
        num_steps=snn.num_steps,
        split=split,
        images=accuracies.images,
        accuracy_uncalibrated=accuracies.uncalibrated,
        accuracy_calibrated=accuracies.calibrated,
        accuracy_readout_only=accuracies.readout_only,
        calibration=None if calibration is None else calibration.cost(),
        conversion=conversion.totals() | {"summary": conversion.summary()},
        sites=_sites(snn, calibration),
        settings=settings,
        versions={name: version(name) for name in _PACKAGES},
        links=dict(links or {}),
        weights=[] if calibration is None else [asdict(one) for one in calibration.weights],
        energy=None if energy is None else _energy(energy, energy_uncalibrated),
        early_exit=None if early_exit is None else _early_exit(early_exit, energy, calibration),
        diagnosis=None if diagnosis is None else diagnosis.to_dict(),
        schedule=snn.options.schedule,
        latency=snn.latency,
        calibrated_earlier=calibrated_earlier,
    )


def _energy(cost: EnergyCost, before: EnergyCost | None) -> dict[str, Any]:
    """Plain values of the costs, with what the network spends without its calibration."""
    content = cost.to_dict()
    if before is not None:
        ratios = {name: before.ratio(name).tolist() for name in CONVENTIONS}
        content["uncalibrated"] = {"sops": before.sops.tolist(), "ratio": ratios}
    return content


def _early_exit(result: ExitResult, cost: EnergyCost | None, calibration: CalibrationReport | None) -> dict[str, Any]:
    """Plain values of early exit, with the energy up to the step at which each image stops, in the mean."""
    content = result.to_dict()
    if calibration is not None and calibration.early_exit is not None:
        content["set_on"] = calibration.early_exit
    if cost is not None:
        at = result.steps - 1
        content["sops"] = cost.sops[at].mean().item()
        content["ratio"] = {name: cost.ratio(name)[at].mean().item() for name in CONVENTIONS}
    return content


def _sites(snn: SpikingNetwork, calibration: CalibrationReport | None) -> list[SiteRecord]:
    """The records of all sites, as far as they got."""
    found = {} if calibration is None else {site.name: site for site in calibration.sites}
    thresholds = {call.name: Spread.of(site.threshold) for call, site in snn.neurons()}
    return [
        replace(record, threshold=thresholds.get(record.name)).calibrated_as(found.get(record.name))
        for record in snn.report.sites
    ]
