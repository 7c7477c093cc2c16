import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from ftbc_pl.reports import PANELS, Panel, Table, write_report_html, write_results_json
from ftbc_pl.reports.html import report_html
from ftbc_pl.sites import SiteRecord
from tests.report_results import SETTINGS, make_results, make_uncalibrated_results

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Checks that tags are nested, and collects texts and images."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.images, self.texts = [], [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)


def test_the_page_shows_all_that_was_measured():
    results = make_results(8)
    page = Page(report_html(results))
    assert page.texts["h2"] == [
        "Accuracy at every timestep",
        "Size of the temporal bias by layer and step",
        "Firing rate by layer",
        "Calibration",
        "Sites (4)",
        "Settings",
    ]
    assert yaml.safe_load(page.texts["pre"][0]) == results.settings
    assert "torch 2.15.0" in page.texts["pre"][1]
    assert [site.name for site in results.sites] == [t for t in page.texts["th"] if t.endswith((".act", "maxpool"))]
    assert page.texts["b"] == ["90.6 ± 0.9 %", "60.9 ± 1.5 %", "35.9 ± 1.5 %", "+25.0 ± 2.2 points"]


def test_the_page_shows_what_the_conversion_made_of_each_site():
    results = make_results(2)
    page = Page(report_html(results))
    rows = "".join(page.texts["td"])
    for text in ("spiking", "rate-exact", "relu6", "module, models/resnet.py:42", "max ≤ 6", "64"):
        assert text in rows
    assert any(text.startswith("4 sites.") for text in page.texts["p"])


@pytest.mark.parametrize("num_steps", [1, 17])
def test_every_step_has_its_row(num_steps):
    page = Page(report_html(make_results(num_steps, sites=[])))
    steps = [text for text in page.texts["th"] if text.isdigit()]
    assert steps == [str(step) for step in range(1, num_steps + 1)]


def test_the_head_says_what_was_measured():
    page = Page(report_html(make_results(2, settings=SETTINGS)))
    assert dict(zip(page.texts["dt"], page.texts["dd"], strict=True)) == {
        "network": "cifar_resnet20",
        "activation": "qcfs, L = 4",
        "data": "ImageData (torch/cifar10)",
        "images": "1,000 test images",
        "solver": "exact",
        "readout": "least_squares",
        "checkpoint": "runs/long/best.ckpt",
    }
    assert page.texts["title"] == ["Spiking network report: cifar_resnet20, ImageData (torch/cifar10)"]


def test_files_of_the_run_and_its_logs_are_linked(tmp_path):
    links = {"WandbLogger": "https://wandb.ai/us/snn/runs/1", "CSVLogger": "../logs/version 0#1"}
    results = make_results(2, links=links)
    write_results_json(results, tmp_path)
    page = Page(write_report_html(results, tmp_path).read_text(encoding="utf-8"))
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == [
        "results.json",  # no other file is there
        "https://wandb.ai/us/snn/runs/1",
        "../logs/version%200%231",
    ]
    assert page.texts["a"] == ["results.json", "logs: WandbLogger", "logs: CSVLogger"]


def test_a_link_runs_no_script():
    page = Page(report_html(make_results(2, links={"log": "javascript:alert(1)", "other": "JavaScript:alert(1)"})))
    hrefs = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert hrefs == ["javascript%3Aalert%281%29", "JavaScript%3Aalert%281%29"]  # names of files, that is


def test_tables_can_be_read_by_ear_and_reached_by_key():
    page = Page(report_html(make_results(2)))
    regions = [attributes for _, attributes in page.tags if attributes.get("role") == "region"]
    assert [region["aria-label"] for region in regions] == [
        "Accuracy at t = 1 to 2",
        "Calibration",
        "Sites of the network",
        "Settings, as YAML",
        "Versions",
    ]
    assert all(region["tabindex"] == "0" for region in regions)
    assert {attributes.get("scope") for tag, attributes in page.tags if tag == "th"} == {"col", "row"}


def test_a_panel_can_be_added():
    def latency(results):
        table = Table(label="Latency", columns=["what", "value"], rows=[("steps <T>", str(results.num_steps))])
        return Panel(title="Latency & more", note="a < b", tables=[table])

    PANELS.append(latency)
    try:
        page = Page(report_html(make_results(2)))
    finally:
        PANELS.remove(latency)
    assert page.texts["h2"][-1] == "Latency & more"
    assert "a < b" in page.texts["p"]
    assert "steps <T>" in page.texts["th"]


def test_every_figure_is_embedded_and_described():
    page = Page(report_html(make_results(8)))
    assert len(page.images) == 3
    for image in page.images:
        head, data = image["src"].split(",")
        assert head == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")
        assert len(image["alt"]) > 40
    assert "largest is 3 thresholds, at layer2.act, step 1" in page.images[1]["alt"]


@pytest.mark.parametrize("results", [make_results(64, 100), make_uncalibrated_results()], ids=["large", "uncalibrated"])
def test_nothing_is_loaded_from_elsewhere(results):
    text = report_html(results)
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(r"(https?:)?//", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    assert "url(" not in text
    assert "@import" not in text


def test_text_from_outside_is_escaped():
    evil = '"><script>alert(1)</script>&'
    results = make_results(
        2,
        settings={
            "name": evil,
            evil: 1,
            "model": {"network": evil, "activation": evil},
            "data": {"class_path": evil, "init_args": {"name": evil}},
            "ckpt_path": evil,
        },
        links={evil: evil},
        versions={evil: evil},
        sites=[SiteRecord(name=evil, kind="spiking", shape=(1,), temporal_bias_rms=(1.0, 2.0), firing_rate=0.5)],
        calibration={**make_results().calibration, "solver": evil, evil: evil},
    )
    page = Page(report_html(results))
    assert "script" not in {tag for tag, _ in page.tags}
    assert evil in page.texts["th"]
    assert evil in page.texts["dd"]
    assert f"logs: {evil}" in page.texts["a"]


def test_a_site_name_that_looks_like_mathematics_is_drawn_as_it_is():
    sites = [SiteRecord(name=r"$\frac{$", kind="spiking", shape=(1,), temporal_bias_rms=(1.0, 2.0), firing_rate=0.5)]
    settings = {"model": {"network": r"$\frac{$"}, "ftbc": {"readout": r"$\frac{$"}}
    assert len(Page(report_html(make_results(2, sites=sites, settings=settings))).images) == 3


def test_a_run_without_calibration_says_so():
    text = report_html(make_uncalibrated_results())
    page = Page(text)
    assert len(page.images) == 1
    assert "Calibration is switched off" in text
    assert "Calibration" not in page.texts["h2"]


def test_the_same_results_give_the_same_page(tmp_path):
    path = write_report_html(make_results(4), tmp_path)
    assert path == Path(tmp_path) / "report.html"
    assert path.read_text(encoding="utf-8") == report_html(make_results(4))
