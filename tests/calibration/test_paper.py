"""The paper's rule in Python and in YAML is one rule."""

from pathlib import Path

import pytest
import torch
import yaml

import ftbc_pl
from ftbc_pl import PAPER, calibrate_, convert
from tests.digits import classifier, digits

CONFIG = Path(__file__).parents[2] / "configs" / "paper.yaml"


def test_python_and_yaml_say_the_same():
    assert yaml.safe_load(CONFIG.read_text())["ftbc"] == {**PAPER, "batch_size": 200}
    assert "PAPER" in ftbc_pl.__all__


def test_it_calibrates_as_its_options_do():
    images, _ = digits()
    batches = list(images[:120].split(40))
    snns = [convert(classifier(4), 3, batches=batches) for _ in range(2)]
    report = calibrate_(snns[0], batches, progress=False, **PAPER)
    calibrate_(snns[1], batches, progress=False, solver="heuristic", alpha=0.4, num_batches=3, readout="mean")
    assert (report.solver, report.images, report.forward_passes) == ("heuristic", 120, 3)
    for (_, one), (_, other) in zip(snns[0].neurons(), snns[1].neurons(), strict=True):
        assert one.temporal_bias.any()
        assert torch.equal(one.temporal_bias, other.temporal_bias)


def test_nobody_changes_it_by_accident():
    with pytest.raises(TypeError, match="does not support item assignment"):
        PAPER["alpha"] = 1.0
