"""The examples of docs/energy.md, docs/diagnosis.md and docs/export.md run as they stand there."""

import re
from pathlib import Path

import pytest
import torch

from ftbc_pl import evaluate
from tests.digits import classifier, digits
from tests.networks import images, small_cnn

DOCS = Path(__file__).parents[2] / "docs"
pytestmark = pytest.mark.usefixtures("own_folder")


def examples(name):
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / name).read_text(), flags=re.M | re.S)


def batches(first, last):
    pictures, labels = digits()
    return [(pictures[at : at + 100], labels[at : at + 100]) for at in range(first, last, 100)]


@pytest.mark.parametrize("name", ["energy.md", "diagnosis.md"])
def test_the_examples_on_cost_and_diagnosis(name, capsys):
    scope = {
        "ann": classifier(), "loader": batches(0, 200), "val_loader": batches(800, 1300),
        "test_loader": batches(1300, 1700),
    }  # fmt: skip
    found = examples(name)
    for text in found:
        exec(compile(text, name, "exec"), scope)
    assert len(found) == (3 if name == "energy.md" else 2)
    assert scope["snn"].num_steps == 8
    if name == "energy.md":
        assert scope["result"].mean_steps <= 8
    else:
        assert evaluate(scope["snn"], scope["val_loader"], progress=False)[-1] > 0.8
    assert "T = 8" in capsys.readouterr().out or name == "energy.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the exporters and readers of others
def test_the_examples_on_export():
    for name in ("nir", "onnx", "onnxruntime", "snntorch"):
        pytest.importorskip(name)
    scope = {"ann": small_cnn(), "loader": [images()], "images": images(1)}
    for text in examples("export.md"):
        exec(compile(text, "export.md", "exec"), scope)
    mine = scope["snn"].readout(scope["snn"](images(1)))
    assert scope["predictions"].shape == mine.shape
    torch.testing.assert_close(torch.as_tensor(scope["predictions"]), mine, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["energy.md", "diagnosis.md"])
def test_options_that_are_named_exist(name):
    from ftbc_pl.options import RunOptions

    named = re.findall(r"ftbc\.(\w+)[= ]", (DOCS / name).read_text())
    known = RunOptions().to_dict()
    assert [option for option in named if option not in {*known, "energy"}] == []
