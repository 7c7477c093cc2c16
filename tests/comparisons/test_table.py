"""The table of a comparison in its forms, and what the loggers get."""

import json

import pytest
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from ftbc_pl.comparisons import ComparisonTable, Plan, Record
from ftbc_pl.comparisons.figure import comparison_figure
from ftbc_pl.comparisons.plan import listed
from ftbc_pl.comparisons.store import Store
from ftbc_pl.comparisons.tracking import log_comparison
from tests.wandb_reader import read_offline_run


def made(draws=2):
    plan = Plan.of([1, 2], ["exact"], ["keep"], draws, {})
    records = [
        Record(
            solver=solver,
            weights="keep",
            num_steps=2,
            draw=draw,
            causal=True,
            accuracies={"mean": [0.25, 0.5], "least_squares": [0.25, 0.5 + 0.125 * draw]},
            seconds=1.0 + draw,
        )
        for draw in range(draws)
        for solver in (None, "exact")
    ]
    return ComparisonTable(plan, records, ann=0.875, images=400, facts={"network": "cifar_resnet20", "data": "Digits"})


def test_the_text_has_mean_and_deviation_for_each_t():
    assert str(made()).splitlines() == [
        "solver        readout               T = 1         T = 2",
        "------------ -------------- ------------- -------------",
        "uncalibrated  mean           25.00 ± 0.00  50.00 ± 0.00",
        "uncalibrated  least_squares  25.00 ± 0.00  56.25 ± 8.84",
        "exact         mean           25.00 ± 0.00  50.00 ± 0.00",
        "exact         least_squares  25.00 ± 0.00  56.25 ± 8.84",
        "ANN           –                     87.50         87.50",
        "",
        "Accuracy in % on 400 validation images, ± standard deviation over 2 draws of the calibration images; standard "
        "error by the number of images: up to 2.50, less between rows, which saw the same images. One calibration at "
        "the largest T gives all smaller ones.",
    ]


def test_one_draw_has_no_deviation():
    table = made(1)
    assert str(table).splitlines()[2] == "uncalibrated  mean           25.00  50.00"
    assert "of one draw of the calibration images" in table.note()
    assert [row["sd"] for row in table.rows()] == [None] * 8


def test_markdown_and_csv_hold_the_same():
    lines = made().markdown().splitlines()
    assert lines[:3] == ["| solver | readout | T = 1 | T = 2 |", "| --- | --- | --- | --- |",
                         "| uncalibrated | mean | 25.00 ± 0.00 | 50.00 ± 0.00 |"]  # fmt: skip
    assert lines[-1].endswith("network cifar_resnet20, data Digits.")
    rows = made().csv().splitlines()
    assert rows[0] == "solver,weights,readout,T,accuracy,sd,standard_error,draws,images,seconds"
    assert rows[4].startswith("uncalibrated,keep,least_squares,2,0.5625,0.088388")
    assert rows[4].endswith(",2,400,1.5")


def test_what_was_not_measured_yet_is_a_dash():
    table = made()
    table.records = table.records[:1]
    assert table.grid()[1][2] == ["exact", "mean", "–", "–"]


def test_the_picture_says_what_it_shows():
    figure = comparison_figure(made())
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert sorted(labels) == [
        "ANN", "exact, readout least_squares", "exact, readout mean", "uncalibrated, readout least_squares",
        "uncalibrated, readout mean",
    ]  # fmt: skip
    assert figure.get_suptitle() == "network cifar_resnet20, data Digits: 400 validation images, ± sd over 2 draws"


def test_wandb_gets_table_and_picture_offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "out", "key")
    table = made()
    empty = ComparisonTable(table.plan)
    store.open(empty)
    store.finish(table)
    store.close()
    logger = WandbLogger(save_dir=str(tmp_path), offline=True, project="snn")
    log_comparison([logger], table, store)
    logger.experiment.finish()
    run = read_offline_run(tmp_path)
    (entry,) = [row["comparison.path"] for row in run.history if "comparison.path" in row]
    (path,) = tmp_path.glob(f"wandb/offline-run-*/files/{entry}")
    content = json.loads(path.read_text())
    assert content["columns"][:5] == ["solver", "weights", "readout", "T", "accuracy"]
    assert [row[4] for row in content["data"]] == [row["accuracy"] for row in table.rows()]
    assert any(row.get("comparison_figure.count") == 1 for row in run.history)
    assert run.config["output_dir"] == str(tmp_path / "out")


def test_other_loggers_get_a_curve_for_each_row(tmp_path):
    logger = CSVLogger(str(tmp_path))
    log_comparison([logger], made(), Store(None, "key"))
    lines = next(tmp_path.rglob("metrics.csv")).read_text().splitlines()
    assert "comparison/exact/least_squares" in lines[0].split(",")
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("given", "found"), [(None, None), ("1,2, 4", [1, 2, 4]), (4, [4]), ([1, 2], [1, 2]), ("8", [8])]
)  # fmt: skip
def test_lists_of_the_command_line(given, found):
    assert listed(given, int, "numbers") == found
