"""Networks that users write: every spelling of an activation, every layout, several outputs, and what can't convert."""

from collections import OrderedDict

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ftbc_pl import ConversionError, calibrate_, convert, create_network, load_snn, save_snn
from ftbc_pl.conversion.check import check_conversion
from ftbc_pl.layers import SpikingNeuron
from tests.networks import count_activations, images, randomise_


class Apply(nn.Module):
    """Layers from a ModuleDict, put together by a function."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleDict(layers)

    def forward(self, x):
        return self.function(x, **self.layers)


def network(function, **layers):
    torch.manual_seed(0)
    return randomise_(Apply(function, **{name: layer() for name, layer in layers.items()}))


def conv(inputs=3, outputs=4, size=3, kind=nn.Conv2d, **options):
    return lambda: kind(inputs, outputs, size, padding=size // 2, **options)


def head(inputs):
    return lambda: nn.Linear(inputs, 5)


ACTIVATIONS = {
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
    "clamp": lambda x: x.clamp(min=0),
    "clamp by position": lambda x: torch.clamp(x, 0),
    "clamp_min": lambda x: x.clamp_min(0.0),
    "clip": lambda x: torch.clip(x, min=0),
    "clamp_": lambda x: x.clamp_(min=0),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, 0.0, 0.7),
    "bounded clamp": lambda x: x.clamp(0, 0.3),
}
BOUNDS = {"relu6": 6.0, "hardtanh": 0.7, "bounded clamp": 0.3}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_spelling_of_an_activation_spikes(name):
    act = ACTIVATIONS[name]
    ann = network(lambda x, a, b, c: c(act(b(act(a(x)))).mean((2, 3))), a=conv(), b=conv(4, 4), c=head(4))
    assert count_activations(ann, images(2))[0] == 2
    snn = convert(ann, 3, batches=[images()], threshold="max")
    assert [site.origin for site in snn.report.sites] == ["function", "function"]
    assert snn.report.spiking == 2
    assert [site.upper for site in snn.report.sites] == [BOUNDS.get(name)] * 2


@pytest.mark.parametrize("threshold", ["max", "mse", 99.0])
@pytest.mark.parametrize("bound", [0.01, 0.3])
def test_thresholds_respect_an_upper_bound(threshold, bound):
    ann = nn.Sequential(conv()(), nn.Hardtanh(0, bound), nn.Flatten(), nn.Linear(256, 5)).eval()
    ann[0].weight.data[0], ann[0].bias.data[:2] = 0, torch.tensor([-1.0, 9.0])  # dead, and always at the bound
    snn = convert(ann, 4, batches=[images()], threshold=threshold)
    _, site = next(snn.neurons())
    assert (site.threshold <= bound).all()
    if threshold == "max":
        assert site.threshold[1] == torch.tensor(bound)
    assert snn(images()).isfinite().all()


def test_thresholds_respect_an_upper_bound_where_nothing_is_active():
    ann = nn.Sequential(conv()(), nn.Hardtanh(0, 0.5), nn.Flatten(), nn.Linear(256, 5)).eval()
    ann[0].weight.data.zero_()
    ann[0].bias.data.fill_(-1)
    for options in ({"batches": [images()]}, {"example": images(2), "measure": False}):
        _, site = next(convert(ann, 4, **options).neurons())
        assert (site.threshold == 0.5).all()


class Block(nn.Module):
    def __init__(self, channels, shared):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), shared)
        self.act = shared

    def forward(self, x):
        return self.act(self.body(x) + x)


class Nested(nn.Module):
    """One ReLU for all, called in a loop over a ModuleList, in Sequentials, after an add of two inputs."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList(Block(4, self.act) for _ in range(3))
        self.branches = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)])
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.act(self.stem(x))
        for block in self.blocks:
            x = block(x)
        x = F.relu(self.branches[0](x) + self.branches[1](x))
        return self.head(x.mean((2, 3)))


