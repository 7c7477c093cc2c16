"""What a run hands to its loggers: the accuracy curve, flat summary keys, the network as an artifact."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from ftbc_pl.reports.html import REPORT_FILE
from ftbc_pl.reports.results import RESULTS_FILE, RunResults

if TYPE_CHECKING:
    from wandb import Artifact
    from wandb.sdk.wandb_run import Run

STEP_KEY = "snn/T"
CONVENTION = "45nm"  # of the energy that is tracked
FOLDER_KEY = "output_dir"
ARTIFACT_NAME = "snn"
NETWORK_FILE = "snn.safetensors"
ARTIFACT_FILES = (NETWORK_FILE, "snn.json", RESULTS_FILE, REPORT_FILE)
SUMMARY_KEYS = re.compile(
    r"ann/accuracy|calibration/\w+"
    r"|snn/(latency|(accuracy(_[a-z]\w*)?|sops|energy_ratio)_T[1-9]\d*|(accuracy|sops|energy_ratio)_final"
    r"|exit_(accuracy|mean_steps|percentile_90|energy_ratio))"
)
"""What `summary_metrics` may name: a sweep can be judged by these."""


def curve_rows(results: RunResults) -> list[dict[str, float]]:
    """One row of metrics for each t = 1..T, keyed by `snn/T`."""
    curves = {_key(name): accuracies for name, accuracies in results.curves.items()}
    if results.energy is not None:
        curves |= {
            "snn/sops": results.energy["sops"],
            "snn/energy_ratio": results.energy["conventions"][CONVENTION]["ratio"],
        }
        before = results.energy.get("uncalibrated")
        if before is not None:
            ratio = before["ratio"][CONVENTION]
            curves |= {"snn/sops_uncalibrated": before["sops"], "snn/energy_ratio_uncalibrated": ratio}
    return [
        {STEP_KEY: step, **{key: accuracies[index] for key, accuracies in curves.items()}}
        for index, step in enumerate(results.steps)
    ]


def summary_metrics(results: RunResults) -> dict[str, float]:
    """Flat keys for tables and sweeps.

    `snn/accuracy_T4` is the calibrated accuracy at t = 4, `snn/accuracy_final` the accuracy at t = T whatever T is,
    calibrated where calibration ran. `snn/energy_ratio_T4` is the energy up to t = 4 as a share of the ANN's, by the
    45 nm convention, `snn/sops_T4` the synaptic operations for an image, where they were measured; `…_final` are those
    at t = T, `snn/exit_energy_ratio` is the energy with early exit. `snn/latency` is the number of timesteps that the
    answer takes: T, unless the schedule is `accumulate`. The cost of calibration is `calibration/images`,
    `…/forward_passes`, `…/seconds`.
    """
    metrics: dict[str, float] = {"ann/accuracy": results.ann_accuracy, "snn/accuracy_final": results.accuracy_final}
    for name, accuracies in results.curves.items():
        metrics |= {f"{_key(name)}_T{step}": value for step, value in zip(results.steps, accuracies, strict=True)}
    if results.latency is not None:
        metrics["snn/latency"] = results.latency
    if results.energy is not None:
        keys = ("snn/sops", "snn/energy_ratio")
        rows = curve_rows(results)
        for row in rows:
            metrics |= {f"{key}_T{row[STEP_KEY]}": row[key] for key in keys}
        metrics |= {f"{key}_final": rows[-1][key] for key in keys}
    if results.early_exit is not None:
        metrics |= {f"snn/exit_{key}": results.early_exit[key] for key in ("accuracy", "mean_steps", "percentile_90")}
        if "ratio" in results.early_exit:
            metrics["snn/exit_energy_ratio"] = results.early_exit["ratio"][CONVENTION]
    for key, value in (results.calibration or {}).items():
        if isinstance(value, int | float):
            metrics[f"calibration/{key}"] = value
    return metrics


def _key(curve: str) -> str:
    """Key of a curve: that of the calibrated network goes by the plain name."""
    return "snn/accuracy" if curve == "calibrated" else f"snn/accuracy_{curve}"


@rank_zero_only
def logger_links(loggers: Iterable[Logger], folder: str | os.PathLike[str]) -> dict[str, str]:
    """Where the logs of a run are, for `RunResults.links`: by class of the logger; process 0 only, None in others.

    Args:
        loggers: `trainer.loggers`.
        folder: The run's output folder, from which paths are seen.

    Returns:
        A URL where the logger has one, else a path.
    """
    links: dict[str, str] = {}
    for logger in loggers:
        url, place = None, logger.log_dir or logger.save_dir
        if isinstance(logger, WandbLogger):
            url, place = logger.experiment.url, logger.experiment.dir  # no URL offline
        if url or place:
            name = type(logger).__name__
            name += f" {1 + sum(other.startswith(name) for other in links)}" if name in links else ""
            links[name] = url or Path(os.path.relpath(str(place), folder)).as_posix()
    return links


def wandb_log(run: "Run", results: RunResults) -> None:
    """Log the curve against its own x-axis `snn/T`, and the summary keys."""
    rows = curve_rows(results)
    run.define_metric(STEP_KEY)
    # Each key by its full name: WandbLogger ties "*" to the training step, and among globs that match ("snn/*" would)
    # W&B takes any, while a full name always wins.
    for key in rows[0].keys() - {STEP_KEY}:
        run.define_metric(key, step_metric=STEP_KEY)
    for row in rows:
        run.log(row)
    run.summary.update(summary_metrics(results))


def log_artifact(run: "Run", folder: str | os.PathLike[str]) -> "Artifact":
    """Log the calibrated network and its report, found in `folder`, as an artifact of type `model`.

    Raises:
        FileNotFoundError: one of the files is missing.
    """
    import wandb  # here, because a run without W&B should not wait for it

    missing = [name for name in ARTIFACT_FILES if not (Path(folder) / name).is_file()]
    if missing:
        raise FileNotFoundError(f"expected {', '.join(ARTIFACT_FILES)} in {folder}, missing {', '.join(missing)}")
    artifact = wandb.Artifact(ARTIFACT_NAME, type="model")
    for name in ARTIFACT_FILES:
        artifact.add_file(str(Path(folder) / name), name=name)
    return run.log_artifact(artifact)


@rank_zero_only
def log_curve(logger: Logger, results: RunResults) -> None:
    """Log the curve with t as the step, and the summary keys at T: for loggers without an x-axis of one's choice."""
    rows = curve_rows(results)
    rows[-1] |= summary_metrics(results)
    for step, row in zip(results.steps, rows, strict=True):
        logger.log_metrics(row, step=step)
    logger.save()


@rank_zero_only
def log_results(loggers: Iterable[Logger], results: RunResults, folder: str | os.PathLike[str]) -> None:
    """Log curve and summary keys to every logger, and to W&B also the artifact; process 0 only, no-op in others.

    There is no artifact where the run made no network, as when one that was saved earlier is measured again.

    Args:
        loggers: `trainer.loggers`.
        results: what the run measured.
        folder: the run's output folder, with its files already written.
    """
    for logger in loggers:
        if isinstance(logger, CSVLogger | WandbLogger):
            # The way back from the log to the run.
            logger.log_hyperparams({FOLDER_KEY: os.fspath(folder)})
        if isinstance(logger, TensorBoardLogger):  # which would take it for a second set of hyper-parameters
            logger.experiment.add_text(FOLDER_KEY, os.fspath(folder))
        if isinstance(logger, WandbLogger):
            wandb_log(logger.experiment, results)
            if (Path(folder) / NETWORK_FILE).is_file():
                log_artifact(logger.experiment, folder)
        else:
            log_curve(logger, results)
