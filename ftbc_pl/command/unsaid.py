"""Options that need not be given: they are found in the folder of images, or follow from where a training starts."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_info

from ftbc_pl.command.allowed import check_size
from ftbc_pl.data.found import are_grey
from ftbc_pl.task import FINE_TUNING_RATE, TRAINING_RATE

_COMMANDS = ("fit", "validate", "test", "predict", "calibrate", "compare")
_IMAGE_DATA = "ImageData"
_UNUSED = {"predict": ("ftbc.output_dir", "ftbc.overwrite")}  # what a subcommand has no use for


class Said:
    """What a command line says, in its arguments and the files that it names, as far as that is plain to see."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """Read the arguments, and the files behind `--config`."""
        self.arguments: dict[str, str] = {}
        self.files: dict[str, Any] = {}
        for name, value in _options(arguments):
            if name in ("config", "c"):
                self.files |= dict(_leaves(_read(value, arguments[0])))
            else:
                self.arguments[name] = value

    def value(self, *names: str) -> Any:
        """The value of the first of these options that is given; what is on the command line comes first."""
        return next((place[name] for place in (self.arguments, self.files) for name in names if name in place), None)

    def any_below(self, section: str) -> list[str]:
        """The options in a section that are given, and the section itself."""
        names = [*self.arguments, *self.files]
        return [name for name in names if name == section or name.startswith(f"{section}.")]


def with_found(arguments: Sequence[str]) -> list[str]:
    """Complete the arguments of a command line by what is found, and say what that is.

    - `--data.root FOLDER` alone is a folder of images.
    - Images without colours make a network for one channel.
    - A training that starts from trained weights takes a lower learning rate, if none is given.

    Args:
        arguments: Those of the command line, the subcommand first.

    Raises:
        ValueError: One of the options can take no effect.
    """
    given = list(arguments)
    if not given or given[0] not in _COMMANDS or {"-h", "--help", "--help.all"} & set(given):
        return given
    said = Said(given)
    unused = [name for name in _UNUSED.get(given[0], ()) if name in said.arguments]
    if unused:
        raise ValueError(f"{unused[0]} takes no effect on {given[0]}: use --output and --overwrite.")
    data = [f"--data={_IMAGE_DATA}"] if "data.root" in said.arguments and not _names_data(said) else []
    found = [*_channels(said, bool(data)), *_learning_rate(said, given[0])]
    return [given[0], *data, *given[1:], *found]


def _names_data(said: Said) -> bool:
    return said.value("data", "data.class_path") is not None


def _channels(said: Said, is_image_data: bool) -> list[str]:
    """The channels of a network for the images of a folder, unless they are given or the network is there already."""
    name = str(said.value("data.class_path", "data") or "").rpartition(".")[2]
    known = said.value("model.in_chans", "snn_path", "ckpt_path") is not None
    if known or not (is_image_data or name == _IMAGE_DATA):
        return []
    channels = said.value("data.in_chans", "data.init_args.in_chans")
    if channels is not None:
        return [f"--model.in_chans={channels}"]
    kind = said.value("data.name", "data.init_args.name")
    root = said.value("data.root", "data.init_args.root")
    split = said.value("data.train_split", "data.init_args.train_split")
    if kind not in (None, "", "folder") or root is None or not are_grey(Path(str(root)), split):
        return []
    said_how = "--model.in_chans 3 makes it three"
    rank_zero_info(f"The images in {root} have no colours: the network takes one channel ({said_how}).")
    return ["--model.in_chans=1"]


def _learning_rate(said: Said, command: str) -> list[str]:
    """A learning rate to train on with, where a training starts from trained weights and none is given."""
    starts = _is_true(said.value("model.pretrained")) or said.value("model.weights") is not None
    options = said.any_below("optimizer")
    name = str(said.value("optimizer.class_path", "optimizer") or "SGD").rpartition(".")[2]
    if command != "fit" or not starts or name != "SGD" or any(option.endswith(".lr") for option in options):
        return []
    rank_zero_info(
        f"The training starts from trained weights: the learning rate is {FINE_TUNING_RATE} instead of "
        f"{TRAINING_RATE} (--optimizer.lr gives another)."
    )
    return [f"--optimizer.init_args.lr={FINE_TUNING_RATE}"]


def _is_true(value: Any) -> bool:
    return str(value).lower() in ("true", "yes", "1")


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and value of each option."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument.startswith("-"):
            name, equals, value = argument.lstrip("-").partition("=")
            yield name, value if equals else "" if following.startswith("--") else following


def _read(path: str, command: str) -> dict[str, Any]:
    """The content of a configuration; nothing where it can't be read, which the parser says better."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        check_size(text)
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    content = content if isinstance(content, dict) else {}
    own = content.get(command)
    return own if isinstance(own, dict) else content


def _leaves(content: Mapping[Any, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """The names, with dots, and values of a configuration that say something."""
    for key, value in content.items():
        name = f"{place}.{key}" if place else str(key)
        if isinstance(value, Mapping):
            yield from _leaves(value, name)
        elif value is not None:
            yield name, value