def test_a_shared_module_gets_a_neuron_for_every_call():
    torch.manual_seed(0)
    ann = randomise_(Nested())
    relus, _ = count_activations(ann, images(2))
    snn = convert(ann, 3, batches=[images()], threshold="max")
    assert relus == 8 == snn.report.spiking
    assert [site.name for site in snn.report.sites] == ["act", *(f"act#{i}" for i in range(2, 8)), "(network)"]
    assert [site.origin for site in snn.report.sites] == ["shared module"] * 7 + ["function"]
    assert len({id(site) for site in snn.sites}) == 8


def ranks(kind):
    return {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}[kind]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"groups": 4}, {"dilation": 2}], ids=str)
def test_convolutions_of_any_rank_and_kind(rank, options):
    kind, norm = ranks(rank)
    dims = tuple(range(2, 2 + rank))
    ann = network(
        lambda x, a, b, n, c: c(F.relu(n(b(F.relu(a(x))))).mean(dims)),
        a=conv(3, 4, kind=kind),
        b=conv(4, 8, kind=kind, **options),
        n=lambda: norm(8),
        c=head(8),
    )
    batch = torch.randn(4, 3, *[6] * rank, generator=torch.Generator().manual_seed(0))
    for fold in (False, True):
        snn = convert(ann, 3, batches=[batch], threshold="max", fold_bn=fold)
        assert [site.channels for site in snn.report.sites] == [4, 8]
        assert snn.report.folded_layers == fold
        assert calibrate_(snn, [batch], progress=False).forward_passes == 1
        assert snn(batch).shape == (3, 4, 5)


def tokens(x):
    return x.flatten(2).transpose(1, 2)


# name: network, shape of the input, dimension of the channels at the spiking site
LAYOUTS = {
    "(B, C)": (network(lambda x, a, c: c(F.relu(a(x))), a=lambda: nn.Linear(7, 6), c=head(6)), (7,), 1),
    "(B, C, H, W)": (network(lambda x, a, c: c(F.relu(a(x)).mean((2, 3))), a=conv(), c=head(4)), (3, 6, 6), 1),
    "(B, C, L)": (
        network(lambda x, a, c: c(F.relu(a(x)).mean(2)), a=conv(kind=nn.Conv1d), c=head(4)),
        (3, 6),
        1,
    ),
    "(B, N, C)": (
        network(lambda x, a, b, c: c(F.relu(b(tokens(a(x)))).mean(1)), a=conv(), b=lambda: nn.Linear(4, 6), c=head(6)),
        (3, 5, 6),
        2,
    ),
    "(B, N, C) without a linear layer": (
        network(lambda x, a, c: c(F.relu(tokens(a(x))).mean(1)), a=conv(), c=head(4)),
        (3, 5, 6),
        2,
    ),
    "(B, C, N)": (network(lambda x, a, c: c(F.relu(a(x).flatten(2)).mean(2)), a=conv(), c=head(4)), (3, 5, 6), 1),
    "(B, H, W, C)": (
        network(
            lambda x, a, b, c: c(F.relu(b(a(x).permute(0, 2, 3, 1))).mean((1, 2))),
            a=conv(),
            b=lambda: nn.Linear(4, 6),
            c=head(6),
        ),
        (3, 5, 6),
        3,
    ),
    "(B, H, W, C) without a linear layer": (
        network(lambda x, a, c: c(F.relu(a(x).permute(0, 2, 3, 1)).mean((1, 2))), a=conv(), c=head(4)),
        (3, 5, 6),
        3,
    ),
    "back to (B, C, H, W)": (
        network(
            lambda x, a, b, c: c(F.relu(b(a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).mean((2, 3))),
            a=conv(),
            b=lambda: nn.Linear(4, 6),
            c=head(6),
        ),
        (3, 5, 6),
        1,
    ),
    "flattened": (
        network(lambda x, a, c: c(F.relu(a(x).flatten(1))), a=conv(3, 2), c=head(18)),
        (3, 3, 3),
        1,
    ),
    "slice of a sequence": (
        network(lambda x, a, b, c: c(F.relu(b(tokens(a(x)))[:, 0])), a=conv(), b=lambda: nn.Linear(4, 6), c=head(6)),
        (3, 5, 6),
        1,
    ),
    "channels shuffled and back": (
        network(
            lambda x, a, c: c(F.relu(a(x).unflatten(1, (2, 2)).transpose(1, 2).reshape(len(x), 4, 5, 6)).mean((2, 3))),
            a=conv(),
            c=head(4),
        ),
        (3, 5, 6),
        1,
    ),
}


class Outputs(TorchDispatchMode):
    """Keeps the results of one of torch's kernels."""

    def __init__(self, name):
        super().__init__()
        self.name, self.outputs = name, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ == self.name:
            self.outputs.append(out.clone())
        return out


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_channel_axis_is_found(name):
    ann, shape, expected = LAYOUTS[name]
    batch = torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))
    snn = convert(ann, 3, batches=[batch], threshold="max")
    call, site = next(snn.neurons())
    assert call.channel_dim == site.channel_dim == expected
    with torch.no_grad(), Outputs("relu") as captured:
        ann(batch)
    (activation,) = captured.outputs
    assert torch.equal(site.threshold, activation.amax([d for d in range(activation.ndim) if d != expected]))
    channels = activation.shape[expected]
    assert site.temporal_bias.shape == (3, channels)
    assert snn.report.sites[0].channels == channels
    calibrate_(snn, [batch], progress=False)
    assert len(site.temporal_bias[0].unique()) > 1


