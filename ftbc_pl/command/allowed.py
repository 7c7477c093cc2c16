"""What a configuration may name and how large it may be: checked before anything that it names is called."""

import importlib
import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import LayerSync, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

# What each section of a configuration may name; the arguments of these classes may name any of them.
SECTIONS: dict[str, tuple[type, ...]] = {
    "optimizer": (Optimizer,),
    "lr_scheduler": (LRScheduler, ReduceLROnPlateau),
    "model.optimizer": (Optimizer,),
    "model.lr_scheduler": (LRScheduler, ReduceLROnPlateau),
    "data": (LightningDataModule,),
    "trainer.logger": (Logger,),
    "trainer.callbacks": (Callback,),
    "trainer.strategy": (Strategy,),
    "trainer.accelerator": (Accelerator,),
    "trainer.profiler": (Profiler,),
    "trainer.plugins": (Precision, ClusterEnvironment, CheckpointIO, LayerSync),
}
_ANY = tuple(dict.fromkeys(base for bases in SECTIONS.values() for base in bases))
MOST_NODES = 20_000
DEEPEST = 60
_KEYS = ("class_path", "_class_path")


def check_classes(config: Any) -> None:
    """Check that all that a parsed configuration would call are classes of the kinds that its sections take.

    Functions are refused altogether: whatever a function returns, it has run by then.

    Args:
        config: A subcommand's configuration after parsing, before anything in it is made.

    Raises:
        ValueError: It names something else, and says where and what is taken there; or a number is NaN.
    """
    for place, key, value in _entries(config):
        if key in _KEYS:
            _check_class(place, str(value))
        elif isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{place.replace('.init_args', '')} is no number (NaN).")
        elif callable(value):
            name = getattr(value, "__qualname__", type(value).__name__)
            raise ValueError(
                f"{place} names {getattr(value, '__module__', '')}.{name}: a configuration can name classes only"
                f"{_kinds(place)}, since a function of its choice could run anything."
            )


def _check_class(place: str, path: str) -> None:
    bases = _bases(place)
    if bases is None:
        raise ValueError(f"{place} names the class {path}, where only plain values are taken.")
    named = resolve(path)
    if not (inspect.isclass(named) and issubclass(named, bases)):
        raise ValueError(f"{place} names {path}, which is not one of the classes taken there{_kinds(place)}.")


def resolve(path: str) -> Any:
    """What a dotted path names, None where there is nothing; the parser has imported its module already."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        owner = resolve(module) if "." in module else None
        return getattr(owner, name, None)


def _bases(place: str) -> tuple[type, ...] | None:
    """The classes of which a place in a configuration takes subclasses, None where it takes no class."""
    section, inside, _ = place.partition(".init_args")
    own = SECTIONS.get(section.partition("[")[0])
    return _ANY if own is not None and inside else own


def _kinds(place: str) -> str:
    bases = _bases(place)
    return f" ({', '.join(base.__name__ for base in bases)})" if bases else ""


def _entries(value: Any, place: str = "") -> Iterator[tuple[str, str, Any]]:
    """Each entry of a configuration that could be called, with its place and key."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in _KEYS:
                yield place, str(key), item
            elif key in ("init_args", "dict_kwargs"):
                yield from _entries(item, f"{place}.init_args")
            else:
                yield from _entries(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple | set):
        for number, item in enumerate(value):
            yield from _entries(item, f"{place}[{number}]")
    elif not isinstance(value, os.PathLike):
        yield place, "", value


def bounded(load: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader of YAML that refuses texts which expand to far more than they are.

    Ten lines of anchors and aliases can stand for more values than fit into memory.

    Args:
        load: The reader that is called if the text is of a sensible size.
    """

    def load_bounded(text: str) -> Any:
        check_size(text)
        return load(text)

    return load_bounded


def check_size(text: str) -> None:
    """Check how many values a text of YAML stands for, how deep they lie, and that each key is there once.

    Raises:
        ValueError: They are too many, or a key is there twice, of which YAML would take the last.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        nodes, depth = _size(root, {}) if root is not None else (0, 0)
    except RecursionError:
        nodes, depth = 0, DEEPEST + 1
    except yaml.YAMLError:
        return  # the reader says what is wrong
    if nodes > MOST_NODES or depth > DEEPEST:
        raise ValueError(
            f"expected a configuration of at most {MOST_NODES} values, {DEEPEST} deep, got one that stands for "
            f"{nodes:.3g}, {depth} deep: write out what its aliases repeat, or shorten it"
        )
    if root is not None:
        _check_keys(root)


def _check_keys(root: yaml.Node) -> None:
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                waiting.append(value)
                name, line = str(key.value), key.start_mark.line + 1
                if name in lines and name != "<<":
                    raise ValueError(
                        f"expected each key of a configuration once, got {name} in line {lines[name]} and again in "
                        f"line {line}: leave one out"
                    )
                lines[name] = line
        else:
            waiting += node.value


def _size(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Number of values below a node, and their depth, each alias counted as often as it is used."""
    found = known.get(id(node))
    if found is None:
        known[id(node)] = MOST_NODES + 1, 0  # an alias of a node inside itself has no end
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        sizes = [] if isinstance(node, yaml.ScalarNode) else [_size(part, known) for part in parts]
        found = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
        known[id(node)] = found
    return found
