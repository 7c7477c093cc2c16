"""Configs say only what differs from the defaults, and say what to expect of them."""

from pathlib import Path

import pytest
import yaml

from ftbc_pl.cli import main

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
# An overlay comes after another config, so a value of it may be a default that the other one has changed.
OVERLAYS = {path for path in CONFIGS if path.read_text().startswith("# Overlay:")}


def leaves(section, prefix=""):
    for key, value in section.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def defaults(data, capsys):
    """Every setting of a run that names nothing but its data, by its dotted name."""
    with pytest.raises(SystemExit):
        main(["fit", "--print_config", f"--data={data}", *(["--data.root=FOLDER"] if data == "ImageData" else [])])
    return dict(leaves(yaml.safe_load(capsys.readouterr().out)))


@pytest.mark.parametrize("path", sorted(set(CONFIGS) - OVERLAYS), ids=lambda path: path.stem)
def test_a_config_repeats_no_default(path, capsys):
    config = yaml.safe_load(path.read_text())
    known = defaults(config["data"]["class_path"], capsys)
    for name in ("optimizer", "lr_scheduler"):
        # Another class has other defaults.
        if not known[f"{name}.class_path"].endswith(config.get(name, {}).get("class_path", "")):
            del config[name]
    del config["data"]["class_path"]
    repeated = [f"{key}: {value}" for key, value in leaves(config) if known.get(key, ...) == value]
    assert not repeated


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_says_what_to_expect_and_the_command(path):
    header = path.read_text().split("\n#\n")
    assert header[0].startswith("# ")
    text = path.read_text()
    assert "# Command:  python -m ftbc_pl fit --config configs/" in text
    if path not in OVERLAYS:
        assert "# Expected: " in text
        assert "# Cost:     " in text