def test_memory_with_channels_last_keeps_the_channel_axis():
    ann = network(lambda x, a, c: c(F.relu(a(x)).mean((2, 3))), a=conv(), c=head(4)).to(
        memory_format=torch.channels_last
    )
    batch = images(8).contiguous(memory_format=torch.channels_last)
    _, site = next(convert(ann, 3, batches=[batch]).neurons())
    assert site.channel_dim == 1
    assert site.threshold.shape == (4,)


class Swish(torch.autograd.Function):
    """x·ReLU6(x + 3)/6, with a backward of its own."""

    @staticmethod
    def forward(ctx, x):
        return x * F.relu6(x + 3) / 6

    @staticmethod
    def backward(ctx, grad):
        return grad


@torch.no_grad()
def without_gradient(x):
    return F.max_pool2d(x.relu(), 2)


@pytest.mark.parametrize(
    ("function", "operations"),
    [(Swish.apply, ["relu6", "mul"]), (without_gradient, ["relu", "max_pool2d"])],
    ids=["Function", "no_grad"],
)
def test_code_without_gradients_is_seen_through(function, operations):
    ann = network(lambda x, a, c: c(function(a(x)).mean((2, 3))), a=conv(), c=head(4))
    snn = convert(ann, 3, batches=[images()])
    assert [site.operation for site in snn.report.sites] == operations


def test_a_module_of_two_operations_is_not_a_shared_one():
    class HardSwish(nn.Module):
        def forward(self, x):
            return x * F.relu6(x + 3) / 6

    ann = nn.Sequential(conv()(), HardSwish(), nn.Flatten(), nn.Linear(256, 5)).eval()
    sites = convert(ann, 3, batches=[images()]).report.sites
    assert [(site.operation, site.origin) for site in sites] == [("relu6", "module"), ("mul", "module")]


def relu_to_script(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x)


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_code_that_hides_from_torch_is_named():
    scripted = torch.jit.script(relu_to_script)
    ann = network(lambda x, a, c: c(scripted(a(x)).mean((2, 3))), a=conv(), c=head(4))
    message = r"before \(network\) \(tests/test_user_networks.py:\d+\): .*: it hides from torch"
    with pytest.raises(ConversionError, match=message):
        convert(ann, 3, batches=[images()])


def assign(x, a, c):
    y = torch.zeros_like(a(x))
    y[:, :2] = F.relu(a(x))[:, :2]
    return c(y.mean((2, 3)))


