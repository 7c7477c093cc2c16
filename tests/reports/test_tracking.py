import csv
import os

import pytest
import wandb
import yaml
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from ftbc_pl.reports import log_results, logger_links, write_report_html, write_results_json
from ftbc_pl.reports.tracking import log_artifact, summary_metrics
from tests.report_results import make_results, make_uncalibrated_results
from tests.wandb_reader import read_offline_run


@pytest.fixture
def folder(tmp_path):
    """An output folder as a run leaves it."""
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "snn.safetensors").write_bytes(b"weights")
    (folder / "snn.json").write_text("{}")
    (folder / "config.yaml").write_text("")
    write_results_json(make_results(4), folder)
    write_report_html(make_results(4), folder)
    return folder


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """W&B without network and without a trace outside of `tmp_path`."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
        os.makedirs(tmp_path / name)
    yield tmp_path
    wandb.finish()
    wandb.teardown()  # else the processes of later tests write to this one's service


def recorded(logger, offline):
    logger.experiment.finish()
    return read_offline_run(offline)


def make_logger(offline):
    logger = WandbLogger(project="tests", save_dir=str(offline))
    # Lightning makes "*" follow the training step; our curve has to stand beside metrics of a training.
    logger.log_metrics({"train/loss": 1.0}, step=7)
    return logger


def test_the_curve_has_its_own_axis_in_a_run_with_training_metrics(offline, folder):
    results = make_results(4)
    logger = make_logger(offline)
    log_results([logger], results, folder)
    logger.log_metrics({"train/loss": 0.5}, step=8)
    run = recorded(logger, offline)
    assert run.curve("snn/T", "snn/accuracy") == list(enumerate(results.accuracy_calibrated, 1))
    assert run.curve("snn/T", "snn/accuracy_uncalibrated") == list(enumerate(results.accuracy_uncalibrated, 1))
    assert run.curve("trainer/global_step", "train/loss") == [(7, 1.0), (8, 0.5)]
    assert run.metrics["snn/accuracy"] == run.metrics["snn/accuracy_uncalibrated"] == "snn/T"
    # W&B adds the training step to all that follows "*": had that rule won, it would stand here.
    assert not [row for row in run.history if "snn/T" in row and "trainer/global_step" in row]


def test_the_summary_has_flat_keys_for_sweeps_and_tables(offline, folder):
    results = make_results(4)
    logger = make_logger(offline)
    log_results([logger], results, folder)
    summary = recorded(logger, offline).summary
    assert summary.items() >= summary_metrics(results).items()
    assert summary["snn/accuracy_T1"] == 0.5
    assert summary["snn/accuracy_T4"] == summary["snn/accuracy_final"] == 0.5 + 3 / 64
    assert summary["snn/accuracy_uncalibrated_T4"] == 0.25 + 3 / 64
    assert summary["ann/accuracy"] == 0.90625
    assert summary["calibration/forward_passes"] == 1
    assert summary["calibration/seconds"] == 2.25


def test_without_calibration_only_the_uncalibrated_curve_is_logged(offline, folder):
    logger = make_logger(offline)
    log_results([logger], make_uncalibrated_results(2), folder)
    run = recorded(logger, offline)
    assert run.curve("snn/T", "snn/accuracy_uncalibrated") == [(1, 0.25), (2, 0.25 + 1 / 64)]
    assert run.curve("snn/T", "snn/accuracy") == []
    assert run.summary["snn/accuracy_final"] == 0.25 + 1 / 64


def test_the_network_is_an_artifact(offline, folder):
    logger = make_logger(offline)
    log_results([logger], make_results(4), folder)
    artifacts = recorded(logger, offline).artifacts
    assert {name: sorted(files) for name, files in artifacts.items()} == {
        "snn": ["report.html", "results.json", "snn.json", "snn.safetensors"]
    }


def test_without_a_network_in_the_folder_there_is_no_artifact(offline, folder):
    (folder / "snn.safetensors").unlink()
    logger = make_logger(offline)
    log_results([logger], make_results(4), folder)
    assert recorded(logger, offline).artifacts == {}


def test_a_missing_file_of_the_artifact_is_named(folder):
    (folder / "report.html").unlink()
    with pytest.raises(FileNotFoundError, match=r"missing report\.html"):
        log_artifact(None, folder)


def test_a_csv_logger_gets_a_row_a_step_and_the_summary_with_the_last(tmp_path, folder):
    results = make_results(4)
    logger = CSVLogger(tmp_path, name="csv", version="")
    log_results([logger], results, folder)
    with open(tmp_path / "csv" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["snn/accuracy"]) for row in rows] == results.accuracy_calibrated
    assert [float(row["snn/accuracy_uncalibrated"]) for row in rows] == results.accuracy_uncalibrated
    assert {key: float(rows[-1][key]) for key in summary_metrics(results)} == summary_metrics(results)


def test_the_logs_say_where_the_run_is(offline, tmp_path, folder):
    loggers = [CSVLogger(tmp_path, name="csv", version=""), make_logger(offline)]
    log_results(loggers, make_results(4), folder)
    assert yaml.safe_load((tmp_path / "csv" / "hparams.yaml").read_text()) == {"output_dir": str(folder)}
    assert loggers[1].experiment.config["output_dir"] == str(folder)


def test_the_run_says_where_its_logs_are(offline, tmp_path, folder):
    csv_logs = [CSVLogger(tmp_path, name=name, version="") for name in ("csv", "more")]
    links = logger_links([*csv_logs, make_logger(offline)], folder)
    assert links.keys() == {"CSVLogger", "CSVLogger 2", "WandbLogger"}
    assert [links["CSVLogger"], links["CSVLogger 2"]] == ["../csv", "../more"]
    assert (folder / links["WandbLogger"]).is_dir()  # offline there is no address


def test_other_processes_have_no_links(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert not logger_links([CSVLogger(tmp_path, name="csv", version="")], folder)


def test_other_processes_log_nothing(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log_results([CSVLogger(tmp_path, name="csv", version="")], make_results(4), folder)
    assert not (tmp_path / "csv").exists()
