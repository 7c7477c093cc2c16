"""Other people's software on the same network and images."""

from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch

from ftbc_pl import convert

_BACKENDS = ("torch", "triton", "cupy")
Medians = Callable[[Mapping[str, Callable[[], Any]]], dict[str, float]]


@torch.no_grad()
def against_spikingjelly(num_steps: int, batch_size: int, medians: Medians) -> None:
    """ResNets of ReLUs, converted by SpikingJelly and run in its multi-step mode, by each of its backends that runs."""
    try:
        from spikingjelly.activation_based import ann2snn  # type: ignore[import-not-found] # noqa: F401
    except ImportError:
        print("\nSpikingJelly is not installed: pip install spikingjelly to compare with it.")
        return
    cases = [("resnet18", 64, batch_size)]
    if torch.get_default_device().type != "cpu":
        cases.append(("resnet34", 224, 32))
    for name, size, batch in cases:
        for backend, ratio in _ratios(name, size, batch, num_steps, medians).items():
            case = f"{name} at {size}×{size}, {batch} images, T = {num_steps}"
            print(f"\n{case}: SpikingJelly ({backend}) takes {ratio:.2f} × our time.", flush=True)


def _ratios(name: str, size: int, batch: int, num_steps: int, medians: Medians) -> dict[str, float]:
    """How many times as long as ours theirs takes, by backend."""
    from spikingjelly.activation_based import ann2snn, functional

    torch.manual_seed(0)
    ann = timm.create_model(name, num_classes=10).eval()
    images = torch.randn(batch, 3, size, size)
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
    ratios: dict[str, float] = {}
    for backend in _BACKENDS:
        try:
            functional.set_backend(theirs, backend)
            run_theirs()
        except Exception as error:  # a backend that is not installed, or that does not know these neurons
            print(f"SpikingJelly's backend {backend} does not run: {type(error).__name__}: {error}"[:200])
            continue
        seconds = medians({"theirs": run_theirs, "ours": lambda: ours(images)})
        ratios[backend] = seconds["theirs"] / seconds["ours"]
    return ratios
