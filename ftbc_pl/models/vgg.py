"""VGG-16 with batch normalisation for 32×32 images, registered with timm.

The convolutions of "Very Deep Convolutional Networks for Large-Scale Image Recognition" (Simonyan & Zisserman, 2015),
configuration D, with the head used for CIFAR by "Optimal ANN-SNN Conversion" (Bu et al., ICLR 2022).
https://arxiv.org/abs/1409.1556
"""

from typing import Any, Literal

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ftbc_pl.models.resnet import cifar_cfg, init_weights

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
POOLING = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}

__all__ = ["POOLING", "CifarVGG"]


class CifarVGG(nn.Module):
    """Thirteen 3×3 convolutions, each with batch normalisation and ReLU, five 2×2 poolings and three linear layers."""

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        pooling: Literal["max", "avg"] = "max",
    ) -> None:
        """Create the network.

        Args:
            num_classes: Size of the output; 0 leaves out the last linear layer.
            in_chans: Channels of the input images, which are at least 32×32.
            drop_rate: Probability of dropout after each of the two hidden linear layers.
            pooling: `max`, or `avg`, which is linear and so converts to spikes without any replacement.
        """
        super().__init__()
        if pooling not in POOLING:
            raise ValueError(f"expected pooling to be one of {sorted(POOLING)}, got {pooling!r}")
        self.num_classes = num_classes
        self.num_features, self.head_hidden_size = 512, 4096
        layers: list[nn.Module] = []
        for widths in STAGES:
            for width in widths:
                conv = nn.Conv2d(in_chans, width, 3, 1, 1, bias=False)
                layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                in_chans = width
            layers.append(POOLING[pooling](2))
        self.features = nn.Sequential(*layers)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.pre_logits = nn.Sequential(
            nn.Flatten(1),
            nn.Linear(self.num_features, self.head_hidden_size),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
            nn.Linear(self.head_hidden_size, self.head_hidden_size),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
        )
        self.fc = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()
        init_weights(self)

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer by a fresh one for `num_classes` classes (0: none). The pooling can't be changed."""
        if global_pool not in (None, "avg"):
            raise ValueError(f"expected global_pool 'avg' (the only one this network has), got {global_pool!r}")
        self.num_classes = num_classes
        self.fc = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` to features `(B, 512, H/32, W/32)`."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map features `(B, 512, H, W)` to logits `(B, num_classes)`, or to `(B, 4096)` with `pre_logits`."""
        x = self.pre_logits(self.global_pool(x))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` to logits `(B, num_classes)`."""
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {
        "cifar_vgg16": cifar_cfg(
            first_conv="features.0", classifier="fc", pool_size=(1, 1), min_input_size=(3, 32, 32), license="apache-2.0"
        )
    }
)


@register_model
def cifar_vgg16(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """Build VGG-16 with batch normalisation for 32×32 images: 15 ReLUs, 34 million parameters."""
    return build_model_with_cfg(CifarVGG, "cifar_vgg16", pretrained, **kwargs)
