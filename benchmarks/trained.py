"""The trained networks below benchmarks/weights and the images of CIFAR-10 they are measured on."""

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ftbc_pl import prepare
from ftbc_pl.data import ImageData
from ftbc_pl.data.batches import Images
from ftbc_pl.models import create_network, load_weights

WEIGHTS = Path(__file__).parent / "weights"


def names() -> list[str]:
    """Names of the trained networks."""
    return sorted(path.stem for path in WEIGHTS.glob("*.json"))


def description(name: str) -> dict[str, Any]:
    """How a trained network was made and what it scores."""
    content: dict[str, Any] = json.loads((WEIGHTS / f"{name}.json").read_text())
    return content


def load(name: str) -> nn.Module:
    """A trained network in eval mode."""
    model = description(name)["model"]
    network = create_network(model["network"], num_classes=10, pooling=model.get("pooling"))
    network = prepare(network, model["activation"], levels=model["levels"])
    network = load_weights(network, WEIGHTS / f"{name}.safetensors").eval()
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@torch.no_grad()
def accuracy(ann: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Top-1 accuracy of an ANN, in 0..1."""
    hits = [ann(images).argmax(1) == labels for images, labels in loader]
    return float(torch.cat(hits).double().mean())


class Cifar10:
    """CIFAR-10 in three roles; what is selected is selected on validation images."""

    def __init__(self, root: str, download: bool = False, validation: int = 5000, device: str = "cpu") -> None:
        """Name a folder with train.tar and test.tar of class folders, or torchvision's files if `download`.

        Batches of images to calibrate and to evaluate with lie on `device`.
        """
        self.root, self.download, self.validation, self.device = root, download, validation, device
        self._batches: dict[tuple[str, int], list[tuple[Tensor, Tensor]]] = {}

    @cached_property
    def data(self) -> ImageData:
        """The images; only read when they are needed, so that what was measured can be printed without them."""
        name = "torch/cifar10" if self.download else "folder"
        data = ImageData(
            self.root, name, num_classes=10, download=self.download, val_split=self.validation, input_size=32
        )
        if self.download:
            data.prepare_data()
        return data

    def batches(self, role: str, count: int) -> list[tuple[Tensor, Tensor]]:
        """Batches of `count` images of a role (val, test), spread evenly over it."""
        if (role, count) not in self._batches:
            images = self.data.images(role)  # type: ignore[arg-type]
            if count > len(images):
                raise ValueError(f"expected at most the {len(images)} {role} images there are, got --images {count}")
            chosen = [index * len(images) // count for index in range(count)]
            # A GPU has more to do at a time with larger batches.
            self._batches[role, count] = self._load(images, chosen, 100 if self.device == "cpu" else 250)
        return self._batches[role, count]

    def calibration(self, batch_size: int, num_batches: int, draw: int) -> list[Tensor]:
        """Training images without augmentation; each draw takes others."""
        images = self.data.images("calibration")
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(draw))
        return [batch for batch, _ in self._load(images, order[: batch_size * num_batches].tolist(), batch_size)]

    def _load(self, images: Images, chosen: list[int], batch_size: int) -> list[tuple[Tensor, Tensor]]:
        batches = (images.__getitems__(chosen[i : i + batch_size]) for i in range(0, len(chosen), batch_size))
        return [(batch.to(self.device), labels.to(self.device)) for batch, labels in batches]
