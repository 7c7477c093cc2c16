"""A trial before a training: whether its network can be converted after it, and its accuracy measured."""

from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn
from torch.nn.parameter import is_lazy

from ftbc_pl.conversion import convert
from ftbc_pl.conversion.batch import first_batches, images_and_labels
from ftbc_pl.conversion.copies import copied
from ftbc_pl.evaluation import TimestepAccuracy
from ftbc_pl.evaluation.predictions import single_output
from ftbc_pl.options import ConversionOptions


def check_convertible(network: nn.Module, loader: Any, options: ConversionOptions) -> None:
    """Convert the network as it is before the training, on two images, and drop the result.

    What can't be converted is known before a training then, not after it. The training draws the same random numbers as
    without a trial.

    Args:
        network: The network; it is left as it is.
        loader: The images for the calibration.
        options: How it will be converted.

    Raises:
        ConversionError: It can't be copied, or some sites can't be converted.
    """
    network = copied(network).float()
    with isolate_rng(), torch.no_grad():
        (images,) = first_batches(loader, 1)
        if any(is_lazy(parameter) for parameter in network.parameters()):
            network.eval()(images[:2].to(next(network.parameters()).device))  # lazy layers get their sizes
        convert(network, example=images[:2], check=False, measure=False, **options.to_dict())


def why_not_measured(network: nn.Module, batch: Any) -> str:
    """Why the accuracy can't be measured on a batch of the validation images; an empty text where it can.

    Args:
        network: The network; it is left as it is.
        batch: Images and labels, of which two are looked at.
    """
    try:
        images, labels = images_and_labels(batch)
        network = copied(network).float().eval()
        parameter = next(network.parameters())
        with isolate_rng(), torch.no_grad():
            outputs = single_output(network(images[:2].to(parameter)))
            TimestepAccuracy(1).to(parameter.device).update(outputs.unsqueeze(0), labels[:2].to(parameter.device))
    except (TypeError, ValueError, RuntimeError) as error:
        return str(error)
    return ""
