"""Converted networks: how they approach the ANN, who else converts them, what folding gains. Tables of the README.

    python benchmarks/models.py --figure docs/convergence.png

The weights are untrained, with random normalisation layers: timm begins the last one of a residual branch with zero,
which would switch the branch off. Thresholds are maxima over the images used, and nothing is calibrated, so that all of
the error is that of coding values in spikes. SpikingJelly and sinabs are tried if they can be imported.
"""

import argparse
import importlib.util
import logging
import math
import os
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from matplotlib.figure import Figure
from tables import at, head, row
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ftbc_pl import convert

SIZE = 64
CONVERGENCE = {
    "ResNet-18": "timm resnet18",
    "VGG-11": "timm vgg11_bn",
    "MobileNetV2": "torchvision mobilenet_v2",
    "DenseNet-121": "timm densenet121",
    "SE-ResNet-18 (gates)": "timm seresnet18",
    "ViT-tiny (ReLU)": "timm vit_tiny_patch16_224",
    "RegNetY-200MF (gates)": "timm regnety_002",
}
COMMON = """
    torchvision resnet18, torchvision vgg11_bn, torchvision mobilenet_v2, torchvision densenet121,
    torchvision googlenet, torchvision squeezenet1_1, torchvision shufflenet_v2_x1_0, torchvision mnasnet1_0,
    torchvision inception_v3, torchvision regnet_y_400mf, timm resnet50,
    timm vgg16_bn, timm efficientnet_lite0, timm seresnet18, timm regnetx_002
"""
FOLDED = ["timm resnet18", "timm resnet50", "torchvision mobilenet_v2", "timm regnetx_002", "timm densenet121"]


# The progress bars of other libraries would tear the tables.
os.environ["TQDM_DISABLE"] = "1"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_steps", type=int, default=256, help="largest T of the convergence table")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--time_chunk", type=int, default=8, help="timesteps at once")
    parser.add_argument("--figure", type=Path, help="where to draw the convergence")
    return parser.parse_args()


def create(name: str) -> nn.Module:
    """An untrained network of 10 classes with random normalisation layers."""
    torch.manual_seed(0)
    library, name = name.split()
    options: dict[str, Any] = {}
    if name.startswith("vit"):
        options = {"img_size": SIZE, "act_layer": "relu"}
    if library == "torchvision" and name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": False}
    build = timm.create_model if library == "timm" else torchvision.models.get_model
    network: nn.Module = build(name, num_classes=10, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return network.eval()


def batch(name: str, count: int) -> Tensor:
    size = 96 if "inception" in name else SIZE
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def convergence(name: str, num_steps: int, images: Tensor, time_chunk: int) -> dict[int, float]:
    """Relative error of the logits at T = 16, 32, …"""
    ann = create(name)
    snn = convert(ann, num_steps, batches=[images], threshold="max", fold_bn=True)
    snn.time_chunk = time_chunk
    sums, exact = snn(images).cumsum(0), snn.network(images)
    steps = [t for t in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096) if t <= num_steps]
    return {t: float((sums[t - 1] / t - exact).norm() / exact.norm()) for t in steps}


class ActivationCount(TorchDispatchMode):
    """Counts the calls of a ReLU that reach torch's kernels, whoever made them."""

    def __init__(self) -> None:
        super().__init__()
        self.relus = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.strip("_")
        clamp = name in ("hardtanh", "clamp", "clamp_min") and args[1] == 0
        self.relus += name == "relu" or clamp
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def count_activations(name: str, images: Tensor) -> int:
    with ActivationCount() as count:
        create(name)(images)
    return count.relus


def ours(ann: nn.Module, images: Tensor) -> int:
    return convert(ann, 2, batches=[images], threshold="max").report.spiking


def spikingjelly(ann: nn.Module, images: Tensor) -> int:
    from spikingjelly.activation_based import ann2snn, neuron  # type: ignore[import-not-found]

    labels = torch.zeros(len(images), dtype=torch.long)
    recipe = ann2snn.RateCodingRecipe(dataloader=[(images, labels)])
    snn = ann2snn.Converter(recipe).convert(ann)
    snn(images)
    return sum(isinstance(module, neuron.BaseNode) for module in snn.modules())


