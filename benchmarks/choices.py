"""What the layout of images and folding batch normalisation change, for the timesteps and for a calibration."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from tables import head, row
from torch import Tensor, nn

from ftbc_pl import SpikingNetwork, calibrate_, convert

Medians = Callable[[Mapping[str, Callable[[], Any]]], dict[str, float]]
_LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
# Network, side of an image, what part of the batch size.
_CASES = [("cifar_resnet20", 32, 1), ("cifar_vgg16", 32, 2), ("resnet18", 64, 2), ("mobilenetv2_100", 224, 16)]


@torch.no_grad()
def choices(network: Callable[[str, int], nn.Module], num_steps: int, batch_size: int, medians: Medians) -> None:
    """Print a row for each network and choice, against contiguous images and normalisation apart."""
    print(head("network, images", "layout", "normalisation", "T steps", "calibration by exact"))
    for name, size, part in _CASES:
        batch = max(2, batch_size // part)
        images = torch.randn(batch, 3, size, size)
        both = [
            (layout, title, *_made(network(name, size), images, num_steps, layout, fold))
            for layout in _LAYOUTS
            for title, fold in (("apart", False), ("folded", True))
        ]
        steps = _ratios({f"{layout} {title}": partial(snn, x) for layout, title, snn, x in both}, medians)
        calibrations = _ratios(
            {f"{layout} {title}": partial(calibrate_, snn, [x], progress=False) for layout, title, snn, x in both},
            medians,
        )
        for layout, title, _, _ in both:
            key = f"{layout} {title}"
            case = f"{name} at {size}×{size}, {batch}"
            print(row(case, layout, title, f"{steps[key]:.2f}", f"{calibrations[key]:.2f}"), flush=True)


def _made(ann: nn.Module, images: Tensor, num_steps: int, layout: str, fold: bool) -> tuple[SpikingNetwork, Tensor]:
    ann = ann.to(memory_format=_LAYOUTS[layout])  # type: ignore[call-overload]
    snn = convert(ann, num_steps, example=images[:2], check=False, fold_bn=fold)
    return snn, images.contiguous(memory_format=_LAYOUTS[layout])


def _ratios(things: Mapping[str, Callable[[], Any]], medians: Medians) -> dict[str, float]:
    """Times against that of the first of the things."""
    seconds = medians(things)
    first = next(iter(seconds.values()))
    return {name: value / first for name, value in seconds.items()}
