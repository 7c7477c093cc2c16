"""Other people's software on the same network and images."""

from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch

from ftbc_pl import convert


@torch.no_grad()
def against_spikingjelly(
    num_steps: int, batch_size: int, medians: Callable[[Mapping[str, Callable[[], Any]]], dict[str, float]]
) -> None:
    """The same ResNet-18 of ReLUs, converted by SpikingJelly and run in its multi-step mode."""
    try:
        from spikingjelly.activation_based import ann2snn, functional  # type: ignore[import-not-found]
    except ImportError:
        print("\nSpikingJelly is not installed: pip install spikingjelly to compare with it.")
        return
    torch.manual_seed(0)
    ann = timm.create_model("resnet18", num_classes=10).eval()
    images = torch.randn(batch_size, 3, 64, 64)
    loader = [(images, torch.zeros(len(images), dtype=torch.int64))]
    theirs = ann2snn.Converter(ann2snn.RateCodingRecipe(dataloader=loader)).convert(ann).eval()
    functional.set_step_mode(theirs, "m")
    # Theirs folds batch normalisation, so ours does too.
    ours = convert(ann, num_steps, batches=[images], threshold="max", fold_bn=True, check=False)
    rows = images.expand(num_steps, *images.shape)

    def run_theirs() -> None:
        functional.reset_net(theirs)
        theirs(rows)

    for _ in range(3):  # until a graph is recorded, on a GPU
        ours(images)
    seconds = medians({"theirs": run_theirs, "ours": lambda: ours(images)})
    ratio = seconds["theirs"] / seconds["ours"]
    print(f"\nResNet-18 at 64×64, T = {num_steps}: SpikingJelly takes {ratio:.2f} × our time.")
