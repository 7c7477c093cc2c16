"""Which part of a LightningModule is the network to convert."""

from collections.abc import Iterator

from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.modules.loss import _Loss
from torchmetrics import Metric, MetricCollection

WHOLE = "self"
# Attributes that hold the network by custom. Those of the second kind often hold a part of it, with a head beside.
_NETWORKS, _PERHAPS_PARTS = ("network", "model"), ("backbone", "net")

__all__ = ["WHOLE", "network_name", "network_of", "place_in_state"]


def network_of(module: LightningModule, attribute: str | None = None) -> nn.Module:
    """The ANN inside a LightningModule.

    Args:
        module: The LightningModule.
        attribute: Which attribute holds the network, with dots to lead further inside; `self`: the module itself, whose
            forward it then is; left out: it is looked for, as `network_name` does.

    Raises:
        AttributeError: It has no such attribute, or none is found; says which modules it has.
    """
    name = network_name(module, attribute)
    return module if name == WHOLE else _lookup(module, name)  # type: ignore[return-value]  # checked by network_name


def network_name(module: LightningModule, attribute: str | None = None) -> str:
    """The attribute of a LightningModule that holds its network.

    Left out, it is `network`, else `model`, else `backbone` or `net` where no other module with weights is beside them,
    else the only module with weights. Metrics and losses are no networks.

    Raises:
        AttributeError: It has no such attribute, or none is found; says which modules it has.
    """
    if attribute is not None:
        if attribute != WHOLE and not _is_network(_lookup(module, attribute)):
            raise AttributeError(
                f"{type(module).__name__} has no network in its attribute {attribute!r}. {_what_there_is(module)}"
            )
        return attribute
    weighty = [name for name, child in _candidates(module) if any(True for _ in child.parameters())]
    found = [name for name in _NETWORKS if _is_network(getattr(module, name, None))]
    parts = [name for name in _PERHAPS_PARTS if _is_network(getattr(module, name, None))]
    found += [name for name in parts if set(weighty) <= {name}]
    found += weighty if len(weighty) == 1 else []
    if not found:
        several = len(weighty) > 1
        fault = "several modules with weights, of which each may be a part" if several else "no module with weights"
        raise AttributeError(f"{type(module).__name__} has {fault}. {_what_there_is(module)}")
    return found[0]


def place_in_state(module: LightningModule, network: nn.Module) -> str | None:
    """What the names of the network's tensors begin with in the LightningModule's state dict; None: it is no part."""
    for name, part in module.named_modules():
        if part is network:
            return f"{name}." if name else ""
    return None


def _lookup(module: nn.Module, path: str) -> object:
    found: object = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _is_network(value: object) -> bool:
    return isinstance(value, nn.Module) and not isinstance(value, Metric | MetricCollection | _Loss)


def _candidates(module: LightningModule) -> Iterator[tuple[str, nn.Module]]:
    return ((name, child) for name, child in module.named_children() if _is_network(child))


def _what_there_is(module: LightningModule) -> str:
    """Which modules could be the network, and how to name one."""
    named = [f"{name} ({type(child).__name__})" for name, child in _candidates(module)]
    if not named:
        return 'Make one that maps images to logits, and name it as in FTBC(network="…") (--ftbc.network).'
    if type(module).forward is not LightningModule.forward:
        whole = f'or FTBC(network="{WHOLE}") for all of it, by its own forward'
    else:
        whole = f'or give {type(module).__name__} a forward that does, and FTBC(network="{WHOLE}")'
    return (
        f"It has {', '.join(named)}: name the one that maps images to logits as in "
        f'FTBC(network="…") (--ftbc.network), {whole}.'
    )
