"""Networks with random normalisation layers: timm's untrained residual branches are switched off by a zero scale."""

import timm
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import ftbc_pl.models  # noqa: F401 - registers the CIFAR networks


def randomise_(network: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
        if getattr(module, "running_mean", None) is not None or isinstance(module, nn.LayerNorm | nn.GroupNorm):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return network.eval()


class CountActivations(TorchDispatchMode):
    """Counts what reaches torch's kernels, below modules and functions: calls that are a ReLU, and smooth ones."""

    SMOOTH = {"leaky_relu", "gelu", "silu", "hardswish", "elu", "mish", "softplus", "tanh"}

    def __init__(self) -> None:
        super().__init__()
        self.relus = self.smooth = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__.strip("_")
        low = args[1] if len(args) > 1 else None
        if name == "relu" or (name in {"hardtanh", "clamp", "clamp_min", "threshold"} and low == 0):
            self.relus += 1
        self.smooth += name in self.SMOOTH
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def count_activations(network: nn.Module, batch: torch.Tensor) -> tuple[int, int]:
    """Calls of ReLUs, with or without an upper bound, and of smooth activations in one forward."""
    with CountActivations() as counts:
        network(batch)
    return counts.relus, counts.smooth


def create(name: str, **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return randomise_(timm.create_model(name, **kwargs))


def small_cnn(activation: nn.Module | None = None, pool: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU() if activation is None else activation,
        nn.AvgPool2d(2) if pool is None else pool,
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 10),
    ).eval()


def images(count: int = 16, size: int = 8, channels: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))
