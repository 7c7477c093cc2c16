"""Networks with several outputs, feature maps, auxiliary heads, and those that must be handed in to load them."""

from collections import OrderedDict

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from ftbc_pl import ConversionError, calibrate_, convert, create_network, load_snn, save_snn
from ftbc_pl.conversion.check import check_conversion
from ftbc_pl.layers import SpikingNeuron
from tests.networks import count_activations, images, randomise_
from tests.own_networks import conv, tokens


class Encoder(nn.Module):
    """torch's own transformer layer, whose attention is one function made of many operations."""

    def __init__(self, batch_first):
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 5)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)

    def forward(self, x):
        x = tokens(self.embed(x))
        if not self.layer.self_attn.batch_first:
            return self.head(self.layer(x.transpose(0, 1)).mean(0))
        return self.head(self.layer(x).mean(1))


def test_torchs_own_transformer_layer_converts_batch_first():
    torch.manual_seed(0)
    ann = randomise_(Encoder(batch_first=True))
    snn = convert(ann, 64, batches=[images()], threshold="max")
    assert snn.report.spiking == 1
    operations = [site.operation for site in snn.report.sites]
    assert operations == ["scaled_dot_product_attention", "layer_norm", "relu", "layer_norm"]
    exact = ann(images())
    assert ((snn(images()).mean(0) - exact).norm() / exact.norm()).item() < 0.05
    with pytest.raises(ConversionError, match="use batch_first=True"):
        convert(randomise_(Encoder(batch_first=False)), 4, batches=[images()])


class Pyramid(nn.Module):
    """Features before and after the first activation, by name, and a number."""

    def __init__(self):
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        low = self.stem(x)
        high = F.relu(self.down(F.relu(low)))
        return OrderedDict(low=low, high=[high], scores=self.head(high.mean((2, 3))), stride=2, none=None)


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_several_outputs_keep_their_structure(chunk, tmp_path):
    torch.manual_seed(0)
    ann = Pyramid().eval()
    snn = convert(ann, 4, batches=[images()], threshold="max")
    snn.time_chunk = chunk
    calibrate_(snn, [images()], progress=False)
    outputs, exact = snn(images()), ann(images())
    assert list(outputs) == list(exact)
    assert outputs["stride"] == 2
    assert outputs["none"] is None
    assert outputs["high"][0].shape == (4, *exact["high"][0].shape)
    assert outputs["scores"].shape == (4, 16, 5)
    # What comes before the first activation is the same at each step.
    assert all(torch.equal(step, exact["low"]) for step in outputs["low"])
    save_snn(snn, tmp_path)
    assert torch.equal(load_snn(tmp_path, ann=Pyramid())(images())["scores"], outputs["scores"])


BACKBONES = {
    "resnet18": lambda: create_network("resnet18", features_only=True),
    "vgg11_bn": lambda: create_network("vgg11_bn", features_only=True),
    "regnetx_002": lambda: create_network("regnetx_002", features_only=True, out_indices=(1, 3)),
    "vit": lambda: create_network(
        "vit_tiny_patch16_224", features_only=True, img_size=32, act_layer="relu", embed_dim=48, depth=3
    ),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_give_running_feature_maps(name, tmp_path):
    torch.manual_seed(0)
    ann = randomise_(BACKBONES[name]())
    batch = images(2, 32)
    snn = convert(ann, 3, batches=[batch], threshold="max", fold_bn=True)
    outputs, exact = snn(batch), ann(batch)
    assert len(exact) >= 2
    assert [tuple(out.shape) for out in outputs] == [(3, *out.shape) for out in exact]
    save_snn(snn, tmp_path)
    loaded = load_snn(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded(batch), outputs, strict=True))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_and_normalisation_inside_the_network_are_no_obstacle(name):
    torch.manual_seed(0)
    with pytest.warns(FutureWarning, match="initialization"):
        ann = torchvision.models.get_model(name, weights=None, aux_logits=True, transform_input=True)
    ann = randomise_(ann)
    relus, _ = count_activations(ann, images(2, 96))
    assert convert(ann, 2, example=images(2, 96), measure=False).report.spiking == relus


def test_a_segmentation_network_converts():
    torch.manual_seed(0)
    ann = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=3)
    ann = randomise_(ann)
    snn = convert(ann, 2, example=images(2, 32), measure=False)
    assert snn(images(2, 32))["out"].shape == (2, 2, 3, 32, 32)
    assert snn.report.spiking == count_activations(ann, images(2, 32))[0]


def test_a_network_saved_by_name_but_built_otherwise_must_be_handed_in(tmp_path):
    torch.manual_seed(0)
    ann = timm.create_model("vit_tiny_patch16_224", img_size=32, act_layer="relu", depth=1).eval()
    snn = convert(ann, 2, batches=[images(2, 32)])
    save_snn(snn, tmp_path)
    with pytest.raises(ValueError, match=r"than its name builds: .* Pass ann= with the architecture that was saved"):
        load_snn(tmp_path)
    assert torch.equal(load_snn(tmp_path, ann=ann)(images(2, 32)), snn(images(2, 32)))


def test_the_check_leaves_buffers_outside_the_state_dict_alone():
    class Blur(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kernel", torch.full((4, 1, 3, 3), 1 / 9), persistent=False)

        def forward(self, x):
            return F.conv2d(x, self.kernel, padding=1, groups=4)

    ann = nn.Sequential(conv()(), nn.ReLU(), Blur(), nn.Flatten(), nn.Linear(256, 5)).eval()
    snn = convert(ann, 2, batches=[images()])
    check_conversion(snn, images(2))
    assert snn.network[2].kernel.dtype == torch.float32
    assert isinstance(snn.sites[0], SpikingNeuron)
