"""What is wrong with a command line or configuration, in a line or two, from jsonargparse's words."""

import argparse
import difflib
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

from ftbc_pl.command.allowed import SECTIONS, resolve

_TYPE = re.compile(r"Expected an? (?:<class '([\w.]+)'>|typing\.Literal\[([^\]]*)\])")
_NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_NO_OPTION = re.compile(
    r"(?:Option '(?P<own>[^']+)' is not accepted|(?P<kind>Group|Subcommand) '(?P<owner>[^']+)' does not accept option "
    r"'(?P<other>[^']+)')"
)
_CLASS = re.compile(r"class_path[ =]'([^']+)'")
_KEY = re.compile(r'Parser key "([^"]+)":?')
_GOT = re.compile(r"(?:Got value|Given value): (.*)")
_WORDS = {
    "NoneType": "null",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "dict": "a mapping",
}
# What jsonargparse says of its own working.
_INNER = ("Does not validate", "Subtypes:", "Errors:", "Given value", "Expected a <class 'NoneType'>")


def explain(message: str, parser: Any) -> str:
    """Say in a line or two what is wrong, with a name that is near where one is misspelt.

    Args:
        message: What jsonargparse says.
        parser: The parser that says it.
    """
    key = ".".join(dict.fromkeys(_KEY.findall(message)))
    for explanation in (_unrecognized, _missing, _no_sections, _no_option, _no_class, _abstract, _wrong_value):
        said = explanation(message, key, parser)
        if said:
            return said
    kept = [line.strip().removeprefix("- ") for line in _KEY.sub("", message).splitlines()]
    text = "; ".join(line for line in kept if line and not line.startswith(_INNER))
    return f"{key}: {text}" if key else text


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """A question with the name that is nearest, empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def _unrecognized(message: str, key: str, parser: Any) -> str:
    if not message.startswith("unrecognized arguments: "):
        return ""
    given = message.removeprefix("unrecognized arguments: ").split()[0]
    option = given.partition("=")[0]
    if not parser.subcommand:
        return f"{option} is not accepted before the command: put it behind, as in ftbc-pl fit {given}"
    if not option.startswith("-"):
        return f"expected options, which start with --, got {given!r}"
    return f"there is no option {option}{did_you_mean(option, _options(parser))}"


def _missing(message: str, key: str, parser: Any) -> str:
    found = re.match(r"the following arguments are required: (.*)", message)
    if not found:
        return ""
    names = [name.partition(".")[2] if "." in name else name for name in found[1].split(", ")]
    places = {action.dest for action in parser._actions if not action.option_strings}
    wanted = [name.upper() if name in places else f"--{name}" for name in names]
    kinds = _listed(class_names("data"))
    hint = f": --data.root FOLDER of images, a data module ({kinds}), or a --config that names one"
    hint = hint if "data" in names else ""
    return f"expected {' and '.join(wanted)}{hint}"


def _no_sections(message: str, key: str, parser: Any) -> str:
    if not message.startswith("Unexpected config:"):
        return ""
    got = " ".join(message.removeprefix("Unexpected config:").split())
    return f"expected a configuration of sections (model, data, trainer …), got {repr(got) if got else 'an empty file'}"


def _no_option(message: str, key: str, parser: Any) -> str:
    found = _NO_OPTION.search(message)
    if not found:
        return ""
    if found["own"] is None:
        name = f"{found['owner']}.{found['other']}" if found["kind"] == "Group" else found["other"]
        return f"there is no option {name}{did_you_mean(f'--{name}', _options(parser)).replace('--', '')}"
    named = _CLASS.search(message)
    if named is None:
        return f"there is no option {found['own']}{did_you_mean('--' + found['own'], _options(parser))}"
    known = list(_arguments(resolve(named[1])))
    hint = did_you_mean(found["own"], known, f"{key}.") or f"; it has {', '.join(known)}"
    return f"{named[1].rpartition('.')[2]} has no option {key}.{found['own']}{hint}"


def _no_class(message: str, key: str, parser: Any) -> str:
    found = _NO_CLASS.search(message)
    if not found:
        return ""
    names = class_names(key)
    there = f"; there are {', '.join(names)}" if names and len(names) < 10 else ""
    hint = did_you_mean(found[1], names) or f"{there}; one of your own is named as module.Class"
    return f"{f'{key}: ' if key else ''}expected a class, got {found[1]!r}{hint}"


def _abstract(message: str, key: str, parser: Any) -> str:
    if "is abstract" not in message:
        return ""
    return f"expected --{key} to name a class, {_listed(class_names(key))}, beside --{key}.… and other options of it"


def _wrong_value(message: str, key: str, parser: Any) -> str:
    got = _GOT.search(message)
    types = list(dict.fromkeys(_TYPE.findall(message[: got.start()] if got else message)))
    if not types or not got:
        return ""
    choices = [choice.strip("' ") for _, literal in types for choice in literal.split(",") if literal]
    names = [name for name, _ in types if name and not (name == "int" and ("float", "") in types)]
    words = [_WORDS.get(name, name.rpartition(".")[2]) for name in names if name != "NoneType"]
    value = got[1].strip()
    expected = " or ".join(dict.fromkeys([*choices, *words])) or "null"
    return f"{key}: expected {expected}, got {value!r}{did_you_mean(value, choices)}"


def class_names(place: str) -> list[str]:
    """Names of the classes that a section of a configuration takes, as far as they are imported."""
    found = {name: None for base in SECTIONS.get(place, ()) for name in _below(base)}
    return sorted(found)


def _below(base: type) -> Iterator[str]:
    cls: type
    for cls in base.__subclasses__():
        hidden = cls.__name__.startswith("_") or inspect.isabstract(cls)
        if not hidden and resolve(f"{cls.__module__}.{cls.__qualname__}") is cls:  # as a configuration would name it
            yield cls.__name__
        yield from _below(cls)


def _arguments(cls: Any) -> Iterator[str]:
    """Names of the arguments that a class and those above it take."""
    known: dict[str, None] = {}
    for owner in getattr(cls, "__mro__", ()):
        if "__init__" in vars(owner):
            parameters = list(inspect.signature(owner.__init__).parameters.values())[1:]
            known |= {p.name: None for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    yield from known


def _options(parser: Any) -> list[str]:
    return [
        option
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and not option.endswith("+") and action.help != argparse.SUPPRESS
    ]


def _listed(names: list[str]) -> str:
    return " or ".join(names)
