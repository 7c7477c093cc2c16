"""Options given beside a checkpoint or a saved network: what fits is taken, what can't take effect is refused.

A checkpoint holds the hyper-parameters of its network, a saved spiking network how it was made. Options that say the
same are in order, as where the configuration of a run is given again; options that say otherwise are an error.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_warn

from ftbc_pl.command.allowed import check_size
from ftbc_pl.models.contents import read_contents
from ftbc_pl.models.images import CLASSES, IMAGES, checked
from ftbc_pl.options import CalibrationOptions, ConversionOptions
from ftbc_pl.task import STARTED_FROM

# Hyper-parameters of a checkpoint that may change: the weights don't depend on them.
FREE = ("label_smoothing", "channels_last", "compile")
# Where the training that wrote a checkpoint started from: its history.
HISTORY = ("weights", "pretrained")
# Options of the section ftbc that say how a saved network is run, not how it was made.
_HERE = ("output_dir", "overwrite", "analysis", "time_chunk", "memory_limit", "compile", "precision")


def check_weights(command: str, config: Namespace) -> None:
    """Check that a network that is not trained comes with weights: an error where results would be made of it.

    Args:
        command: The subcommand.
        config: Its whole configuration.

    Raises:
        ValueError: `calibrate` or `compare` have random weights.
    """
    model = config.model
    sources = (model.weights, model.pretrained, config.get("ckpt_path"), config.get("snn_path"))
    if command == "fit" or any(sources) or "checkpoint_path" in (model.network_args or {}):
        return
    said = "No weights were given, so the network has random ones: name --ckpt_path, --model.weights or"
    if command in ("calibrate", "compare"):
        raise ValueError(f"{said} --model.pretrained true.")
    rank_zero_warn(f"{said} --model.pretrained true, or --snn_path.")


def check_beside_checkpoint(given: Mapping[str, Any], recorded: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the hyper-parameters with which the network of a checkpoint is built.

    Args:
        given: Options of the section model that were given, in a file or on the command line.
        recorded: Hyper-parameters in the checkpoint.
        path: The checkpoint.

    Raises:
        ValueError: An option was given that says something else than the checkpoint.
    """
    if "network" not in recorded:  # written by other code
        if given.get("weights") is not None or given.get("pretrained"):
            raise ValueError(
                f"Weights are given twice: all come from {path}, so leave model.weights and model.pretrained out, or "
                "ckpt_path."
            )
        return {}
    known = {key: value for key, value in recorded.items() if not key.startswith("_") and key not in HISTORY}
    for key, value in given.items():
        if key in known and key not in FREE and plain(value) != plain(known[key]):
            raise ValueError(
                f"model.{key} is {plain(value)}, but the network of {path} has {key} {plain(known[key])}: leave "
                f"model.{key} out, or give a checkpoint of such a network."
            )
    source = given.get("weights")
    if source is not None and "weights" in recorded and source != recorded["weights"]:
        raise ValueError(
            f"model.weights is {source}, but all weights come from {path}, whose training started from "
            f"{recorded['weights'] or 'none'}: leave model.weights or ckpt_path out."
        )
    free = {key: given[key] for key in FREE if key in given}
    return known | free | {"weights": None, "pretrained": False}


def check_beside_saved(given: Mapping[str, Any], path: str) -> dict[str, dict[str, Any]]:
    """Return what a configuration must say for it to describe a saved spiking network, by section.

    Fewer timesteps than it was made for, and the plain mean as its readout, may be asked for.

    Args:
        given: The sections model and ftbc, as far as they were given.
        path: Where the network was saved, as `ftbc_pl.load_snn` takes it.

    Raises:
        ValueError: An option was given that says something else, or of which nothing is known.
    """
    made = how_it_was_made(path)
    for section, kept in (("model", (*FREE, *HISTORY)), ("ftbc", _HERE)):
        for key, value in (given.get(section) or {}).items():
            if key in kept or not made:
                continue
            if key not in made[section]:
                raise ValueError(
                    f"{section}.{key} takes no effect on the network saved in {path}, which is made already: leave it "
                    "out, or make a network with fit or calibrate."
                )
            if plain(value) == plain(made[section][key]):
                continue
            if section == "ftbc" and _can_change(key, value, made["ftbc"]):
                made["ftbc"][key] = value
            else:
                raise ValueError(
                    f"{section}.{key} is {plain(value)}, but the network in {path} was made with {key} "
                    f"{plain(made[section][key])}: leave {section}.{key} out, or make such a network with fit or "
                    "calibrate."
                )
    source = (given.get("model") or {}).get("weights")
    if made and source is not None and source != made["model"]["weights"]:
        raise ValueError(
            f"model.weights is {source}, but the network saved in {path} has its weights already: leave model.weights "
            "out, or make a network of them with calibrate."
        )
    if made and (made["ftbc"].get("horizon") or 0) > made["ftbc"]["num_steps"]:
        made["ftbc"]["horizon"] = None  # a step that is not simulated now
    return made | {"model": made["model"] | {"weights": None}} if made else made


