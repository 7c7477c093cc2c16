"""The networks that `train_gpu` trains: what they are, where they start and what they learn from."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from fast_data import Augmentation
from fast_files import expand, read, saved
from torch import Tensor, nn

from ftbc_pl.conversion.prepare import prepare
from ftbc_pl.models import assign_weights, create_network, load_weights

WEIGHTS = Path(__file__).parent / "weights"
TEACHES_FROM = 0.93
"""A network trained before teaches others from this accuracy on, on the validation images."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        model: The arguments that rebuild it: network, activation, levels and, if need be, pooling.
        budget: Seconds that it gets unless told otherwise.
        start: Name of the ReLU weights it starts from; None: from scratch.
        teachers: Names of networks to distil from, the first that there is.
    """

    model: dict[str, str | int]
    budget: float
    start: str | None = None
    teachers: tuple[str, ...] = ()
    augmentation: Augmentation = field(default_factory=Augmentation)
    batch_size: int = 256
    rate: float = 0.1
    weight_decay: float = 5e-4


def _resnet(levels: int, budget: float) -> Recipe:
    model: dict[str, str | int] = {"network": "cifar_resnet20", "activation": "qcfs", "levels": levels}
    return Recipe(model, budget, "cifar10_r20_relu", ("cifar10_vgg16_qcfs4", "cifar10_r20_relu"))


RECIPES = {
    "cifar10_vgg16_qcfs4": Recipe(
        {"network": "cifar_vgg16", "activation": "qcfs", "levels": 4, "pooling": "avg"},
        budget=185,
        augmentation=Augmentation(cutout=12, changed=0.5),
    ),
    "cifar10_r20_qcfs4": _resnet(4, 135),
    "cifar10_r20_qcfs8": _resnet(8, 135),
}


def build(model: dict[str, str | int], activation: str, weights: Path | None = None) -> nn.Module:
    """A network with ReLUs or, prepared, with the activations of its own."""
    network = create_network(str(model["network"]), num_classes=10, pooling=model.get("pooling"))  # type: ignore[arg-type]
    network = prepare(network, activation, levels=int(model["levels"]))  # type: ignore[arg-type]
    return network if weights is None else load_weights(network, weights)


def initial(recipe: Recipe, images: Tensor) -> nn.Module:
    """The network to train, its thresholds at what a ReLU puts out for normalised `images` (B, 3, H, W)."""
    relu = build(recipe.model, "relu", WEIGHTS / f"{recipe.start}.safetensors" if recipe.start else None)
    relu.to(images.device)
    if recipe.start is None:
        # Without normalisation, wide linear layers with the weights of He et al. would ask for a far smaller rate.
        for module in relu.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        norms = [module for module in relu.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            relu.train()(images)
        for norm in norms:
            norm.momentum = 0.1
    levels = int(recipe.model["levels"])
    return prepare(relu, recipe.model["activation"], levels=levels, batches=[images])  # type: ignore[arg-type]


def teacher_of(recipe: Recipe, output: Path) -> tuple[str | None, nn.Module | None]:
    """Name and network of the recipe's first teacher that is there and good enough."""
    trained = saved(output)
    for name in recipe.teachers:
        if name in trained and trained[name]["accuracy"]["validation"] >= TEACHES_FROM:
            model = trained[name]["model"]
            return name, assign_weights(build(model, model["activation"]), expand(read(output, name)), output).eval()
        if name not in RECIPES:
            return name, build(recipe.model, "relu", WEIGHTS / f"{name}.safetensors").eval()
    return None, None
