"""What ruff can't see of the style: how names are marked, where arguments are explained, how "per" is said."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [path for folder in ("ftbc_pl", "callbacks", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
THINGS = (
    "bias|biases|number|numbers|threshold|thresholds|record|row|spikes|neurons|cut|sentence|call|calls|images|entry"
)
DISTRIBUTIVE = re.compile(
    rf"\b(?:one|{THINGS}) an? (?:channel|site|step|layer|neuron|batch|image|process|epoch|class)\b"
)


def docstrings(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node, text


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_names_stand_between_single_backticks(path):
    for _, text in docstrings(path):
        assert "``" not in text
        assert not re.search(r":(?:func|class|meth|mod|attr|exc):`", text)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_arguments_are_explained_where_they_are_given(path):
    for node, text in docstrings(path):
        if isinstance(node, ast.ClassDef):
            assert "Args:" not in text.splitlines(), f"{node.name}: arguments belong into the docstring of __init__"


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=name)
def test_what_each_has_is_said_with_per(path):
    text = path.read_text(encoding="utf-8")
    texts = [text] if path.suffix == ".md" else [found for _, found in docstrings(path)]
    for found in texts:
        wrong = DISTRIBUTIVE.search(" ".join(found.split()))
        assert wrong is None, f'{wrong[0]!r}: say "per"'
