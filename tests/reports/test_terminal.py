import io
import sys

import pytest

from ftbc_pl.reports import accuracy_table, site_table
from ftbc_pl.reports.terminal import table_steps
from ftbc_pl.sites import SiteRecord
from tests.report_results import make_results, make_uncalibrated_results


@pytest.mark.parametrize(
    ("num_steps", "steps"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (10, [1, 2, 4, 8, 10])]
)
def test_powers_of_two_and_the_last_step_are_shown(num_steps, steps):
    assert table_steps(num_steps) == steps


def test_the_table_is_aligned_and_in_percent_with_standard_errors():
    assert accuracy_table(make_results(10), encoding="utf-8").splitlines() == [
        " T  uncalibrated    calibrated           ANN",
        "-- ------------- ------------- -------------",
        " 1  25.0 ± 1.4 %  50.0 ± 1.6 %  90.6 ± 0.9 %",
        " 2  26.6 ± 1.4 %  51.6 ± 1.6 %  90.6 ± 0.9 %",
        " 4  29.7 ± 1.4 %  54.7 ± 1.6 %  90.6 ± 0.9 %",
        " 8  35.9 ± 1.5 %  60.9 ± 1.5 %  90.6 ± 0.9 %",
        "10  39.1 ± 1.5 %  64.1 ± 1.5 %  90.6 ± 0.9 %",
        "",
        "Accuracy on 1,000 test images: ANN 90.6 ± 0.9 %, SNN 64.1 ± 1.5 % at T = 10, calibrated (exact) with 100 "
        "images, 1 forward pass, 2.2 s.",
    ]


def test_without_calibration_there_is_no_such_column():
    assert accuracy_table(make_uncalibrated_results(1), encoding="utf-8").splitlines() == [
        "T  uncalibrated           ANN",
        "- ------------- -------------",
        "1  25.0 ± 1.4 %  90.6 ± 0.9 %",
        "",
        "Accuracy on 1,000 test images: ANN 90.6 ± 0.9 %, SNN 25.0 ± 1.4 % at T = 1, not calibrated.",
    ]


def test_the_table_of_sites_says_what_each_became():
    assert site_table(make_results(num_sites=2), encoding="utf-8").splitlines() == [
        "site        kind        operation  shape           threshold  from     folded  firing rate",
        "---------- ----------- ---------- ----------- -------------- -------- ------- ------------",
        "layer0.act  spiking     relu6      16 × 8 × 8  0.5 / 1 / 1.5  max ≤ 6      64        0.333",
        "maxpool     rate-exact  –          16 × 4 × 4              –  –             –            –",
        "layer1.act  spiking     relu6      16 × 8 × 8  0.5 / 1 / 1.5  max ≤ 6      64        0.667",
        "",
        "3 sites.",
    ]


def test_a_long_table_is_neither_cut_nor_coloured_nor_read_as_markup(monkeypatch):
    for name, value in {"COLUMNS": "40", "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    name = "[red]" + "block." * 50 + ":warning:"
    lines = site_table(make_results(sites=[SiteRecord(name=name, kind="spiking", shape=(1,))])).splitlines()
    assert lines[2].startswith(f"{name}  spiking")
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "latin-1"])
def test_an_encoding_without_all_characters_gets_ascii(encoding):
    assert accuracy_table(make_results(1), encoding=encoding).splitlines()[:3] == [
        "T    uncalibrated      calibrated             ANN",
        "- --------------- --------------- ---------------",
        "1  25.0 +/- 1.4 %  50.0 +/- 1.6 %  90.6 +/- 0.9 %",
    ]
    name = "größe"
    table = site_table(
        make_results(sites=[SiteRecord(name=name, kind="spiking", shape=(1, 2), upper=6.0)]), encoding=encoding
    )
    assert table.isascii()
    assert r"gr\xf6\xdfe" in table
    assert "1 x 2" in table


def test_the_encoding_is_that_of_the_output(monkeypatch):
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    for stream in ("stdout", "stderr"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, stream, ascii_only)
            assert accuracy_table(make_results(1)).isascii()


def test_steps_can_be_chosen():
    rows = accuracy_table(make_results(8), steps=[3, 5]).splitlines()[2:4]
    assert [row.split()[0] for row in rows] == ["3", "5"]


@pytest.mark.parametrize("step", [0, 9])
def test_a_step_that_was_not_simulated_is_refused(step):
    with pytest.raises(ValueError, match=rf"steps in 1\.\.8, got {step}"):
        accuracy_table(make_results(8), steps=[step])
