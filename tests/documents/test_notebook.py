"""The notebook runs from its first cell to its last, and is kept without outputs."""

import os

import pytest

from tests.documentation import ROOT

NOTEBOOK = ROOT / "docs" / "first_steps.ipynb"
REASON = "the notebook is run by packages of the extra dev: pip install nbclient ipykernel"


@pytest.fixture
def notebook():
    nbformat = pytest.importorskip("nbformat", reason=REASON)
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_short_and_holds_no_outputs(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert 8 <= len(code) <= 10
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.filterwarnings("default")  # of Jupyter's own packages
def test_it_runs(notebook, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason=REASON)
    pytest.importorskip("ipykernel", reason=REASON)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    last = notebook.cells[-2].copy()
    last.source = "print(ours.calibrated[3], theirs.calibrated[3], ours.uncalibrated[0])"
    notebook.cells.append(last)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    ours, theirs, start = (float(word) for word in notebook.cells[-1].outputs[0].text.split())
    assert min(ours, theirs) > 0.9 > start
    kept = {path.name for path in (tmp_path / "runs" / "first_steps").iterdir()}
    assert kept == {"snn.safetensors", "snn.json", "results.json", "report.html"}
