"""Each promise of docs/reliability.md names a test that is there."""

import ast
import re

from tests.documentation import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", PAGE)


def defined(path):
    """Names of the tests in a file, those in classes as `Class::name`."""
    for node in ast.parse((ROOT / path).read_text()).body:
        parts = node.body if isinstance(node, ast.ClassDef) else []
        yield from (f"{node.name}::{part.name}" for part in parts if isinstance(part, ast.FunctionDef))
        if isinstance(node, ast.FunctionDef):
            yield node.name


def test_each_promise_is_held_by_a_test():
    rows = [
        line
        for line in PAGE.splitlines()
        if line.startswith("| ") and not line.startswith(("| ---", "| When", "| What |"))
    ]
    assert len(rows) > 50
    assert [row for row in rows if not re.search(r"\| `tests/[\w/]+\.py::[\w:]+` \|$", row)] == []


def test_the_tests_are_there():
    missing = [f"{path}::{name}" for path, name in NAMED if name not in set(defined(path))]
    assert missing == []
