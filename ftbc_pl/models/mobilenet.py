"""A small MobileNetV2 for 32×32 images, registered with timm.

Inverted residuals with linear bottlenecks and ReLU6 of "MobileNetV2: Inverted Residuals and Linear Bottlenecks"
(Sandler et al., CVPR 2018), with fewer and narrower blocks, and two halvings of the image in place of five.
https://arxiv.org/abs/1801.04381
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import nn

from ftbc_pl.models.resnet import cifar_cfg

# Repeats r, kernel k, stride s, expansion e and channels c of each stage.
_STAGES = [["ds_r1_k3_s1_c16"], ["ir_r2_k3_s2_e4_c24"], ["ir_r3_k3_s2_e4_c48"], ["ir_r2_k3_s1_e4_c80"]]


class CifarMobileNetV2(EfficientNet):
    """timm's implementation with a stem that keeps the size of the image."""

    def __init__(self, **kwargs: Any) -> None:
        """Create the network.

        Args:
            **kwargs: Whatever timm's EfficientNet takes: num_classes, in_chans, drop_rate …
        """
        defaults: dict[str, Any] = {"stem_size": 16, "fix_stem": True, "num_features": 320, "act_layer": nn.ReLU6}
        super().__init__(decode_arch_def(_STAGES), **defaults | kwargs)
        self.conv_stem.stride = (1, 1)


default_cfgs = generate_default_cfgs(
    {"cifar_mobilenetv2": cifar_cfg(first_conv="conv_stem", classifier="classifier", license="apache-2.0")}
)


@register_model
def cifar_mobilenetv2(pretrained: bool = False, **kwargs: Any) -> CifarMobileNetV2:
    """Build a small MobileNetV2 for 32×32 images: 17 ReLU6s, 0.2 million parameters."""
    return build_model_with_cfg(CifarMobileNetV2, "cifar_mobilenetv2", pretrained, **kwargs)
