"""Networks people have, of timm and torchvision: each converts, calibrates in one forward, and loads again."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from ftbc_pl import ConversionError, calibrate_, convert, load_snn, save_snn
from tests.networks import count_activations, images, randomise_

TIMM = """
    resnet18 resnet18d resnet34 resnet50 wide_resnet50_2 resnext50_32x4d resnetv2_50 vgg11_bn vgg16 vgg16_bn
    mobilenetv1_100 mobilenetv2_100 efficientnet_lite0 tf_efficientnet_lite0 mnasnet_100 semnasnet_050 regnetx_002
    regnety_002 repvgg_a0 mobileone_s0 densenet121 inception_v3 xception41 legacy_xception hrnet_w18_small
    res2net50_26w_4s dla34 seresnet18 skresnet18 ese_vovnet19b_dw selecsls42 gernet_s nf_resnet26 ghostnet_050
    pnasnet5large
"""
TORCHVISION = """
    resnet18 resnet50 vgg11_bn mobilenet_v2 googlenet densenet121 inception_v3 regnet_y_400mf shufflenet_v2_x1_0
    squeezenet1_1 mnasnet1_0
"""
LEAKY = ["tresnet_m", "darknet53", "cspresnet50"]
TRANSFORMERS = ["vit_tiny_patch16_224", "deit_tiny_patch16_224"]
# Those that a forward of 64×64 pixels does not get through, or that take over ten seconds.
SIZES = {"inception_v3": 75, "pnasnet5large": 96}
SLOW = {"vgg11_bn"}
LONG = {"vgg16", "vgg16_bn", "pnasnet5large", "wide_resnet50_2"}
# All their activations are leaky.
WITHOUT_SPIKES = ["darknet53", "cspresnet50"]


def named(names):
    marks = dict.fromkeys(SLOW, pytest.mark.slow) | dict.fromkeys(LONG, pytest.mark.long)
    return [pytest.param(name, marks=marks.get(name, ())) for name in names.split()]


def create_timm(name, **kwargs):
    torch.manual_seed(0)
    return randomise_(timm.create_model(name, num_classes=10, **kwargs))


def create_torchvision(name):
    torch.manual_seed(0)
    kwargs = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return randomise_(torchvision.models.get_model(name, weights=None, num_classes=10, **kwargs))


def converts(network, name, folder, by_name, **options):
    """Convert, compare with an independent count, calibrate, save, load."""
    size = SIZES.get(name, 64)
    batch = images(2, size)
    relus, smooth = count_activations(network, batch)
    snn = convert(network, 2, batches=[batch], threshold="max", fold_bn=by_name, **options)
    report = snn.report
    assert report.spiking == len(list(snn.neurons())) == relus
    smooth_sites = [site for site in report.sites if site.operation in ("leaky_relu", "gelu")]
    assert len(smooth_sites) == smooth
    assert all(site.kind == "rate-exact" for site in smooth_sites)
    calibration = calibrate_(snn, [batch], progress=False)
    assert calibration.forward_passes == 1
    assert len(calibration.sites) == relus
    outputs = snn(batch)
    assert outputs.shape == (2, 2, 10)
    assert outputs.isfinite().all()
    save_snn(snn, folder)
    loaded = load_snn(folder, ann=None if by_name else network)
    assert loaded.report == report
    assert torch.equal(loaded(batch), outputs)
    return snn


@pytest.mark.parametrize("name", named(TIMM))
def test_timm(name, tmp_path):
    snn = converts(create_timm(name), name, tmp_path, by_name=True)
    assert snn.report.spiking >= 10


@pytest.mark.parametrize("name", named(TORCHVISION))
def test_torchvision(name, tmp_path):
    converts(create_torchvision(name), name, tmp_path, by_name=False)


@pytest.mark.parametrize("name", LEAKY)
def test_leaky_relu_is_an_error_unless_asked_for(name, tmp_path):
    network = create_timm(name)
    _, smooth = count_activations(network, images(2, 64))
    with pytest.raises(ConversionError, match="leaky_relu: it is not a ReLU") as error:
        convert(network, 2, batches=[images(2, 64)])
    assert len(error.value.problems) == smooth
    assert all("layers/" in problem or "models/" in problem for problem in error.value.problems)
    if name in WITHOUT_SPIKES:
        with pytest.warns(UserWarning, match="nothing in it spikes"):
            snn = converts(network, name, tmp_path, by_name=True, smooth="rate")
        assert snn.report.spiking == 0
    else:
        converts(network, name, tmp_path, by_name=True, smooth="rate")


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_with_relu_spike_in_the_mlp(name, tmp_path):
    snn = converts(create_timm(name, img_size=64, act_layer="relu"), name, tmp_path, by_name=False)
    assert [site.name for site in snn.report.sites if site.kind == "spiking"] == [
        f"blocks.{i}.mlp.act" for i in range(12)
    ]
    assert all(site.channel_dim == 2 and site.threshold.shape == (768,) for _, site in snn.neurons())
    operations = snn.report.totals()["operations"]["rate-exact"]
    assert operations == {"layer_norm": 25, "scaled_dot_product_attention": 12}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_with_gelu_run_on_request(name, tmp_path):
    network = create_timm(name, img_size=64, depth=2)
    message = r"blocks\.0\.mlp\.act \(layers/mlp\.py:\d+\): gelu: it is not a ReLU"
    with pytest.raises(ConversionError, match=message) as error:
        convert(network, 2, batches=[images(2, 64)])
    assert len(error.value.problems) == 2
    with pytest.warns(UserWarning, match="nothing in it spikes"):
        snn = converts(network, name, tmp_path, by_name=False, smooth="rate")
    batch = images(2, 64)
    torch.testing.assert_close(snn(batch).mean(0), network(batch), rtol=1e-4, atol=1e-4)


def test_torchvisions_transformer_is_seen_through(tmp_path):
    """Its attention is one function of many operations, which computes with the batch in the second dimension."""
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(32, 16, 2, 2, 8, 16, num_classes=10)
    nn.init.normal_(network.heads.head.weight)
    for block in network.encoder.layers:
        block.mlp[1] = nn.ReLU()
    network = randomise_(network)
    batch = images(2, 32)
    snn = convert(network, 2, batches=[batch], threshold="max")
    assert snn.report.spiking == 2
    operations = snn.report.totals()["operations"]["rate-exact"]
    assert operations == {"layer_norm": 5, "scaled_dot_product_attention": 2}
    snn.time_chunk = 1
    assert snn(batch).shape == (2, 2, 10)
