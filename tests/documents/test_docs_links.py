"""Links lead somewhere, and what there is to cite is said once."""

import re

import pytest
import yaml

import ftbc_pl
from tests.documentation import PAGES, ROOT, anchors, name, prose


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_and_anchor_resolves(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.is_file(), target
        assert not anchor or anchor in anchors(other), target


def test_the_index_has_every_page_and_is_one_click_from_the_readme():
    linked = re.findall(r"^\| \[[^]]+\]\(([\w-]+\.md)\) \| .", (ROOT / "docs" / "index.md").read_text(), flags=re.M)
    pages = sorted(page.name for page in PAGES if page.parent != ROOT and page.name != "index.md")
    assert sorted(linked) == pages
    assert "](docs/index.md)" in (ROOT / "README.md").read_text()


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation.keys() >= {"cff-version", "message", "title", "authors", "references"}
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == ftbc_pl.__version__
    (paper,) = citation["references"]
    page = (ROOT / "docs" / "citing.md").read_text()
    for author in paper["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in page
    assert paper["doi"] in page
    assert f"version = {{{citation['version']}}}" in page
