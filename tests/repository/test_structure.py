"""Configs are nothing but YAML, and modules stay small."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [path for folder in ("ftbc_pl", "callbacks", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("folder", ["configs", "sweeps"])
def test_only_yaml(folder):
    assert {path.suffix for path in (ROOT / folder).iterdir()} == {".yaml"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_each_room_says_what_it_is_for():
    for path in sorted((ROOT / "ftbc_pl").rglob("__init__.py")):
        assert path.read_text(encoding="utf-8").startswith('"""'), path
