"""What can't convert is named, with what to do instead."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ftbc_pl import ConversionError, convert
from tests.networks import images
from tests.own_networks import conv, head, network


def relu_to_script(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x)


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_code_that_hides_from_torch_is_named():
    scripted = torch.jit.script(relu_to_script)
    ann = network(lambda x, a, c: c(scripted(a(x)).mean((2, 3))), a=conv(), c=head(4))
    message = r"before \(network\) \(conversion/test_errors.py:\d+\): .*: it hides from torch"
    with pytest.raises(ConversionError, match=message):
        convert(ann, 3, batches=[images()])


def assign(x, a, c):
    y = torch.zeros_like(a(x))
    y[:, :2] = F.relu(a(x))[:, :2]
    return c(y.mean((2, 3)))


PROBLEMS = {
    "a comparison": (
        network(lambda x, a, c: c((a(x) * (a(x) > 0)).mean((2, 3))), a=conv(), c=head(4)),
        r"\(network\) \(conversion/test_errors.py:\d+\): gt: it compares values",
    ),
    "a write into a part": (
        network(assign, a=conv(), c=head(4)),
        r"\(network\) \(conversion/test_errors.py:\d+\): setitem: it writes into a part .* torch.where",
    ),
    "a batch in the second dimension": (
        network(
            lambda x, a, c: c(F.layer_norm(F.relu(a(x)).flatten(2).permute(2, 0, 1), (4,)).mean(0)), a=conv(), c=head(4)
        ),
        "layer_norm: the batch is not the first dimension of its input",
    ),
    "images of a batch taken together": (
        network(lambda x, a, c: c(F.relu(a(x) - a(x).mean(0, keepdim=True)).mean((2, 3))), a=conv(), c=head(4)),
        r"\(network\) \(conversion/test_errors.py:\d+\): mean: it takes images of the batch together",
    ),
    "one image of a batch": (
        network(lambda x, a, c: c((F.relu(a(x)) + F.relu(a(x))[:1]).mean((2, 3))), a=conv(), c=head(4)),
        "getitem: it takes images of the batch together, or one out of it",
    ),
    "a softmax over the batch": (
        network(lambda x, a, c: c(F.relu(a(x)).softmax(0).mean((2, 3))), a=conv(), c=head(4)),
        "the output, after the last site: the mean over time differs",
    ),
    "a batch behind another dimension": (
        network(
            lambda x, a, c: c(F.relu(a(x).flatten(2).permute(2, 0, 1).flatten(0, 1)).unflatten(0, (64, -1)).mean(0)),
            a=conv(),
            c=head(4),
        ),
        "relu: the batch is not the first dimension of its input",
    ),
    "an output with the batch last": (
        network(lambda x, a, c: c(F.relu(a(x)).mean((2, 3))).T, a=conv(), c=head(4)),
        r"\(output\): the batch is not the first dimension",
    ),
    "no gradient": (
        network(lambda x, a, c: c(F.relu(a(x)).mean((2, 3))).detach(), a=conv(), c=head(4)),
        "detach: it hides the data flow",
    ),
    "a recurrent layer": (
        network(lambda x, a, c: c(a(x.flatten(2))[0].mean(1)), a=lambda: nn.LSTM(64, 4, batch_first=True), c=head(4)),
        "lstm: it has a state of its own",
    ),
    "an output of another type": (
        network(lambda x, a, c: {"a": {1, 2}, "b": c(F.relu(a(x)).mean((2, 3)))}, a=conv(), c=head(4)),
        r"\(output\): an output is of type set",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_stands_in_the_way_is_named(name):
    ann, message = PROBLEMS[name]
    with pytest.raises(ConversionError, match=message):
        convert(ann, 3, batches=[images()])
