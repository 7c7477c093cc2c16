"""The scripts behind the tables of accuracy and cost run, on small data, and the trained networks are what they say."""

import os
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ftbc_pl import calibrate_, convert
from tests.networks import images
from tests.pipeline import needs_compiler

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture(scope="module")
def cifar_like(tmp_path_factory):
    root = tmp_path_factory.mktemp("cifar")
    generator = np.random.default_rng(0)
    for split, count in {"train": 62, "test": 2}.items():
        for name in range(10):
            (root / split / f"class{name}").mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / f"class{name}" / f"{index}.png")
    return root


def run(monkeypatch, script, *arguments):
    module = __import__(script)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    module.main()


def table_of(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("what", ["table", "select", "thresholds"])
def test_accuracy(what, cifar_like, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("selection.MEAN_WEIGHTS", (0.0, 3.0, float("inf")))
    monkeypatch.setattr("selection.SEARCH_STEPS", (1, 8))
    options = ["--networks", "cifar10_r20_relu", "--images", "20", "10", "--validation", "20"]
    options += ["--num_steps", "1", "3", "--draws", "2", "1", "--results", str(tmp_path / "results.jsonl")]
    rules = ["--rules", "none", "constant", "exact", "exact_accumulate", "--figure", str(tmp_path / "figure.png")]
    run(monkeypatch, "accuracy", what, "--data", str(cifar_like), *options, *rules)
    printed = capsys.readouterr().out
    rows = table_of(printed)
    if what == "table":
        titles = ["uncalibrated", "constant bias", "exact", "no bias", "constant bias", "exact", "exact"]
        assert [row[0].partition(",")[0] for row in rows[2:]] == titles
        assert [row[1] for row in rows[2:]] == ["mean"] * 3 + ["least squares"] * 3 + ["mean"]
        assert rows[-1][0].endswith("accumulate (depth × T steps)")
        assert [row[-1] for row in rows[3:]] == ["1 forward"] * 6
        # two draws at T = 1, one beyond
        assert ["±" in cell for cell in rows[-1][2:-1]] == [True, False, False]
        assert (tmp_path / "figure.png").stat().st_size > 10_000
    else:
        rows = [row for row in rows if row[0] not in ("λ", "steps of the search", "---")]
        assert [row[0] for row in rows] == {"select": ["0", "3", "inf"], "thresholds": ["1", "8"]}[what] * 2
    accuracies = [float(row[1 + (what == "table")].partition(" ")[0]) for row in rows[2:]]
    # Images of noise are recognised by chance.
    assert all(0 <= accuracy <= 60 for accuracy in accuracies)
    # What was measured is printed again, not measured again.
    measured = (tmp_path / "results.jsonl").read_text()
    monkeypatch.setattr("bench.convert", None)
    run(monkeypatch, "accuracy", what, "--data", str(cifar_like), *options, *rules)
    assert capsys.readouterr().out == printed
    assert (tmp_path / "results.jsonl").read_text() == measured


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("what", ["robustness", "passes"])
def test_figures_of_accuracy(what, cifar_like, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("accuracy.STRENGTHS", {"noise": (0.1,), "blur": (1.0,), "contrast": (0.5,)})
    monkeypatch.setattr("accuracy.PASSES", (1, 2))
    options = ["--networks", "cifar10_r20_relu", "--images", "10", "--validation", "20"]
    options += ["--num_steps", "2", "--draws", "1", "--results", str(tmp_path / "results.jsonl")]
    run(monkeypatch, "accuracy", what, "--data", str(cifar_like), *options, "--figure", str(tmp_path / "figure.png"))
    rows = table_of(capsys.readouterr().out)
    assert len(rows) - 2 == {"robustness": 3, "passes": 2}[what]
    assert all(0 <= float(cell) <= 60 for row in rows[2:] for cell in row[2:])
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_constant_bias_is_the_same_at_every_step():
    import trained
    from rules import RULES

    snn = convert(trained.load("cifar10_r20_qcfs4"), 3)
    assert RULES["constant"](snn, [images(4, 32)])[0] == 1
    assert all((site.temporal_bias == site.temporal_bias[:1]).all() for _, site in snn.neurons())
    assert any(site.temporal_bias.abs().max() > 0 for _, site in snn.neurons())


def test_layer_by_layer_finds_the_biases_of_one_forward():
    import cost
    from layer_by_layer import layer_by_layer

    batch = images(3, 32)
    snn = convert(cost.network("cifar_resnet20"), 2, example=batch)
    calibrate_(snn, [batch], solver="heuristic", alpha=0.4, progress=False)
    single = [site.temporal_bias.clone() for _, site in snn.neurons()]
    for _, site in snn.neurons():
        site.temporal_bias.zero_()
    layer_by_layer(snn, batch)
    for (_, site), bias in zip(snn.neurons(), single, strict=True):
        torch.testing.assert_close(site.temporal_bias, bias, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.long
def test_cost_of_calibration(monkeypatch, capsys):
    run(monkeypatch, "cost", "calibration", "--batch_size", "1", "--runs", "1")
    rows = table_of(capsys.readouterr().out)[2:]
    assert [row[1] for row in rows] == ["layer by layer", "heuristic", "exact", "balanced"] * 2
    assert [int(row[2]) for row in rows] == [38, 1, 1, 1, 66, 1, 1, 1]
    assert all(float(row[4].removesuffix(" ×")) > 1 for row in rows if row[1] != "layer by layer")


@needs_compiler
def test_cost_of_inference(monkeypatch, capsys):
    run(monkeypatch, "cost", "inference", "--batch_size", "2", "--runs", "1")
    rows = table_of(capsys.readouterr().out)[2:]
    assert [row[0] for row in rows[::3]] == ["cifar_resnet20 at 32×32", "cifar_vgg16 at 32×32"]
    assert [row[0] for row in rows[1::3]] == [f"{row[0]}, folded" for row in rows[::3]]
    assert [row[0] for row in rows[2::3]] == [f"{row[0]}, neurons compiled" for row in rows[::3]]
    assert all(float(row[3]) > 0 for row in rows)


@needs_compiler
def test_cost_of_neurons(monkeypatch, capsys):
    run(monkeypatch, "cost", "neuron", "--batch_size", "2", "--runs", "1")
    rows = table_of(capsys.readouterr().out)[2:]
    assert [row[0] for row in rows] == ["8 × 2 × 16 × 32 × 32", "8 × 2 × 32 × 16 × 16", "8 × 2 × 64 × 8 × 8"]
    assert all(float(row[4]) > 0 for row in rows)


def test_profiles(monkeypatch, capsys):
    run(monkeypatch, "cost", "profile", "--batch_size", "1")
    rows = table_of(capsys.readouterr().out)[2:]
    calls = {row[0]: int(row[1].replace(",", "")) for row in rows}
    assert calls["T steps, folded"] < calls["T steps, apart"] < calls["calibration by exact, folded"]
    assert all(0 <= float(row[3].removesuffix(" %")) < 100 for row in rows)


@pytest.mark.slow
@pytest.mark.long
def test_folding(cifar_like, capsys):
    __import__("folding").main(
        ["--data", str(cifar_like), "--draws", "0", "--images=10", "--validation=20", "--num_steps=1"]
    )
    printed = capsys.readouterr().out
    assert [row[1] for row in table_of(printed)[2:]] == ["uncalibrated", "calibrated"] * 2
    assert "In the mean of all steps and draws" in printed


def test_dispatch(monkeypatch, capsys):
    run(monkeypatch, "cost", "dispatch", "--runs", "1")
    rows = table_of(capsys.readouterr().out)[2:]
    assert len(rows) == 4
    assert rows[0][1] == "1.00"


@pytest.mark.slow
@pytest.mark.long
def test_choices(monkeypatch, capsys):
    monkeypatch.setattr("choices._CASES", [("cifar_resnet20", 8, 1)])
    run(monkeypatch, "cost", "choices", "--batch_size", "2", "--runs", "1")
    rows = table_of(capsys.readouterr().out)[2:]
    assert [row[1:3] for row in rows] == [
        [layout, title] for layout in ("contiguous", "channels last") for title in ("apart", "folded")
    ]
    assert rows[0][3:] == ["1.00", "1.00"]


def test_the_trained_networks_are_what_they_say():
    import trained

    assert trained.names()
    for name in trained.names():
        about = trained.description(name)
        assert 0.85 < about["accuracy"]["test"] <= about["accuracy"]["validation"] + 0.02
        assert trained.load(name)(images(2, 32)).shape == (2, 10)


def test_the_tables_of_the_readme_are_what_was_measured(monkeypatch, capsys):
    import trained

    root = BENCHMARKS.parent
    readme = (root / "README.md").read_text() + (root / "docs" / "results.md").read_text()
    commands = re.findall(r"^python benchmarks/(accuracy.py .*)$", readme, flags=re.M)
    assert any("accuracy.py table" in command for command in commands)
    assert any("accuracy.py select" in command for command in commands)
    for command in commands:
        script, *arguments = shlex.split(command)
        if "--figure" in arguments:
            place = arguments.index("--figure")
            del arguments[place : place + 2]
        # There are no images in this folder: everything must have been measured, with the weights that are here.
        run(monkeypatch, script.removesuffix(".py"), *arguments, "--data", "nowhere")
        # A line that names the network, and its table.
        blocks = re.split(r"\n(?=cifar10_)", capsys.readouterr().out.strip())
        named = shlex.split(command.partition("--networks ")[2].partition(" --")[0]) or trained.names()
        assert {block.strip().partition(":")[0].partition(",")[0] for block in blocks} == set(named)
        for block in blocks:
            assert block.strip() in readme, command


@pytest.mark.slow
@pytest.mark.long
def test_exported(cifar_like, monkeypatch, capsys):
    options = ["--num_steps=1", "--images=2", "--calibration=20", "--validation=20", "--runs=1"]
    run(monkeypatch, "exported", "--data", str(cifar_like), "--batch_sizes", "1", "2", *options)
    printed = capsys.readouterr().out
    assert float(re.search(r"([\d.]+)% of neurons", printed)[1]) > 99
    assert [row[0] for row in table_of(printed)[2:]] == ["1", "2"]


@pytest.mark.skipif("FTBC_AUTHORS" not in os.environ, reason="FTBC_AUTHORS names no checkout of the authors' code")
def test_the_authors_networks_compute_what_ours_do_before_calibration():
    import trained
    from authors import Authors

    ann, batch = trained.load("cifar10_r20_qcfs4"), images(8, 32)
    their_ann, their_snn = Authors(os.environ["FTBC_AUTHORS"]).networks(ann, 4, 3)
    with torch.no_grad():
        torch.testing.assert_close(their_ann(batch), ann(batch), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(their_snn(batch), convert(ann, 3)(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif("FTBC_CIFAR10" not in os.environ, reason="FTBC_CIFAR10 names no folder of CIFAR-10 images")
@pytest.mark.parametrize("name", sorted(path.stem for path in (BENCHMARKS / "weights").glob("*.json")))
def test_a_trained_network_scores_what_was_measured(name, monkeypatch, capsys, tmp_path):
    options = f"--networks {name} --rules paper exact balanced --num_steps 4 --draws 1 --images 500".split()
    anew = ["--data", os.environ["FTBC_CIFAR10"], "--results", str(tmp_path / "results.jsonl")]
    rows = []
    for source in (anew, ["--data", "nowhere"]):
        run(monkeypatch, "accuracy", "table", *options, *source)
        rows.append([[float(cell) for cell in row[2:5]] for row in table_of(capsys.readouterr().out)[2:]])
    measured, kept = rows
    assert len(measured) == 7
    # A calibration amplifies rounding: these rows are kept from a CPU, and a GPU finds others.
    assert measured == [pytest.approx(row, abs=0.1) for row in kept]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.filterwarnings("ignore:weights='ridge' fits")
def test_networks_of_imagenet(monkeypatch, capsys, tmp_path):
    import imagenet
    from imagenet_data import NETWORKS

    generator = np.random.default_rng(0)
    for split, count in {"train": 4, "val": 2}.items():
        for name in range(1000):
            (tmp_path / split / f"class{name:03}").mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 255, (240, 230, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / f"class{index:03}" / "image.png")
    (tmp_path / "weights").mkdir()
    kind = NETWORKS["squeezenet1_1"]
    save_file(kind.make().state_dict(), tmp_path / "weights" / kind.weights)
    options = ["--data", str(tmp_path), "--networks", "squeezenet1_1", "--num_steps", "1", "2", "--batch_size", "2"]
    options += ["--calibration", "3", "--rules", "exact", "ridge_last", "exact_accumulate"]
    options += ["--results", str(tmp_path / "results.jsonl")]
    run(monkeypatch, "imagenet", *options)
    printed = capsys.readouterr().out
    rows = table_of(printed)[2:]
    assert [row[0] for row in rows] == ["uncalibrated", *["exact"] * 2, *["ridge_last"] * 2, *["exact_accumulate"] * 2]
    assert all(re.fullmatch(r"(0|50|100)\.00 ± \d+\.\d\d", cell) for row in rows for cell in row[2:])
    # What was measured is printed again, not measured again.
    monkeypatch.setattr(imagenet, "convert", None)
    run(monkeypatch, "imagenet", *options)
    assert capsys.readouterr().out == printed


def test_the_tables_of_imagenet_are_what_was_measured(monkeypatch, capsys):
    run(monkeypatch, "imagenet", "--kept")
    tables = capsys.readouterr().out.strip()
    assert tables.count("ANN") == 6
    assert tables in (BENCHMARKS.parent / "docs" / "imagenet.md").read_text()
