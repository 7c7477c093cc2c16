"""Weights from a file: safetensors, a PyTorch state dict, or a checkpoint of other training code that holds one."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from ftbc_pl.models.contents import read_contents
from ftbc_pl.models.images import IMAGES, checked, remember_images
from ftbc_pl.models.inert import Inert
from ftbc_pl.models.matching import Match, match_names

SHOWN = 5
# Where training code keeps the state dict; averaged weights first, as in timm, since they are the better ones.
_PLACES = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model", "network", "net")

__all__ = ["assign_weights", "load_weights", "read_checkpoint_state", "read_trained", "read_weights"]


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a file without running any code in it.

    The state dict may lie inside a checkpoint, beside settings and states of optimizers. Its names are as they stand
    in the file; `assign_weights` finds the prefix that training code has put before them.

    Raises:
        FileNotFoundError: There is no file at `path`.
        ValueError: The file is damaged or holds no state dict; lists the keys found.
    """
    return read_trained(path)[0]


def read_trained(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state dict as `read_weights` does, and what the file says of the images that it was trained with.

    Returns:
        The state dict, and what `ftbc_pl.models.images` keeps of a network's images; empty for files of other code.

    Raises:
        FileNotFoundError: There is no file at `path`.
        ValueError: The file is damaged or holds no state dict; lists the keys found.
    """
    path = Path(path)
    content = read_contents(path)
    images = checked(content.get(IMAGES)) if isinstance(content, dict) else {}
    place: list[str] = []
    while (state := _tensors(content)) is None:
        key = _place(content, path, place)
        place.append(key)
        content = content[key]
    if place and place[-1] in _PLACES[:3]:
        rank_zero_info(f"{path} holds averaged weights: those of {'.'.join(place)} are taken.")
    return state, images


def read_checkpoint_state(path: str | Path) -> dict[str, Tensor]:
    """Return the `state_dict` of a Lightning checkpoint, whatever objects its hyper-parameters are.

    Neither these nor anything else in the file is imported or called.

    Raises:
        FileNotFoundError: There is no file at `path`.
        ValueError: The file is damaged or no checkpoint; lists the keys found.
    """
    path = Path(path)
    content = read_contents(path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    # Modules may add values of their own, which are no weights.
    weights = {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, dict) else {}
    if not weights:
        raise ValueError(f"expected a checkpoint with a state_dict of tensors in {path}, got {_described(content)}")
    return weights


def load_weights(network: nn.Module, path: str | Path, *, reset_head: bool = False) -> nn.Module:
    """Load the weights in a file into `network`, in place, and return the network: `read_weights`, `assign_weights`."""
    weights, images = read_trained(path)
    assign_weights(network, weights, path, reset_head=reset_head)
    remember_images(network, images)
    return network


@torch.no_grad()
def assign_weights(
    network: nn.Module, weights: Mapping[str, Tensor], source: str | Path, *, reset_head: bool = False
) -> nn.Module:
    """Give `network` the weights read from the file `source`, in place, and return the network.

    Every parameter and buffer must be there with the same shape; only the batch counters of normalisation layers may be
    missing. Names may begin with whatever training code puts before them (`module.`, `model.`, `_orig_mod.`, …):
    what fits the network's own names is taken, and nothing else may be there beside it.

    Args:
        network: The network.
        weights: Tensors by name.
        source: Where they come from, for errors.
        reset_head: Whether the classifier keeps the weights it has where those in the file have other shapes, or are
            missing: for another number of classes.

    Raises:
        ValueError: The weights belong to another network, lists missing and unexpected keys and differing shapes; or
            they are broken (NaN).
    """
    own = network.state_dict()
    match = match_names([key for key in own if not key.endswith("num_batches_tracked")], weights)
    names = dict(match.names) | _counters(own, weights, match)
    given = {names[key]: value for key, value in weights.items() if key in names}
    head = _head_names(network, own, given) if reset_head else []
    _check_match(network, match, given, own, source, head)
    _check_numbers(network, given, own, source)
    taken = {key: value for key, value in given.items() if key not in head}
    try:
        network.load_state_dict(taken, strict=False)
    except RuntimeError as error:  # sparse or quantised tensors
        raise ValueError(f"the tensors in {source} can't be copied to {type(network).__name__}: {error}") from error
    if head:
        rank_zero_info(f"The classifier ({', '.join(head)}) keeps its start: {source} has another number of classes.")
    if match.aside:
        rank_zero_info(f"Of {source}, the weights below {match.prefix!r} are taken; left aside: {_shown(match.aside)}.")
    return network


def _counters(own: Mapping[str, Tensor], weights: Iterable[str], match: Match) -> dict[str, str]:
    """Names of the batch counters, which `match_names` has taken for unexpected: they lie beside variances."""
    counters, known = {}, set(weights)
    for found, name in match.names.items():
        beside, counter = found.removesuffix("running_var"), name.removesuffix("running_var") + "num_batches_tracked"
        if found != beside and counter in own and beside + "num_batches_tracked" in known:
            counters[beside + "num_batches_tracked"] = counter
    return counters


def _check_match(
    network: nn.Module,
    match: Match,
    given: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    source: str | Path,
    head: list[str],
) -> None:
    if match.rivals:
        raise ValueError(
            f"{source} holds several networks that fit {type(network).__name__}, below "
            f"{_shown([match.prefix, *match.rivals])}; save the one that is meant in a file of its own"
        )
    missing = [k for k in own if k not in given and not k.endswith("num_batches_tracked") and k not in head]
    unexpected = [key for key in match.unexpected if not key.endswith("num_batches_tracked")]
    shapes = [
        f"{key}: network {tuple(own[key].shape)}, file {tuple(given[key].shape)}"
        for key in own
        if key in given and own[key].shape != given[key].shape and key not in head
    ]
    if not (missing or unexpected or shapes):
        return
    titles = (("missing keys", missing), ("unexpected keys", unexpected), ("differing shapes", shapes))
    problems = [f"{len(keys)} {title} ({_shown(keys)})" for title, keys in titles if keys]
    found = "" if unexpected or not match.aside else f"; the file has {_shown(match.aside)}"
    hint = _hint(network, own, given, missing, shapes)
    raise ValueError(
        f"the weights in {source} are not those of {type(network).__name__}: {', '.join(problems)}{found}; "
        f"give the network's name and number of classes for which they were trained{hint}"
    )


def _hint(
    network: nn.Module, own: Mapping[str, Tensor], given: Mapping[str, Tensor], missing: list[str], shapes: list[str]
) -> str:
    head = set(_head_names(network, own, given))
    differing = {*missing, *(line.partition(":")[0] for line in shapes)}
    return ", or pass reset_head=true to keep the start of the classifier" if differing and differing <= head else ""


def _head_names(network: nn.Module, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Names of the classifier's tensors that the file lacks or has in another shape."""
    config = getattr(network, "pretrained_cfg", None) or {}
    named = config.get("classifier") if hasattr(config, "get") else None
    modules = [named] if isinstance(named, str) else list(named or ())
    if not modules:  # not of timm: the last layer
        modules = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1:]
    inside = [key for key in own if any(module == "" or key.startswith(f"{module}.") for module in modules)]
    return [key for key in inside if key not in given or given[key].shape != own[key].shape]


