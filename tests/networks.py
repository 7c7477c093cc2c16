"""Networks with random normalisation layers: timm's untrained residual branches are switched off by a zero scale."""

import timm
import torch
from torch import nn

import ftbc_pl.models  # noqa: F401 - registers the CIFAR networks


def randomise_(network: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return network.eval()


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
