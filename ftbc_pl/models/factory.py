"""Networks by name, through timm."""

import difflib
from pathlib import Path
from typing import Any, Literal

import timm
from torch import nn

from ftbc_pl.models.pooling import select_pooling
from ftbc_pl.models.weights import load_weights

# Arguments of timm's constructors that say where weights come from, not what the network is.
LOADING_ARGUMENTS = frozenset(
    {
        "cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
        "pretrained_filter_fn", "pretrained_model_args", "pretrained_strict", "weights",
    }
)  # fmt: skip

__all__ = ["LOADING_ARGUMENTS", "create_network"]


def create_network(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    pretrained: bool = False,
    weights: str | Path | None = None,
    pooling: Literal["max", "avg"] | None = None,
    input_size: int | None = None,
    reset_head: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """Create the network that timm, or this package, knows by `name`.

    Args:
        name: A name of timm's registry, such as `resnet34` or `vgg16_bn.tv_in1k`; `cifar_resnet20` and `cifar_vgg16`
            are ours.
        num_classes: Size of the output; left out: that of the network's own configuration.
        in_chans: Channels of the input images.
        pretrained: Load timm's pretrained weights, downloading them where needed.
        weights: File to read the weights from: safetensors, a PyTorch state dict or a checkpoint that holds one.
        pooling: `max` or `avg` for ResNets and VGGs; left out: as the network is.
        input_size: Height and width of the images in pixels; left out: that of the network's own configuration.
        reset_head: Whether the classifier keeps its start where the weights were trained for other classes.
        **kwargs: Whatever else the network's constructor takes.

    Raises:
        FileNotFoundError: There is no file at `weights`.
        ValueError: The name is unknown (with similar names), the weights don't fit, or the network has no pooling to
            choose.
    """
    given = dict(kwargs)
    if pretrained and weights is not None:
        raise ValueError(f"expected either pretrained=True or a file of weights, got both ({weights}); leave one out")
    base = name.partition(".")[0]
    if not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) and not timm.is_model(base):
        similar = difflib.get_close_matches(base, timm.list_models(), n=5)
        hint = f"did you mean {', '.join(similar)}?" if similar else "timm.list_models() lists all names"
        raise ValueError(f"expected a network that timm knows, got {name!r}; {hint}")
    if input_size is not None:
        kwargs["pretrained_cfg_overlay"] = {"input_size": (in_chans, input_size, input_size)}
        cfg = timm.get_pretrained_cfg(name)
        if cfg is not None and cfg.fixed_input_size:
            kwargs.setdefault("img_size", input_size)
    if num_classes is not None:
        kwargs["num_classes"] = num_classes
    try:
        network = timm.create_model(name, pretrained=pretrained, in_chans=in_chans, **kwargs)
    except RuntimeError as error:
        if "Invalid pretrained tag" not in str(error):
            raise
        raise ValueError(f"expected a pretrained tag that timm knows, got {name!r}; {error}") from error
    if pooling is not None:
        select_pooling(network, pooling)
    # Lets a saved network be rebuilt without its weights.
    arguments = {"num_classes": num_classes, "in_chans": in_chans, "pooling": pooling, "input_size": input_size}
    architecture = {key: value for key, value in given.items() if key not in LOADING_ARGUMENTS}
    network.recipe = {"name": name} | arguments | architecture  # type: ignore[assignment]  # modules hold what they are given
    return network if weights is None else load_weights(network, weights, reset_head=reset_head)
