"""Small networks trained on the digits data set within seconds."""

from functools import cache, partial

import torch
from sklearn.datasets import load_digits
from torch import nn

from ftbc_pl.layers import QCFS


@cache
def digits():
    """Images (1797, 1, 8, 8) in 0..1 and their classes, in an order without meaning."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.images / 16, dtype=torch.float32).unsqueeze(1)[order], torch.tensor(data.target)[order]


def train_(network, images, targets, loss, epochs=15, batch_size=64):
    """Train with Adam, in place."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(batch_size):
            optimizer.zero_grad()
            loss(network(images[batch]), targets[batch]).backward()
            optimizer.step()
    return network.eval()


def body(outputs, activation=nn.ReLU):
    """Two convolutions and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), activation(), nn.AvgPool2d(2), nn.Conv2d(8, 16, 3, padding=1), activation(),
        nn.Flatten(), nn.Linear(16 * 4 * 4, outputs),
    )  # fmt: skip


@cache
def classifier(levels=None):
    """A classifier of digits, trained on the first 800; with ReLU, or QCFS of some levels."""
    images, labels = digits()
    activation = nn.ReLU if levels is None else partial(QCFS, levels, 2.0)
    return train_(body(10, activation), images[:800], labels[:800], nn.functional.cross_entropy)
