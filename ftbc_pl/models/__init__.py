"""Networks by name: all of timm's, and the papers' CIFAR ResNets and VGG-16, which importing this package registers."""

from . import resnet, vgg  # registers the networks with timm
from .factory import create_network
from .pooling import select_pooling
from .weights import load_weights, read_weights

__all__ = ["create_network", "load_weights", "read_weights", "resnet", "select_pooling", "vgg"]
