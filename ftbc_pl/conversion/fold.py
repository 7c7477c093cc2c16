"""Fold batch normalisation into the convolution or linear layer before it.

What precedes what is seen in one forward, not guessed from names: a normalisation layer is folded if it is the only
reader of the output of a layer whose own weights were applied, and each of the two is called once.
"""

import copy
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ftbc_pl.conversion.copies import first_line
from ftbc_pl.conversion.diagnosis import is_finite
from ftbc_pl.conversion.precision import Double
from ftbc_pl.tracing.operations import is_metadata, operation_name

_TOLERANCE = 1e-8  # of the largest output, in float64
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.no_grad()
def folded_copy(network: nn.Module, example: Tensor, check: bool) -> tuple[nn.Module, dict[str, int]] | None:
    """Fold all that can be folded in a copy; None, with a warning, where the network would be another.

    A forward may look at more of a normalisation layer than its output: its statistics, its class.

    Args:
        network: The ANN in eval mode; it is left as it is.
        example: A small input batch (B, ...).
        check: Whether the outputs are compared; if not, the folded network only has to run.

    Returns:
        The copy, and what `fold_batch_norm_` returns.
    """
    made = copy.deepcopy(network)
    try:
        numbers = fold_batch_norm_(made, example.clone())
        outputs = made(example.clone())
        why = _difference(network, example, outputs) if check and numbers else ""
    except Exception as error:  # the code of the network decides
        why = f"does not run: {first_line(error)}"
    if not why:
        return made, numbers
    warnings.warn(
        f"Batch normalisation stays apart from the layers before it: folded into them, the network {why}. With "
        "fold_bn=False nothing is tried.",
        stacklevel=3,
    )
    return None


def _difference(network: nn.Module, example: Tensor, outputs: Any) -> str:
    """What a network does otherwise once it is folded, rounding aside; empty: nothing.

    Args:
        network: The network as it is.
        example: A small input batch (B, ...).
        outputs: Those of the folded network in its own precision.
    """
    if not all(map(is_finite, tree_leaves(outputs))):
        return "has infinite weights"
    images = example.double() if example.is_floating_point() else example
    double = copy.deepcopy(network).double()
    with Double():
        exact, again = _tensors(double(images.clone())), _tensors(double(images.clone()))
        if not all(map(_close, exact, again)):
            return ""  # it draws at random, which is said when its operations are looked at
        fold_batch_norm_(double, images.clone())
        others = _tensors(double(images.clone()))
    return "" if len(exact) == len(others) and all(map(_close, exact, others)) else "has other outputs"


def _tensors(outputs: Any) -> list[Tensor]:
    """Copies of all tensors of an output, which the next forward may overwrite."""
    return [leaf.clone() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _close(exact: Tensor, other: Tensor) -> bool:
    if exact.shape != other.shape or not exact.numel():
        return exact.shape == other.shape
    exact, other = exact.double(), other.double()
    return bool((exact - other).abs().max() <= _TOLERANCE * exact.abs().max().clamp(min=1e-30))


@torch.no_grad()
def fold_batch_norm_(network: nn.Module, example: Tensor) -> dict[str, int]:
    """Fold every batch normalisation that can be folded, in place; the outputs stay the same to rounding.

    Args:
        network: The ANN in eval mode.
        example: A small input batch (B, ...).

    Returns:
        For each layer (by path) into which one was folded, how many numbers that saves: scale, shift, mean, variance.
    """
    recorder = _Recorder(network)
    with recorder:
        outputs = network(example)
    recorder.read(tree_leaves(outputs))
    paths = {module: path for path, module in network.named_modules()}
    folded = {}
    for layer, norm, output in recorder.pairs:
        once = recorder.reads[id(output)] == 1 and all(
            recorder.reads[id(tensor)] <= 1 for module in (layer, norm) for tensor in _own(module)
        )
        if once and not layer._forward_hooks and not norm._forward_hooks and _fits(layer, output):
            folded[paths[layer]] = sum(tensor.numel() for tensor in _own(norm) if tensor.ndim)
            _fold(layer, norm)
            _replace(network, norm, _rest(norm))
    return folded


class _Recorder(TorchFunctionMode):
    """Counts how often each tensor is read, and finds layers whose output goes to a normalisation layer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.reads: Counter[int] = Counter()
        self.pairs: list[tuple[nn.Module, _BatchNorm, Tensor]] = []
        # Not those whose weight is computed anew in each forward (weight_norm, a parametrisation).
        self.layers = {
            id(m.weight): m for m in network.modules() if isinstance(m, _LAYERS) and "weight" in m._parameters
        }
        self.norms = {id(m.running_mean): m for m in network.modules() if _is_batch_norm(m)}
        self.sources: dict[int, tuple[nn.Module, Tensor]] = {}  # holds the tensors, so that no id is used again

    def read(self, leaves: list[Any]) -> None:
        self.reads.update(id(leaf) for leaf in leaves if isinstance(leaf, Tensor))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = operation_name(func)
        if is_metadata(name):
            return out
        self.read(tree_leaves((args, kwargs)))
        if name == "batch_norm" and id(args[0]) in self.sources and id(args[1]) in self.norms:
            layer, source = self.sources[id(args[0])]
            self.pairs.append((layer, self.norms[id(args[1])], source))
        elif name.startswith(("conv", "linear")) and len(args) > 1 and id(args[1]) in self.layers:
            layer = self.layers[id(args[1])]
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            if bias is layer.bias:
                self.sources[id(out)] = layer, out
                self.reads[id(out)] = 0  # not those of a tensor that had this id before
        return out


def _is_batch_norm(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether a module normalises with running statistics, by code that is known."""
    if not isinstance(module, _BatchNorm) or module.running_mean is None or module.training:
        return False
    return type(module).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward, BatchNormAct2d.forward)


def _own(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _fits(layer: nn.Module, output: Tensor) -> bool:
    """Whether the features of a layer are the channels of a normalisation layer behind it."""
    if isinstance(layer, nn.Linear):
        return output.ndim == 2
    return not getattr(layer, "transposed", False) or getattr(layer, "groups", 1) == 1


def _fold(layer: Any, norm: _BatchNorm) -> None:
    # In float64, so that the weights are rounded once only.
    bias = None if layer.bias is None else layer.bias.double()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = torch.ones_like(mean) if norm.weight is None else norm.weight.double()
    shift = torch.zeros_like(mean) if norm.bias is None else norm.bias.double()
    if isinstance(layer, nn.Linear):
        fused = fuse_linear_bn_weights(layer.weight.double(), bias, mean, variance, norm.eps, scale, shift)
    else:
        fused = fuse_conv_bn_weights(
            layer.weight.double(), bias, mean, variance, norm.eps, scale, shift, transpose=layer.transposed
        )
    dtype = layer.weight.dtype
    layer.weight, layer.bias = (nn.Parameter(t.to(dtype), requires_grad=False) for t in fused)


def _rest(norm: _BatchNorm) -> nn.Module:
    """What a normalisation layer does beyond normalising."""
    if isinstance(norm, BatchNormAct2d):
        return nn.Sequential(OrderedDict(drop=norm.drop, act=norm.act))
    return nn.Identity()


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)
