"""The script that measures on a GPU, without one: what it runs, and what it says."""

import os
import re
import subprocess
import sys

import pytest

from tests.pipeline import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.sh"
PARTS = r"^(?:rows|cost|    on_gpu|on_gpu|part) (\d+) (\w+)"
# In place of Python: a machine with a GPU or without, on which every part ends at once.
STUB = """#!/bin/sh
case "$2" in
*cuda.is_available*) exit {no_gpu};;
*spikingjelly*) exit 1;;
*find_spec*) exit 0;;
esac
echo "ran $*"
"""


def lines(tmp_path, no_gpu):
    stub = tmp_path / "python"
    stub.write_text(STUB.format(no_gpu=no_gpu))
    stub.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "AUTHORS"} | {"PYTHON": str(stub)}
    done = subprocess.run([SCRIPT, tmp_path / "out"], env=environment, capture_output=True, text=True, check=False)
    return done.stdout.splitlines(), (tmp_path / "out" / "summary.txt").read_text().splitlines()


def parts():
    return re.findall(PARTS, SCRIPT.read_text(), flags=re.M)


def test_all_limits_together_are_less_than_eight_minutes():
    assert len(parts()) == 11
    assert sum(int(seconds) for seconds, _ in parts()) <= 475


def test_every_part_runs_on_a_gpu_and_missing_packages_are_said(tmp_path):
    printed, summary = lines(tmp_path, 0)
    assert sum(line.startswith("ran benchmarks/") for line in printed) == len(parts()) - 1
    assert "ran -m pytest tests/test_gpu.py -q -p no:cacheprovider -o filterwarnings=default" in printed
    assert not any("--small" in line for line in printed)
    assert summary[0] == "SpikingJelly is not installed: no comparison with it."
    assert [line for line in summary if "exit" in line] == [line for line in summary if line.endswith("exit 0")]
    assert sum(line.endswith("exit 0") for line in summary) == len(parts())


def test_without_a_gpu_rows_are_small_and_the_rest_is_said_to_be_left_out(tmp_path):
    printed, summary = lines(tmp_path, 1)
    ran = [line for line in printed if line.startswith("ran")]
    assert ran
    assert all("gpu_rows.py" in line and "--small" in line for line in ran)
    assert "tests: left out, there is no GPU" in summary
    assert len(ran) + sum("left out" in line for line in summary) == len(parts())


@pytest.mark.slow
@pytest.mark.long
def test_rows_of_a_few_images_are_measured_on_a_cpu(tmp_path):
    rows = tmp_path / "rows.jsonl"
    command = [sys.executable, ROOT / "benchmarks" / "gpu_rows.py", "inference", "memory", "--small", "--output", rows]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    assert rows.read_text().count('"section"') == 3
    assert "error" not in rows.read_text()
