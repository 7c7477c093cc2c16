"""The site builds without a warning, holds every page, and describes every public name."""

import os
import re
import subprocess
import sys
from types import FunctionType

import pytest

import ftbc_pl
from tests.documentation import ROOT

API = (ROOT / "docs" / "api.md").read_text()
REASON = "the site is built by packages of the extra docs: pip install 'ftbc_pl[docs]'"
NAMED = re.findall(r"^::: (\S+)$", API, flags=re.M)


def home(name):
    """Where a public name is defined."""
    value = getattr(ftbc_pl, name)
    module = value.__module__ if isinstance(value, type | FunctionType) else ftbc_pl._HOMES[name]
    return f"{module}.{name}"


def test_the_page_on_the_api_has_every_public_name():
    options = ["ftbc_pl.options.ConversionOptions", "ftbc_pl.options.CalibrationOptions"]
    assert sorted(NAMED) == sorted([*map(home, ftbc_pl.__all__), *options])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason=REASON)
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


def test_the_site_has_every_page(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert {path.stem for path in site.glob("*.html")} == pages | {"404"}
    start = (site / "index.html").read_text()
    assert [page for page in pages if f'href="{page}.html"' not in start] == []
    assert (site / "search" / "search_index.json").stat().st_size > 100_000


def test_names_of_the_api_have_their_arguments(site):
    page = (site / "api.html").read_text()
    assert [name for name in NAMED if f'id="{name}"' not in page] == []
    text = re.sub(r"<[^>]+>", "", page)
    for words in ("The trained network; one inside DataParallel", "Batches of training images to calibrate with"):
        assert words in text


def test_nothing_of_the_site_is_fetched_from_elsewhere(site):
    for path in site.glob("*.html"):
        loaded = re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="((?:https?:)?//[^"]+)"', path.read_text())
        assert loaded == [], path
