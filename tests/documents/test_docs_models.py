"""Every example of docs/models.md runs, and every error is the one that is shown."""

import re
import warnings
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
BLOCKS = re.findall(r"^```(python|text)\n(.*?)^```$", PAGE, flags=re.M | re.S)


def test_every_example_runs_and_every_error_is_the_one_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope = {"__name__": "models"}
    shown = 0
    for index, (kind, text) in enumerate(BLOCKS):
        if kind == "text":
            continue
        code = compile(text, "models.py", "exec")
        following = BLOCKS[index + 1] if index + 1 < len(BLOCKS) else ("", "")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is deprecated", category=FutureWarning)  # torch.jit
            if following[0] == "python" or not following[0]:
                exec(code, scope)
                continue
            with pytest.raises((ValueError, RuntimeError)) as error:
                exec(code, scope)
        assert str(error.value) == following[1].rstrip("\n"), text
        shown += 1
    assert shown == PAGE.count("```text") >= 15
    assert "site" in capsys.readouterr().out
