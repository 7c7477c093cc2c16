"""`ftbc-pl compare`: it measures what calibrate measures, goes on, and shares the work between processes."""

import json
from pathlib import Path

import pytest

from ftbc_pl.cli import main
from tests.pipeline import QUICK, checkpoint, python, results

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_folder")]
OPTIONS = [*QUICK, "--num_steps=2,4", "--solvers=exact", "--draws=2"]


def records(folder):
    content = json.loads((Path(folder) / "comparison.json").read_text())
    return content, {(record["solver"], record["draw"]): record for record in content["records"]}


def test_it_measures_what_calibrate_measures_and_goes_on(fitted, caplog):
    command = ["compare", *OPTIONS, f"--ckpt_path={checkpoint(fitted)}"]
    with caplog.at_level("INFO"):
        main(command)
    (folder,) = Path("runs").glob("compare-*")
    content, found = records(folder)
    expected = results(fitted / "out")
    assert (content["ann"], content["images"]) == (expected["ann"]["accuracy"], 144)
    assert found["exact", 0]["accuracies"]["least_squares"] == expected["accuracy"]["calibrated"]
    assert found[None, 0]["accuracies"]["mean"] == expected["accuracy"]["uncalibrated"]
    assert found[None, 0]["accuracies"]["least_squares"] == expected["accuracy"]["readout_only"]
    assert found["exact", 0]["accuracies"] != found["exact", 1]["accuracies"]
    assert content["facts"]["network"] == "cifar_resnet20"
    assert f"Saved to {folder}: comparison.json, comparison.csv, comparison.md, comparison.png" in caplog.text
    written = (folder / "comparison.json").stat().st_mtime_ns, (folder / "comparison.md").read_text()
    caplog.clear()
    with caplog.at_level("INFO"):
        main(command)
    assert "Measuring" not in caplog.text
    assert (folder / "comparison.md").read_text() == written[1]
    assert list(Path("runs").glob("compare-*")) == [folder]


def test_two_processes_measure_like_one(fitted):
    done = python(
        "compare", *QUICK, "--num_steps=4", "--solvers=exact", "--draws=1", "--ftbc.output_dir=two",
        "--trainer.devices=2", "--trainer.strategy=ddp", f"--ckpt_path={checkpoint(fitted)}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content, found = records("two")
    assert content["images"] == 144
    expected = results(fitted / "out")["accuracy"]
    assert found["exact", 0]["accuracies"]["least_squares"] == pytest.approx(expected["calibrated"], abs=1e-5)
    assert found[None, 0]["accuracies"]["least_squares"] == pytest.approx(expected["readout_only"], abs=1e-5)


def test_test_images_are_measured_on_demand(fitted):
    options = ["--num_steps=1", "--solvers=exact", "--draws=1", "--split=test", "--ftbc.output_dir=out"]
    main(["compare", *QUICK, f"--ckpt_path={checkpoint(fitted)}", *options])
    content, _ = records("out")
    assert (content["images"], content["split"]) == (360, "test")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--solvers=exakt", "Did you mean 'exact'"),
        ("--draws=40", "40 draws of calibration images"),
        ("--num_steps=1,x", "expected num_steps as whole numbers, such as 1,2,4,8, got 1,x"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(fitted, option, message, capsys):
    with pytest.raises(SystemExit):
        main(["compare", *OPTIONS, f"--ckpt_path={checkpoint(fitted)}", option])
    assert message in capsys.readouterr().err