def sinabs(ann: nn.Module, images: Tensor) -> int:
    from sinabs import layers  # type: ignore[import-not-found]
    from sinabs.from_torch import from_model  # type: ignore[import-not-found]

    snn = from_model(ann, batch_size=len(images)).spiking_model
    snn(images)
    return sum(isinstance(module, layers.StatefulLayer) for module in snn.modules())


def outcome(convert_it: Callable[[nn.Module, Tensor], int], name: str, images: Tensor, activations: int) -> str:
    """What a library makes of a network: all activations replaced, some, or an error (which comes after a colon)."""
    try:
        neurons = convert_it(create(name), images)
    except Exception as error:  # whatever a library raises is its outcome
        first = str(error).strip().split("\n")[0]
        return f"failed: {type(error).__name__}: {first[:200]}"
    return "converted" if neurons >= activations else f"{neurons} of {activations}"


@torch.no_grad()
def seconds(name: str, images: Tensor, fold_bn: bool) -> float:
    """CPU time of the best of three simulations of 16 steps, seconds."""
    snn = convert(create(name), 16, batches=[images], threshold="max", fold_bn=fold_bn, check=False)
    snn.time_chunk = 4
    times = []
    for _ in range(4):  # the first one warms up
        began = time.process_time()
        snn(images)
        times.append(time.process_time() - began)
    return min(times[1:])


def draw(curves: dict[str, dict[int, float]], path: Path) -> None:
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for marker, (name, curve) in zip("osD^vPX", curves.items(), strict=True):
        axes.loglog(list(curve), list(curve.values()), f"{marker}-", label=name, linewidth=1.6, markersize=5)
    steps = list(next(iter(curves.values())))
    largest = max(curve[steps[0]] for curve in curves.values())
    axes.loglog(steps, [1.5 * largest * steps[0] / t for t in steps], "--", color="#888888", label="∝ 1/T")
    axes.set_xticks(steps, [str(t) for t in steps])
    axes.minorticks_off()
    axes.set_xlabel("timesteps T")
    axes.set_ylabel("relative error of the logits")
    axes.grid(color="#E3E6EA")
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    args = arguments()
    warnings.filterwarnings("ignore")  # those of other libraries
    logging.disable(logging.WARNING)
    curves = {
        label: convergence(name, args.num_steps, batch(name, args.images), args.time_chunk)
        for label, name in CONVERGENCE.items()
    }
    steps = list(next(iter(curves.values())))
    print(head("network", *at(steps), "last slope"))
    for label, curve in curves.items():
        errors = list(curve.values())
        slope = math.log2(errors[-1] / errors[-3]) / 2
        print(row(label, *(f"{100 * value:.2g} %" for value in errors), f"{slope:.2f}"))
    if args.figure is not None:
        draw(curves, args.figure)

    converters = {f"ftbc_pl {version('ftbc_pl')}": ours}
    for label, function in {"SpikingJelly": spikingjelly, "sinabs": sinabs}.items():
        if importlib.util.find_spec(label.lower()):
            converters[f"{label} {version(label.lower())}"] = function
    print(f"\n{head('network', 'activations', *converters)}")
    reasons = []
    for name in map(str.strip, COMMON.split(",")):
        images = batch(name, 2)
        activations = count_activations(name, images)
        cells = [outcome(function, name, images, activations) for function in converters.values()]
        reasons += [f"{name}, {label}: {cell}" for label, cell in zip(converters, cells, strict=True) if ":" in cell]
        cells = [cell.partition(":")[0] for cell in cells]
        print(row(name, activations, *cells), flush=True)
    print("\n" + "\n".join(reasons))

    print(f"\n{head('network', 'CPU seconds', 'folded', 'speed-up')}")
    for name in FOLDED:
        plain, folded = (seconds(name, batch(name, args.images), fold_bn) for fold_bn in (False, True))
        print(row(name, f"{plain:.2f}", f"{folded:.2f}", f"{plain / folded:.2f} ×"), flush=True)


if __name__ == "__main__":
    main()
