"""The channels of a site are found in any layout."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ftbc_pl import calibrate_, convert
from tests.networks import images
from tests.own_networks import conv, head, network, tokens

# name: network, shape of the input, dimension of the channels at the spiking site
LAYOUTS = {
    "(B, C)": (network(lambda x, a, c: c(F.relu(a(x))), a=lambda: nn.Linear(7, 6), c=head(6)), (7,), 1),
    "(B, C, H, W)": (network(lambda x, a, c: c(F.relu(a(x)).mean((2, 3))), a=conv(), c=head(4)), (3, 6, 6), 1),
    "(B, C, L)": (
        network(lambda x, a, c: c(F.relu(a(x)).mean(2)), a=conv(kind=nn.Conv1d), c=head(4)),
        (3, 6),
        1,
    ),
    "(B, N, C)": (
        network(lambda x, a, b, c: c(F.relu(b(tokens(a(x)))).mean(1)), a=conv(), b=lambda: nn.Linear(4, 6), c=head(6)),
        (3, 5, 6),
        2,
    ),
    "(B, N, C) without a linear layer": (
        network(lambda x, a, c: c(F.relu(tokens(a(x))).mean(1)), a=conv(), c=head(4)),
        (3, 5, 6),
        2,
    ),
    "(B, C, N)": (network(lambda x, a, c: c(F.relu(a(x).flatten(2)).mean(2)), a=conv(), c=head(4)), (3, 5, 6), 1),
    "(B, H, W, C)": (
        network(
            lambda x, a, b, c: c(F.relu(b(a(x).permute(0, 2, 3, 1))).mean((1, 2))),
            a=conv(),
            b=lambda: nn.Linear(4, 6),
            c=head(6),
        ),
        (3, 5, 6),
        3,
    ),
    "(B, H, W, C) without a linear layer": (
        network(lambda x, a, c: c(F.relu(a(x).permute(0, 2, 3, 1)).mean((1, 2))), a=conv(), c=head(4)),
        (3, 5, 6),
        3,
    ),
    "back to (B, C, H, W)": (
        network(
            lambda x, a, b, c: c(F.relu(b(a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).mean((2, 3))),
            a=conv(),
            b=lambda: nn.Linear(4, 6),
            c=head(6),
        ),
        (3, 5, 6),
        1,
    ),
    "flattened": (
        network(lambda x, a, c: c(F.relu(a(x).flatten(1))), a=conv(3, 2), c=head(18)),
        (3, 3, 3),
        1,
    ),
    "slice of a sequence": (
        network(lambda x, a, b, c: c(F.relu(b(tokens(a(x)))[:, 0])), a=conv(), b=lambda: nn.Linear(4, 6), c=head(6)),
        (3, 5, 6),
        1,
    ),
    "channels shuffled and back": (
        network(
            lambda x, a, c: c(F.relu(a(x).unflatten(1, (2, 2)).transpose(1, 2).reshape(len(x), 4, 5, 6)).mean((2, 3))),
            a=conv(),
            c=head(4),
        ),
        (3, 5, 6),
        1,
    ),
}


class Outputs(TorchDispatchMode):
    """Keeps the results of one of torch's kernels."""

    def __init__(self, name):
        super().__init__()
        self.name, self.outputs = name, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ == self.name:
            self.outputs.append(out.clone())
        return out


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_channel_axis_is_found(name):
    ann, shape, expected = LAYOUTS[name]
    batch = torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))
    snn = convert(ann, 3, batches=[batch], threshold="max")
    call, site = next(snn.neurons())
    assert call.channel_dim == site.channel_dim == expected
    with torch.no_grad(), Outputs("relu") as captured:
        ann(batch)
    (activation,) = captured.outputs
    largest = activation.amax([d for d in range(activation.ndim) if d != expected])
    # Not to the bit: a matrix product may be rounded otherwise for another place in memory.
    torch.testing.assert_close(site.threshold, largest, rtol=1e-5, atol=1e-6)
    channels = activation.shape[expected]
    assert site.temporal_bias.shape == (3, channels)
    assert snn.report.sites[0].channels == channels
    calibrate_(snn, [batch], progress=False)
    assert len(site.temporal_bias[0].unique()) > 1


def test_memory_with_channels_last_keeps_the_channel_axis():
    ann = network(lambda x, a, c: c(F.relu(a(x)).mean((2, 3))), a=conv(), c=head(4)).to(
        memory_format=torch.channels_last
    )
    batch = images(8).contiguous(memory_format=torch.channels_last)
    _, site = next(convert(ann, 3, batches=[batch]).neurons())
    assert site.channel_dim == 1
    assert site.threshold.shape == (4,)
