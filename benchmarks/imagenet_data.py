"""Networks of ImageNet with their weights and preprocessing, and real images in memory."""

import lzma
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from ftbc_pl.data import ImageData
from ftbc_pl.data.batches import Batch, Images

CAFFE_MEAN = [122.679 / 255, 116.669 / 255, 104.006 / 255]


@dataclass(frozen=True)
class Network:
    """A network of ImageNet.

    Attributes:
        make: Makes it without weights.
        weights: File below weights/.
        size: Side of its input in pixels.
        mean: Of its input, for images in 0..1.
        std: The same.
    """

    make: Callable[[], nn.Module]
    weights: str
    size: int
    mean: list[float]
    std: list[float]


NETWORKS = {
    "squeezenet1_1": Network(
        torchvision.models.squeezenet1_1, "squeezenet1_1.safetensors", 227, CAFFE_MEAN, [1 / 255] * 3
    ),
    "mobilenetv2_100": Network(
        # The padding of TensorFlow, in which it was trained.
        lambda: timm.create_model("mobilenetv2_100", pad_type="same"),
        "mobilenetv2_100.safetensors.xz",
        224,
        [0.5] * 3,
        [0.5] * 3,
    ),
    "tf_efficientnet_lite0": Network(
        lambda: timm.create_model("tf_efficientnet_lite0"),
        "tf_efficientnet_lite0.safetensors",
        224,
        [0.5] * 3,
        [0.5] * 3,
    ),
}


@dataclass(frozen=True)
class Decoded:
    """Images and classes in memory, handed out in batches on a device."""

    images: Tensor
    labels: Tensor
    device: str

    def at(self, indices: Tensor) -> "Decoded":
        """Some of them."""
        return Decoded(self.images[indices], self.labels[indices], self.device)

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """All of them, in batches."""
        pairs = zip(self.images.split(size), self.labels.split(size), strict=True)
        layout = torch.channels_last
        return [(images.to(self.device, memory_format=layout), labels.to(self.device)) for images, labels in pairs]


class ImageNet:
    """A network and the images that it is calibrated with and measured on, through its own preprocessing."""

    def __init__(
        self, name: str, root: str, device: str, every: int = 1, batch_size: int = 20, workers: int = 0
    ) -> None:
        """Name a network and the folder of the images.

        Args:
            name: One of `NETWORKS`.
            root: Folder with train.tar, val.tar and weights/.
            device: Where network and batches lie.
            every: Take every so many of the validation images.
            batch_size: Of the validation images.
            workers: Processes that decode images.
        """
        self.kind, self.root, self.device = NETWORKS[name], root, device
        self.every, self.batch_size, self.workers = every, batch_size, workers

    @cached_property
    def ann(self) -> nn.Module:
        """The trained network."""
        path = Path(self.root) / "weights" / self.kind.weights
        content = path.read_bytes()
        content = lzma.decompress(content) if path.suffix == ".xz" else content
        network = self.kind.make()
        network.load_state_dict(safetensors.torch.load(content))
        return network.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    @cached_property
    def data(self) -> ImageData:
        """The images, through the network's own preprocessing."""
        return ImageData(
            self.root,
            num_classes=1000,
            test_split="val",
            val_split=0,
            input_size=self.kind.size,
            mean=self.kind.mean,
            std=self.kind.std,
            interpolation="bicubic",
            crop_pct=1.0,
        )

    @cached_property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Every so many validation image."""
        images = self.data.images("test")
        chosen = list(range(0, len(images), self.every))
        return self._loaded(images, chosen, "validation images").batches(self.batch_size)

    @cached_property
    def training_images(self) -> Decoded:
        """Training images, each decoded once."""
        images = self.data.images("calibration")
        return self._loaded(images, list(range(len(images))), "training images")

    def calibration(self, batch_size: int, num_batches: int, draw: int) -> list[Tensor]:
        """Batches of training images; each draw takes others."""
        count = len(self.training_images.labels)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(draw))
        chosen = self.training_images.at(order[: batch_size * num_batches])
        return [images for images, _ in chosen.batches(batch_size)]

    def _loaded(self, images: Images, chosen: list[int], title: str) -> Decoded:
        chosen_images: Dataset[Batch] = Subset(images, chosen)
        loader = DataLoader(chosen_images, self.batch_size, num_workers=self.workers, collate_fn=_as_it_is)  # type: ignore[arg-type]
        parts = list(tqdm(loader, desc=f"Decoding {title}"))
        pixels, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        return Decoded(pixels, labels, self.device)


def _as_it_is(batch: Batch) -> Batch:
    return batch
