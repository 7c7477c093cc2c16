"""Networks by name: all of timm's, and those for CIFAR, which importing this package registers: the papers' ResNets and
VGG-16, and a small MobileNetV2.
"""

from ftbc_pl.models import mobilenet, resnet, vgg  # registers the networks with timm
from ftbc_pl.models.factory import create_network
from ftbc_pl.models.pooling import select_pooling
from ftbc_pl.models.weights import assign_weights, load_weights, read_checkpoint_state, read_weights

__all__ = [
    "assign_weights",
    "create_network",
    "load_weights",
    "mobilenet",
    "read_checkpoint_state",
    "read_weights",
    "resnet",
    "select_pooling",
    "vgg",
]