def _check_numbers(
    network: nn.Module, given: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str | Path
) -> None:
    """Refuse what copying would make numbers of silently: NaN, integers of quantised weights, complex numbers."""
    odd = [key for key, v in given.items() if v.layout != torch.strided or v.is_meta or v.is_quantized]
    if odd:
        raise ValueError(
            f"the tensors in {source} are sparse, quantised or without values: {_shown(odd)}; save dense ones"
        )
    others = {key: value for key, value in given.items() if not key.endswith("num_batches_tracked")}
    kinds = [k for k, v in others.items() if own[k].is_floating_point() != v.is_floating_point()]
    if kinds:
        pairs = [f"{key}: network {own[key].dtype}, file {given[key].dtype}" for key in kinds]
        raise ValueError(f"the weights in {source} are numbers of another kind: {_shown(pairs)}; save them in 32 bits")
    broken = broken_tensors(network, given)
    if broken:
        raise ValueError(
            f"the weights in {source} are broken, NaN or infinite in {_shown(broken)}: the training that wrote them "
            "diverged; take an earlier checkpoint"
        )


def broken_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN, or infinite parameters or statistics; a mask may be infinite."""
    finite = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    broken = []
    for name, value in tensors.items():
        if value.is_floating_point():
            strict = name in finite or name.rpartition(".")[2] in ("running_mean", "running_var")
            if not (value.isfinite().all() if strict else not value.isnan().any()):
                broken.append(name)
    return broken


def _tensors(content: Any) -> dict[str, Tensor] | None:
    """Return a state dict as it is, or None if the content is none; the odd number beside the tensors is left out."""
    if not isinstance(content, dict):
        return None
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    plain = not any(isinstance(value, dict) and _tensors(value) for value in content.values())
    return tensors if tensors and plain and any("." in k or k in ("weight", "bias") for k in tensors) else None


def _place(content: Any, path: Path, inside: list[str]) -> str:
    """Return the key below which the state dict lies."""
    if isinstance(content, dict) and len(inside) < 4:
        dicts = [k for k, v in content.items() if isinstance(k, str) and isinstance(v, dict) and v]
        known = [key for key in _PLACES if key in dicts and _leads_to_tensors(content[key])]
        if known:
            return known[0]
        others = [key for key in dicts if _leads_to_tensors(content[key])]
        if len(others) == 1:
            return others[0]
    raise ValueError(f"expected a state dict (names and tensors) in {path}, got {_described(content)}")


def _leads_to_tensors(content: Any, depth: int = 3) -> bool:
    if _tensors(content) is not None:
        return True
    return isinstance(content, dict) and depth > 0 and any(_leads_to_tensors(v, depth - 1) for v in content.values())


def _described(content: Any) -> str:
    if isinstance(content, Inert) and not content:
        return "a whole object; save its state_dict(), tensors only"
    if isinstance(content, dict):
        keys = [f"{key} ({type(value).__name__})" for key, value in content.items()]
        return f"a dictionary with the keys {_shown(keys, 12)}; name one of them state_dict" if keys else "nothing"
    return f"{type(content).__name__} with other content; save the state_dict() of the network"


def _shown(items: Iterable[object], limit: int = SHOWN) -> str:
    texts = [str(item) for item in items]
    return "; ".join(texts[:limit]) + ("; …" if len(texts) > limit else "")