PROBLEMS = {
    "a comparison": (
        network(lambda x, a, c: c((a(x) * (a(x) > 0)).mean((2, 3))), a=conv(), c=head(4)),
        r"\(network\) \(tests/test_user_networks.py:\d+\): gt: it compares values",
    ),
    "a write into a part": (
        network(assign, a=conv(), c=head(4)),
        r"\(network\) \(tests/test_user_networks.py:\d+\): setitem: it writes into a part of a tensor: .* torch.where",
    ),
    "values and indices": (
        network(lambda x, a, c: c(F.relu(a(x)).max(3)[0].mean(2)), a=conv(), c=head(4)),
        r"max: it returns indices as well, .* torch.amax\(x, dim\)",
    ),
    "a batch in the second dimension": (
        network(
            lambda x, a, c: c(F.layer_norm(F.relu(a(x)).flatten(2).permute(2, 0, 1), (4,)).mean(0)), a=conv(), c=head(4)
        ),
        "layer_norm: the batch is not the first dimension of its input",
    ),
    "images of a batch taken together": (
        network(lambda x, a, c: c(F.relu(a(x) - a(x).mean(0, keepdim=True)).mean((2, 3))), a=conv(), c=head(4)),
        r"\(network\) \(tests/test_user_networks.py:\d+\): mean: it takes images of the batch together",
    ),
    "one image of a batch": (
        network(lambda x, a, c: c((F.relu(a(x)) + F.relu(a(x))[:1]).mean((2, 3))), a=conv(), c=head(4)),
        "getitem: it takes images of the batch together, or one out of it",
    ),
    "a softmax over the batch": (
        network(lambda x, a, c: c(F.relu(a(x)).softmax(0).mean((2, 3))), a=conv(), c=head(4)),
        "the output, after the last site: the mean over time differs",
    ),
    "a batch behind another dimension": (
        network(
            lambda x, a, c: c(F.relu(a(x).flatten(2).permute(2, 0, 1).flatten(0, 1)).unflatten(0, (64, -1)).mean(0)),
            a=conv(),
            c=head(4),
        ),
        "relu: the batch is not the first dimension of its input",
    ),
    "an output with the batch last": (
        network(lambda x, a, c: c(F.relu(a(x)).mean((2, 3))).T, a=conv(), c=head(4)),
        r"\(output\): the batch is not the first dimension",
    ),
    "no gradient": (
        network(lambda x, a, c: c(F.relu(a(x)).mean((2, 3))).detach(), a=conv(), c=head(4)),
        "detach: it hides the data flow",
    ),
    "a recurrent layer": (
        network(lambda x, a, c: c(a(x.flatten(2))[0].mean(1)), a=lambda: nn.LSTM(64, 4, batch_first=True), c=head(4)),
        "lstm: it has a state of its own",
    ),
    "an output of another type": (
        network(lambda x, a, c: {"a": {1, 2}, "b": c(F.relu(a(x)).mean((2, 3)))}, a=conv(), c=head(4)),
        r"\(output\): an output is of type set",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_stands_in_the_way_is_named(name):
    ann, message = PROBLEMS[name]
    with pytest.raises(ConversionError, match=message):
        convert(ann, 3, batches=[images()])


def test_a_network_may_keep_its_activations():
    class Keeping(Nested):
        def forward(self, x):
            self.kept = torch.relu(self.stem(x))
            return super().forward(x)

    torch.manual_seed(0)
    snn = convert(randomise_(Keeping()), 3, batches=[images()], threshold="max", fold_bn=True)
    assert not snn.network.kept.requires_grad
    assert snn(images()).shape == (3, 16, 5)


def test_weights_that_no_module_holds_are_constants():
    scale = nn.Parameter(torch.tensor(2.0))
    ann = network(lambda x, a, c: c((F.relu(a(x)) * (scale + 1)).mean((2, 3))), a=conv(), c=head(4))
    assert [site.operation for site in convert(ann, 3, batches=[images()]).report.sites] == ["relu"]


def test_casts_in_the_forward_are_no_failure_of_the_check():
    ann = network(
        lambda x, a, c: c(F.softmax(F.relu(a(x.float())), 1, dtype=torch.float32).to(torch.float32).mean((2, 3))),
        a=conv(),
        c=head(4),
    )
    assert convert(ann, 3, batches=[images()]).report.spiking == 1


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
