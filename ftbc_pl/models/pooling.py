"""The choice between max and average pooling in a finished network."""

from typing import Any

from torch import nn

from ftbc_pl.models.vgg import POOLING

__all__ = ["select_pooling"]


def select_pooling(network: nn.Module, pooling: str) -> nn.Module:
    """Make the pooling of `network` the maximum (`"max"`) or the average (`"avg"`), in place, and return the network.

    Kernel, stride and padding stay. `"avg"` replaces every `nn.MaxPool2d`. `"max"` replaces the `nn.AvgPool2d` where
    ResNets (`maxpool`) and VGGs (in `features`) have their max pooling; the averaging in the shortcuts of ResNet-D, for
    one, is left alone.

    Raises:
        ValueError: `pooling` is unknown, or the network has no such pooling layer.
    """
    if pooling not in POOLING:
        raise ValueError(f"expected pooling to be one of {sorted(POOLING)}, got {pooling!r}")
    found = 0
    for path, module in list(network.named_modules()):
        parent_path, _, name = path.rpartition(".")
        in_place_of_max = name == "maxpool" or parent_path == "features"
        if isinstance(module, nn.MaxPool2d) or (isinstance(module, nn.AvgPool2d) and in_place_of_max):
            found += 1
            if not isinstance(module, POOLING[pooling]):
                setattr(network.get_submodule(parent_path), name, _converted(module, pooling))
    if not found:
        raise ValueError(
            f"expected a network with max pooling to choose pooling={pooling!r} for, "
            f"got {type(network).__name__} without any; leave pooling out"
        )
    return network


def _converted(module: nn.MaxPool2d | nn.AvgPool2d, pooling: str) -> nn.Module:
    if isinstance(module, nn.MaxPool2d) and (module.dilation not in (1, (1, 1)) or module.return_indices):
        raise ValueError("max pooling with dilation or returned indices has no average counterpart")
    make: Any = POOLING[pooling]
    made: nn.Module = make(module.kernel_size, module.stride, module.padding, ceil_mode=module.ceil_mode)
    return made
