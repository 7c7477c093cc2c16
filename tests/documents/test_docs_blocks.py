"""No block of code in the documentation is left to chance: each is run or parsed by a test of this folder."""

import re

import pytest

from tests.documentation import PAGES, ROOT, commands, examples, name

BENCHMARKS = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
# Blocks that have a test of their own: errors in models.md, the sweep in sweeps.md, BibTeX in citing.md.
ELSEWHERE = {"text": "docs/models.md", "yaml": "docs/sweeps.md", "bibtex": "docs/citing.md"}
SHELL = r"export |(?:[A-Z]+=\S+ )?(?:python -m ftbc_pl |python benchmarks/(\w+\.py)|benchmarks/gpu\.sh )"


def blocks(page):
    return re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_each_block_is_of_a_kind_that_is_tested(page):
    assert page.read_text().count("```") == 2 * len(blocks(page))
    for kind, text in blocks(page):
        if kind == "python":
            assert text in examples(page)
        elif kind == "bash":
            lines = text.splitlines()
            assert [line for line in lines if not re.match(SHELL, line)] == []
            run = [line for line in lines if " -m ftbc_pl " in line]
            assert len([line for line in run if any(command in line for command in commands(page))]) == len(run)
        else:
            assert ELSEWHERE[kind] == name(page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_of_benchmarks_that_are_named_exist(page):
    for script, options in re.findall(r"python benchmarks/(\w+\.py)([^`\n]*)", page.read_text()):
        assert (ROOT / "benchmarks" / script).is_file()
        named = re.findall(r"--[\w-]+", options)
        assert [option for option in named if f'"{option}"' not in BENCHMARKS] == []