def count_classes(path: str) -> int | None:
    """The number of classes whose names a checkpoint or a saved network holds; None where it holds none.

    Args:
        path: The checkpoint, or where the network was saved.
    """
    file = _description(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else read_contents(Path(path))
    except (OSError, ValueError):  # loading it will say why
        return None
    return len(checked(content.get(IMAGES)).get(CLASSES, ())) or None if isinstance(content, dict) else None


def _can_change(key: str, value: Any, made: Mapping[str, Any]) -> bool:
    """Whether a saved network serves for an option that says otherwise than how it was made."""
    if key == "num_steps":
        return isinstance(value, int) and 1 <= value <= int(made["num_steps"])
    return key == "readout" and value == "mean"


def how_it_was_made(path: str) -> dict[str, dict[str, Any]]:
    """The options of the sections model and ftbc with which a saved network was made.

    Those of its run's configuration, where that lies beside it, and those that the network's own file states. Nothing
    where that can't be read: loading the network will say why.
    """
    file = _description(path)
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        config = _read_config(file.with_name("config.yaml"))
        sections = {name: dict(config.get(name) or {}) for name in ("model", "ftbc")}
        sections["ftbc"] = {key: value for key, value in sections["ftbc"].items() if key not in _HERE}
        sections["model"] |= dict(_network(saved["network"] or {})) | {"pretrained": False}
        sections["model"].setdefault("weights", None)
        sections["ftbc"] = _calibration(saved["report"] or {}) | sections["ftbc"] | dict(_conversion(saved))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return {}
    return sections


def _description(path: str) -> Path:
    place = Path(path)
    if place.is_dir():
        return place / "snn.json"
    return place.with_suffix(".json") if place.suffix in (".json", ".safetensors") else Path(f"{path}.json")


def _read_config(path: Path) -> dict[str, Any]:
    """The configuration that lies beside a saved network; nothing where there is none that can be read."""
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        check_size(text)
        config = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def _conversion(saved: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    parts = ((ConversionOptions, saved["conversion"]), (CalibrationOptions, saved["report"] or {}))
    for part, values in parts:
        for field in fields(part):
            if field.name in values and field.name not in _calibration(values):
                yield field.name, values[field.name]


def _calibration(report: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the calibration that its report states in other words."""
    weights = report.get("readout_weights")
    if not weights:
        return {}
    return {
        "readout": "mean" if len(set(weights)) == 1 else "least_squares",
        "weights": "ridge" if report.get("weights") else "keep",
    }


def _network(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The hyper-parameters of the network that a saved one states."""
    if "name" not in recipe:
        return
    yield "network", recipe["name"]
    for key in ("in_chans", "pooling"):
        if key in recipe:
            yield key, recipe[key]
    prepared = recipe.get("prepare") or {}
    yield "activation", prepared.get("activation", "relu")
    if "levels" in prepared:
        yield "levels", prepared["levels"]


def plain(value: Any) -> Any:
    """A value with containers of plain Python, so that it compares with one read from a file."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def check_path(path: str) -> bool:
    """Whether a checkpoint is a file of this machine, not one that Lightning finds by a word or downloads.

    Raises:
        FileNotFoundError: There is nothing at that path.
        ValueError: It is a saved spiking network.
    """
    if path in ("best", "last", "hpc", "registry") or path.startswith("registry:") or "://" in path:
        return False
    if not Path(path).exists():
        raise FileNotFoundError(f"There is no checkpoint {path}: correct ckpt_path.")
    if (Path(path) / "snn.json").is_file() or Path(path).name in ("snn.json", "snn.safetensors"):
        raise ValueError(f"{path} is a saved spiking network, no checkpoint: use --snn_path.")
    return Path(path).is_file()


def hyper_parameters(path: str, whole: bool = True) -> dict[str, Any]:
    """The hyper-parameters in a checkpoint, with where its training started from; no code in the file is run.

    Args:
        path: The checkpoint.
        whole: Whether it must be one of Lightning's, and not only weights.

    Raises:
        ValueError: It can't be read, or is none.
    """
    content = read_contents(Path(path))
    if whole and not (isinstance(content, dict) and isinstance(content.get("state_dict"), dict)):
        raise ValueError(
            f"expected a checkpoint of Lightning in {path}, got a file without a state_dict: give the weights of other "
            "code as model.weights"
        )
    parts = [content.get(key) for key in ("hyper_parameters", STARTED_FROM)] if isinstance(content, dict) else []
    return {key: value for part in parts if isinstance(part, dict) for key, value in part.items()}
