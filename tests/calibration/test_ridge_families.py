"""Fitted weights leave the property that matters with time: the mean output approaches the ANN's as T grows."""

import pytest
import timm
import torch
import torchvision
from timm.models.densenet import DenseNet
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from ftbc_pl import calibrate_, convert
from tests.networks import images, randomise_

SMALL = {"layers": [1, 1, 1, 1], "channels": (16, 24, 32, 48), "num_classes": 10}
VIT = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3, "act_layer": "relu"}


def vgg():
    features = torchvision.models.vgg.make_layers([8, "M", 16, "M", 24, 24, "M"], batch_norm=True)
    return nn.Sequential(features, nn.Flatten(), nn.Linear(24 * 16, 32), nn.ReLU(), nn.Linear(32, 10))


FAMILIES = {
    "ResNet": lambda: ResNet(BasicBlock, **SMALL),
    "SE-ResNet": lambda: ResNet(BasicBlock, block_args={"attn_layer": "se"}, **SMALL),
    "VGG": vgg,
    "DenseNet": lambda: DenseNet(growth_rate=8, block_config=(2, 2, 2), num_classes=10),
    "ViT": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=10, **VIT),
    "RegNetX": lambda: timm.create_model("regnetx_002", num_classes=10),
    "RegNetY": lambda: timm.create_model("regnety_002", num_classes=10),
    "MNASNet": lambda: timm.create_model("mnasnet_small", num_classes=10),
    "SqueezeNet": lambda: torchvision.models.squeezenet1_1(num_classes=10),
    "ResNeXt": lambda: ResNet(Bottleneck, cardinality=4, base_width=8, **SMALL),
}
QUICK = ("ResNet", "VGG", "ViT")


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in FAMILIES]
)
def test_the_error_still_falls_with_the_number_of_steps(family):
    torch.manual_seed(0)
    ann, batch = randomise_(FAMILIES[family]()), images(50, 32)
    errors = {}
    for steps in (8, 32):
        snn = convert(ann, steps, batches=[batch], threshold="max")
        before = error(snn, ann, batch)
        assert calibrate_(snn, [batch], weights="ridge", readout="mean", progress=False).weights
        errors[steps] = before, error(snn, ann, batch)
    assert errors[32][1] < 0.7 * errors[8][1]  # 0.25 would be exactly 1/T, from which larger T are not far
    assert errors[32][1] < 1.2 * errors[32][0]  # nor is it bought by being worse than without


@torch.no_grad()
def error(snn, ann, batch):
    """Relative error of the mean output."""
    exact = ann(batch)
    return float((snn(batch).mean(0) - exact).norm() / exact.norm())
