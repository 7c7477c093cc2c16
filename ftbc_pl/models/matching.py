"""Which tensors of a file belong to which tensors of a network, when training code has wrapped the network."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Modules that hold one module and do nothing themselves: DataParallel, torch.compile, FSDP, activation checkpoints.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
# Attributes under which training code keeps the network it trains; decides between several that fit.
_USUAL = ("network", "model", "net", "backbone")

__all__ = ["Match", "match_names"]


@dataclass(frozen=True)
class Match:
    """How names in a file translate to names of a network.

    Attributes:
        names: Name in the network for each name in the file that has one.
        unexpected: Names in the file, below the prefix, that the network does not have.
        aside: Names in the file that are outside of the prefix.
        prefix: What the names in the file begin with, with a dot at its end, or nothing.
        rivals: Other prefixes below which a network lies that fits equally well.
    """

    names: Mapping[str, str]
    unexpected: tuple[str, ...]
    aside: tuple[str, ...]
    prefix: str
    rivals: tuple[str, ...]


def match_names(own: Iterable[str], found: Iterable[str]) -> Match:
    """Find the prefix and the wrappers that make the names `found` in a file those of the network's `own`.

    The prefix is learned from the names themselves: the one below which most of the network's names are.
    """
    own, found = list(own), list(found)
    if set(own) <= set(found):
        names = {name: name for name in own}
        return Match(names, tuple(name for name in found if name not in names), (), "", ())
    own_bare, found_bare = _without_wrappers(own), _without_wrappers(found)
    # The network at hand may be the wrapped one.
    shared = _shared_prefix(own_bare.values())
    own_short = {name: bare.removeprefix(shared) for name, bare in own_bare.items()}
    by_short = {short: name for name, short in own_short.items()}
    counts = _counts(by_short, found_bare.values())
    best = max(counts.values(), default=0)
    if 2 * best < len(own):  # another network altogether
        return _matched(by_short, found_bare, "", ())
    prefixes = sorted((prefix for prefix, count in counts.items() if count == best), key=_preference)
    # Among usual names the order decides; among others nothing but chance would.
    rivals = tuple(prefixes[1:]) if prefixes and _preference(prefixes[0])[0] else ()
    return _matched(by_short, found_bare, prefixes[0] if prefixes else "", rivals)


def _matched(by_short: Mapping[str, str], found: Mapping[str, str], prefix: str, rivals: tuple[str, ...]) -> Match:
    names: dict[str, str] = {}
    unexpected, aside = [], []
    for name, bare in found.items():
        if not bare.startswith(prefix):
            aside.append(name)
        elif bare.removeprefix(prefix) in by_short:
            names[name] = by_short[bare.removeprefix(prefix)]
        else:
            unexpected.append(name)
    wrapper = _shared_wrapper(names)
    outside = [name for name in unexpected if not name.startswith(wrapper)]
    inside = [name for name in unexpected if name.startswith(wrapper)]
    return Match(names, tuple(inside), tuple(aside + outside), prefix or wrapper, rivals)


def _shared_wrapper(names: Iterable[str]) -> str:
    """Return the wrapper that all names begin with, with a dot at its end, or nothing."""
    first = {name.split(".")[0] for name in names}
    return f"{first.pop()}." if len(first) == 1 and first <= _WRAPPERS else ""


def _without_wrappers(names: list[str]) -> dict[str, str]:
    """Leave out the wrappers in each name, unless two names would become one."""
    bare = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in names}
    return bare if len(set(bare.values())) == len(names) else {name: name for name in names}


def _shared_prefix(names: Iterable[str]) -> str:
    """Return the usual attribute, or several, that all names begin with."""
    rest, prefix = list(names), ""
    while rest:
        first = rest[0].split(".")[0]
        if first not in _USUAL or not all(name.startswith(f"{first}.") for name in rest):
            break
        prefix += f"{first}."
        rest = [name.removeprefix(f"{first}.") for name in rest]
    return prefix


def _counts(own: Iterable[str], found: Iterable[str]) -> dict[str, int]:
    """For each prefix in the file, how many of the network's own names it leads to."""
    own, counts = set(own), dict[str, int]()
    for name in found:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in own:
                prefix = "".join(f"{part}." for part in parts[:start])
                counts[prefix] = counts.get(prefix, 0) + 1
    return counts


def _preference(prefix: str) -> tuple[bool, int, list[int], str]:
    parts = prefix.split(".")[:-1]
    known = all(part in _USUAL for part in parts)
    return not known, len(parts), [_USUAL.index(part) for part in parts if part in _USUAL], prefix
