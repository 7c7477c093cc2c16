"""How to build a network again from its name: what is written down, and what of it is followed."""

import json
import re
from typing import Any

from torch import nn

from ftbc_pl.conversion.prepare import prepare
from ftbc_pl.models import create_network
from ftbc_pl.models.factory import LOADING_ARGUMENTS

_PLAIN_NAME = re.compile(r"\w+(\.\w+)?", re.ASCII)
# Keys of timm's descriptions of pretrained weights, wherever they stand.
_SOURCES = LOADING_ARGUMENTS | {"custom_load", "file", "hf_hub_filename", "hf_hub_id", "source", "state_dict", "url"}


def recipe(network: nn.Module) -> dict[str, Any] | None:
    """How to build the network again without its weights, or None if only its author can."""
    known = getattr(network, "recipe", None)
    if known is None:
        config = getattr(network, "pretrained_cfg", None) or {}
        if "architecture" not in config:
            return None
        known = {"name": config["architecture"], "num_classes": getattr(network, "num_classes", None)}
    written = dict(known) | {"prepare": getattr(network, "prepared", None)}
    try:
        json.dumps(written, allow_nan=False)
    except (TypeError, ValueError):  # an argument, a class of layers say, that has no name
        return None
    return written


def rebuild(known: Any) -> nn.Module:
    """Build the network that a recipe describes; a recipe can neither read files nor reach the network.

    Raises:
        ValueError: It asks for that, or describes no network of this release; without the name of its file.
    """
    if not isinstance(known, dict) or not isinstance(known.get("name"), str) or "prepare" not in known:
        raise ValueError("expected the name and the arguments of a network under 'network'")
    name = known["name"]
    if not _PLAIN_NAME.fullmatch(name):
        raise ValueError(
            f"the network {name!r} is described outside of timm: pass ann= with its architecture, such as "
            f"create_network({name!r})"
        )
    opened = sorted(_sources(known))
    if opened:
        raise ValueError(f"'network' holds {opened[0]!r}, which may open files: a saved network has no need of it")
    arguments = {key: value for key, value in known.items() if key != "prepare"}
    try:
        network = create_network(**arguments)
        return prepare(network, **known["prepare"]) if known["prepare"] else network
    except Exception as error:  # the arguments decide what a constructor raises
        raise ValueError(
            f"'network' describes none of this release ({type(error).__name__}: {_line(error)})"
        ) from error


def _sources(value: Any) -> set[str]:
    if isinstance(value, dict):
        inside = {key for key in value if key in _SOURCES and value[key] not in (None, False)}
        return inside.union(*(_sources(item) for item in value.values()))
    return set().union(*(_sources(item) for item in value)) if isinstance(value, list) else set()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
