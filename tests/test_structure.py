"""Imports point one way, and configs are nothing but YAML."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A module may import what stands at its own or an earlier place.
ORDER = [
    {"distributed", "files"},
    {"folders"},
    {"functional"},
    {"layers"},
    {"models", "conversion", "data", "schedules"},
    {"calibration"},
    {"evaluation", "energy", "io"},
    {"reports"},
    {"task"},
    {"callbacks", "callbacks_package"},
    {"trainer"},
    {"cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
SOURCES = [path for folder in ("ftbc_pl", "callbacks") for path in sorted((ROOT / folder).rglob("*.py"))]


def part_of(path):
    inside = path.relative_to(ROOT).with_suffix("").parts
    return "callbacks" if inside[0] == "callbacks" else inside[1]


def imported_parts(path):
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            names = [".".join([*base, *([node.module] if node.module else [])])]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "callbacks":
                yield "callbacks"
            elif parts[0] == "ftbc_pl" and len(parts) > 1:
                yield parts[1]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    if path == ROOT / "ftbc_pl" / "__init__.py":
        return
    own = part_of(path)
    for other in imported_parts(path):
        assert LEVEL[other] <= LEVEL[own], f"{own} imports {other}"


def test_functional_knows_neither_modules_nor_lightning():
    for path in (ROOT / "ftbc_pl" / "functional").glob("*.py"):
        assert "lightning" not in path.read_text()
        assert "nn.Module" not in path.read_text()


@pytest.mark.parametrize("folder", ["configs", "sweeps"])
def test_only_yaml(folder):
    assert {path.suffix for path in (ROOT / folder).iterdir()} == {".yaml"}


def test_modules_stay_small():
    for path in SOURCES:
        assert len(path.read_text().splitlines()) <= 300, path
