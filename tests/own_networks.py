"""Small networks as users write them: layers put together by a function, and one with shared modules."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.networks import randomise_


class Apply(nn.Module):
    """Layers from a ModuleDict, put together by a function."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleDict(layers)

    def forward(self, x):
        return self.function(x, **self.layers)


def network(function, **layers):
    torch.manual_seed(0)
    return randomise_(Apply(function, **{name: layer() for name, layer in layers.items()}))


def conv(inputs=3, outputs=4, size=3, kind=nn.Conv2d, **options):
    return lambda: kind(inputs, outputs, size, padding=size // 2, **options)


def head(inputs):
    return lambda: nn.Linear(inputs, 5)


def tokens(x):
    return x.flatten(2).transpose(1, 2)


class Block(nn.Module):
    def __init__(self, channels, shared):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), shared)
        self.act = shared

    def forward(self, x):
        return self.act(self.body(x) + x)


class Nested(nn.Module):
    """One ReLU for all, called in a loop over a ModuleList, in Sequentials, after an add of two inputs."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList(Block(4, self.act) for _ in range(3))
        self.branches = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)])
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.act(self.stem(x))
        for block in self.blocks:
            x = block(x)
        x = F.relu(self.branches[0](x) + self.branches[1](x))
        return self.head(x.mean((2, 3)))
