"""Forward hooks of a user's own: those that only look on have no place in a spiking network, the others are part of it.

Which is which is found out by running the network without them, to the bit: a hook may change an output, a weight, or
keep what a later layer reads.
"""

import copy
import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ftbc_pl.conversion.precision import Double

_log = logging.getLogger("ftbc_pl")
_KINDS = ("_forward_hooks", "_forward_pre_hooks")


class _Hook(NamedTuple):
    path: str
    kind: str
    key: int
    name: str


@torch.no_grad()
def drop_observers_(network: nn.Module, example: Tensor) -> list[str]:
    """Take the hooks off a network, in place, without which it computes the same; hooks of gradients too.

    Args:
        network: A copy of the ANN in eval mode.
        example: A small input batch (B, ...).

    Returns:
        `path (function)` of each forward hook that was taken off.
    """
    for module in network.modules():
        for kind in ("_backward_hooks", "_backward_pre_hooks"):
            getattr(module, kind).clear()
    hooks = _own_hooks(network)
    if not hooks:
        return []
    reference = _outputs(network, example, ())
    if reference is None:
        return []  # what is wrong shows without hooks, too
    dropped: list[_Hook] = []
    if _same(_outputs(network, example, hooks), reference):
        dropped = hooks
    else:
        for hook in hooks:
            if _same(_outputs(network, example, [*dropped, hook]), reference):
                dropped.append(hook)
    _remove(network, dropped)
    names = [f"{hook.path or '(network)'} ({hook.name})" for hook in dropped]
    if names:
        _log.warning("Left out of the spiking network, since they change nothing: the forward hooks of %s.", names)
    return names


def _own_hooks(network: nn.Module) -> list[_Hook]:
    """All forward hooks that are not torch's own, such as those of its weight normalisation."""
    found = []
    for path, module in network.named_modules():
        for kind in _KINDS:
            for key, hook in getattr(module, kind).items():
                source = getattr(hook, "__module__", None) or type(hook).__module__
                if not source.startswith("torch."):
                    found.append(_Hook(path, kind, key, getattr(hook, "__name__", type(hook).__name__)))
    return found


def _remove(network: nn.Module, hooks: Iterable[_Hook]) -> None:
    for path, kind, key, _ in hooks:
        module = network.get_submodule(path)
        for name in (kind, f"{kind}_with_kwargs", f"{kind}_always_called"):
            getattr(module, name, {}).pop(key, None)


def _outputs(network: nn.Module, example: Tensor, without: Iterable[_Hook]) -> list[Any] | None:
    """Outputs of a copy without some hooks in float64, where a weight that a hook no longer computes is of no use."""
    other = copy.deepcopy(network)
    _remove(other, without)
    try:
        with Double():
            return tree_leaves(other.double()(example.double()))
    except Exception:
        return None


def _same(outputs: list[Any] | None, reference: list[Any]) -> bool:
    if outputs is None or len(outputs) != len(reference):
        return False
    return all(
        not isinstance(exact, Tensor) or (isinstance(out, Tensor) and out.shape == exact.shape and _equal(out, exact))
        for out, exact in zip(outputs, reference, strict=True)
    )


def _equal(out: Tensor, exact: Tensor) -> bool:
    return torch.allclose(out, exact, rtol=0, atol=0, equal_nan=True)
