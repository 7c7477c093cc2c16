"""The commands and the code of the README work."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

from ftbc_pl.cli import main
from tests.networks import create, images

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^\s*python -m ftbc_pl (.*?)(?:\s+#.*)?$", README, flags=re.M)


def test_there_are_commands():
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command)
    help_wanted = "--help" in arguments
    with pytest.raises(SystemExit) as ended:
        main(arguments if help_wanted else [*arguments[:1], "--print_config", *arguments[1:]])
    assert ended.value.code == 0
    assert "ftbc" in capsys.readouterr().out


def test_make_knows_the_targets_of_the_readme():
    targets = set(re.findall(r"^\s+make (\w+)", README, flags=re.M))
    assert targets == {"quickstart", "test", "lint"}
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README, flags=re.S).group(1)
    code = code.replace('timm.create_model("resnet18", pretrained=True).eval()', "ann")
    batches = [(images(4, 64), torch.arange(4))]
    scope = {
        "ann": create("resnet18"),
        "loader": batches,
        "val_loader": batches,
        "images": images(2, 64),
    }
    exec(code, scope)
    assert scope["accuracy"].shape == (8,)
    snn = scope["snn"]
    assert torch.equal(snn(images(2, 64)), scope["outputs"])
    assert torch.equal(snn.readout(snn(images(2, 64))), scope["logits"])
