"""The files of a run, written from Python."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftbc_pl.calibration import CalibrationReport
from ftbc_pl.evaluation import Accuracies
from ftbc_pl.reports.collect import collect_results
from ftbc_pl.reports.html import write_report_html
from ftbc_pl.reports.results import write_results_json
from ftbc_pl.simulation import SpikingNetwork


def write_report(
    folder: str | os.PathLike[str],
    snn: SpikingNetwork,
    accuracies: Accuracies,
    *,
    calibration: CalibrationReport | None = None,
    split: str = "validation",
    settings: Mapping[str, Any] | None = None,
    **measured: Any,
) -> Path:
    """Write results.json and report.html, as the command line does, and return the path of the page.

    Args:
        folder: Where they go; it is made, and files of these names are overwritten.
        snn: The spiking network.
        accuracies: What `evaluate_beside_ann` has measured on it.
        calibration: What `calibrate_` has returned; left out: it was not calibrated.
        split: What was measured on, `validation` or `test`.
        settings: Whatever is worth keeping of how the network came about.
        **measured: What `collect_results` takes besides: `energy` of `measure_energy`, `early_exit` of `evaluate_exit`,
            `diagnosis` of `diagnose`.

    Raises:
        ValueError: `accuracies` are those of a calibrated network, and there is no `calibration`, or the reverse.
    """
    place = Path(folder)
    results = collect_results(snn, accuracies, calibration, split, dict(settings or {}), **measured)
    place.mkdir(parents=True, exist_ok=True)
    write_results_json(results, place)
    return write_report_html(results, place)
