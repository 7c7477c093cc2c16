"""ResNet-20, -56 and -110 for 32×32 images, registered with timm.

The network of "Deep Residual Learning for Image Recognition" (He et al., CVPR 2016, section 4.2), with projection
shortcuts (1×1 convolution and batch normalisation) as in the papers on ANN-to-SNN conversion.
https://arxiv.org/abs/1512.03385
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)

__all__ = ["CIFAR_MEAN", "CIFAR_STD", "CifarResNet", "cifar_cfg", "init_weights"]


def cifar_cfg(**overrides: Any) -> dict[str, Any]:
    """Return timm's description of a network for 32×32 images: input size, normalisation, first and last layer."""
    cfg = {
        "input_size": (3, 32, 32),
        "num_classes": 10,
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": CIFAR_MEAN,
        "std": CIFAR_STD,
    }
    return cfg | overrides


def init_weights(network: nn.Module) -> None:
    """Initialise convolutions and linear layers in place as in He et al. (2015), normalisation as the identity."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; each ReLU is a module of its own, called once a forward."""

    def __init__(self, in_chans: int, out_chans: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, out_chans, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_chans)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_chans, out_chans, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_chans)
        self.relu2 = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_chans != out_chans:
            conv = nn.Conv2d(in_chans, out_chans, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out_chans))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, C', H/stride, W/stride)`."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y)) + self.shortcut(x)
        return self.relu2(y)


class CifarResNet(nn.Module):
    """Three stages of `blocks` basic blocks with 16, 32 and 64 channels."""

    def __init__(self, blocks: int = 3, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0) -> None:
        """Create the network.

        Args:
            blocks: Basic blocks in each stage: 3 makes ResNet-20, 9 ResNet-56, 18 ResNet-110.
            num_classes: Size of the output; 0 leaves out the classifier.
            in_chans: Channels of the input images.
            drop_rate: Probability of dropout before the classifier.
        """
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = 64
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._stage(16, 16, blocks, stride=1)
        self.layer2 = self._stage(16, 32, blocks, stride=2)
        self.layer3 = self._stage(32, 64, blocks, stride=2)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(64, num_classes) if num_classes else nn.Identity()
        init_weights(self)

    @staticmethod
    def _stage(in_chans: int, out_chans: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_chans, out_chans, stride)
        return nn.Sequential(first, *(BasicBlock(out_chans, out_chans, 1) for _ in range(blocks - 1)))

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer by a fresh one for `num_classes` classes (0: none). The pooling can't be changed."""
        if global_pool not in (None, "avg"):
            raise ValueError(f"expected global_pool 'avg' (the only one this network has), got {global_pool!r}")
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` to features `(B, 64, H/4, W/4)`."""
        x = self.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map features `(B, 64, H, W)` to logits `(B, num_classes)`, or to `(B, 64)` with `pre_logits`."""
        x = self.drop(self.flatten(self.global_pool(x)))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` to logits `(B, num_classes)`."""
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {
        f"cifar_resnet{depth}": cifar_cfg(first_conv="conv1", classifier="fc", license="apache-2.0")
        for depth in (20, 56, 110)
    }
)


def _create(variant: str, blocks: int, pretrained: bool, **kwargs: Any) -> CifarResNet:
    return build_model_with_cfg(CifarResNet, variant, pretrained, blocks=blocks, **kwargs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Build ResNet-20 for 32×32 images: 19 ReLUs, 0.27 million parameters."""
    return _create("cifar_resnet20", 3, pretrained, **kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Build ResNet-56 for 32×32 images: 55 ReLUs, 0.86 million parameters."""
    return _create("cifar_resnet56", 9, pretrained, **kwargs)


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Build ResNet-110 for 32×32 images: 109 ReLUs, 1.7 million parameters."""
    return _create("cifar_resnet110", 18, pretrained, **kwargs)
