"""What is wrong with a network or its images before anything is converted, in sentences."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ftbc_pl.conversion.copies import first_line
from ftbc_pl.conversion.errors import ConversionError
from ftbc_pl.layers import Activation
from ftbc_pl.tracing import Call


@torch.no_grad()
def run_once(network: nn.Module, example: Tensor, batch: Tensor | None = None) -> Any:
    """Outputs of the ANN as it is.

    Args:
        network: The ANN in eval mode.
        example: A small input batch (B, ...).
        batch: The batch that the example was taken from, if it was.

    Raises:
        ConversionError: It takes several inputs, or does not run on the example.
    """
    needed = _inputs(network)
    if len(needed) > 1:
        raise ConversionError.of_network(
            f"its forward takes {len(needed)} inputs ({', '.join(needed)}): wrap it in a module whose "
            "forward takes the images alone"
        )
    try:
        return network(example.clone())
    except Exception as error:
        if batch is not None and _runs(network, batch):
            raise ConversionError.of_network(fixed_size(len(batch), len(example), error)) from error
        dtype, own = _name(example), next(map(_name, network.parameters()), _name(example))
        advice = (
            "pass images as it takes them" if own == dtype else f"its weights are {own}: use images.to(torch.{own})"
        )
        raise ConversionError.of_network(
            f"it does not run on images of shape {tuple(example.shape)} and type {dtype}, {first_line(error)}: {advice}"
        ) from error


def fixed_size(runs: int, fails: int, error: BaseException) -> str:
    """What to say of a network that runs on one number of images and not on another."""
    return (
        f"its forward runs on {runs} images but not on {fails} ({first_line(error)}): take the size of the "
        "batch from the input, x.size(0), or use flatten(1) instead of a number"
    )


def _runs(network: nn.Module, images: Tensor) -> bool:
    try:
        network(images.clone())
    except Exception:
        return False
    return True


def _name(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


def _inputs(network: nn.Module) -> list[str]:
    """Arguments that the forward of a network can't do without."""
    try:
        parameters = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]


def check_finite(network: nn.Module, example: Tensor, outputs: Any) -> None:
    """Check the outputs of the ANN on the example.

    Raises:
        ConversionError: They have NaN or infinite values; says where these come from.
    """
    if not all(is_finite(leaf) for leaf in tree_leaves(outputs)):
        where = where_not_finite(network, [example])
        raise ConversionError.of_network(f"its outputs have NaN or infinite values on the example: {where}")


@torch.no_grad()
def where_not_finite(network: nn.Module, batches: Sequence[Tensor]) -> str:
    """Say which images, which weights or which module NaN or infinite values come from.

    Args:
        network: The ANN in eval mode.
        batches: Images (B, ...) on which they were seen.
    """
    for number, images in enumerate(batches):
        for row, image in enumerate(images):
            if not is_finite(image):
                return f"image {row} of batch {number} holds {_what(image)}: check the data and its normalisation"
    weights = [(name, value) for name, value in [*network.named_parameters(), *network.named_buffers()]]
    # An infinite buffer may be meant so, as in a mask.
    for kind in (torch.isnan, torch.isinf):
        for name, value in weights:
            if value.is_floating_point() and bool(kind(value).any()):
                return f"the weights hold {_what(value)} in {name}: train again with a smaller learning rate"
    return f"they begin in {_first_overflow(network, batches)}: its weights or the images are too large"


def _first_overflow(network: nn.Module, batches: Sequence[Tensor]) -> str:
    """The module whose output is the first that is not finite."""
    found: list[str] = []

    def look(path: str) -> Any:
        return lambda _module, _args, out: (
            None if found or all(is_finite(leaf) for leaf in tree_leaves(out)) else found.append(path)
        )

    handles = [module.register_forward_hook(look(path)) for path, module in network.named_modules()]
    try:
        for images in batches:
            network(images.clone())
    finally:
        for handle in handles:
            handle.remove()
    return (found[0] if found else "") or "(network)"


def check_activations(network: nn.Module) -> None:
    """Check the thresholds of trainable activations.

    Raises:
        ConversionError: Some are not positive numbers; names the modules.
    """
    _check_thresholds([(path, m.threshold) for path, m in network.named_modules() if isinstance(m, Activation)])


def check_thresholds(calls: Sequence[Call]) -> None:
    """Check the thresholds and upper bounds that the trace found, of activations that are no modules too.

    Raises:
        ConversionError: Some are not positive numbers; names the sites.
    """
    found = [(call.place, call.threshold) for call in calls if call.threshold is not None]
    found += [(call.place, torch.tensor(call.record.upper)) for call in calls if call.record.upper is not None]
    _check_thresholds(found)


def _check_thresholds(found: Sequence[tuple[str, Tensor]]) -> None:
    problems = [
        f"{place}: its threshold is {_worst(theta):.4g}, not a positive number: train again with a smaller learning "
        "rate or a larger threshold at the start"
        for place, theta in found
        if not bool((theta.isfinite() & (theta > 0)).all())
    ]
    if problems:
        raise ConversionError(problems)


def _worst(theta: Tensor) -> float:
    values = theta.detach().flatten()
    return float(values[~(values.isfinite() & (values > 0))][0])


def is_finite(leaf: Any) -> bool:
    """Whether a part of an output is free of NaN and infinite values, as all is that is no tensor of real numbers."""
    return not isinstance(leaf, Tensor) or not leaf.is_floating_point() or bool(leaf.isfinite().all())


def _what(values: Tensor) -> str:
    return "NaN" if bool(values.isnan().any()) else "infinite values"
