"""The script behind the table of docs/energy.md runs, on small data."""

import pytest

from tests.benchmarks.test_benchmarks import benchmarks_are_importable, cifar_like, run, table_of

__all__ = ["benchmarks_are_importable", "cifar_like"]


@pytest.mark.slow
def test_energy(cifar_like, monkeypatch, capsys):
    options = ["--data", str(cifar_like), "--images", "20", "--exit_images", "20", "--validation", "20"]
    run(monkeypatch, "energy", *options, "--num_steps", "3", "--losses", "0.9", "0.01")
    rows = table_of(capsys.readouterr().out)
    names = [row[0] for row in rows[2:]]
    assert names == ["ANN", "T = 1", "T = 2", "T = 3", "early exit, loss 0.9", "early exit, loss 0.01"]
    table = {row[0]: row[1:] for row in rows[2:]}
    assert table["ANN"][3:6] == ["40.81 M", "100.0 %", "100.0 %"]
    # With 20 images one error is one too many for the smaller loss.
    assert table["early exit, loss 0.01"][2:] == table["T = 3"][2:]
    assert table["T = 3"][-1] == "0.00 %"
    energies = [float(table[f"T = {t}"][4].rstrip(" %")) for t in (1, 2, 3)]
    assert energies == sorted(energies)
