from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ftbc_pl import ConversionError, convert, prepare
from ftbc_pl.conversion.check import check_conversion
from ftbc_pl.layers import QCFS, ClippedReLU, SpikingNeuron, TemporalDifference
from ftbc_pl.tracing.operations import Kind
from tests.networks import create, images, small_cnn

SITES = {  # name: spiking sites, max-pools
    "cifar_resnet20": (19, 0),
    "cifar_vgg16": (15, 5),
    "resnet18": (17, 1),
    "vgg11_bn": (10, 5),
    "mobilenetv2_100": (35, 0),
    "efficientnet_lite0": (33, 0),
    "regnetx_002": (40, 0),
}


@pytest.mark.parametrize(("name", "sites"), SITES.items())
def test_every_activation_gets_a_neuron(name, sites):
    network = create(name)
    size = 32 if name.startswith("cifar") else 64
    calls = []
    hooks = [m.register_forward_hook(lambda *_: calls.append(1)) for m in network.modules() if isinstance(m, nn.ReLU)]
    hooks += [m.register_forward_hook(lambda *_: calls.append(1)) for m in network.modules() if isinstance(m, nn.ReLU6)]
    network(images(2, size))
    for hook in hooks:
        hook.remove()
    snn = convert(network, 3, batches=[images(4, size)], threshold="max")
    spiking = sum(isinstance(site, SpikingNeuron) for site in snn.sites)
    pools = sum(isinstance(site, TemporalDifference) for site in snn.sites)
    assert (spiking, pools) == sites
    assert spiking == len(calls)
    assert snn(images(2, size)).shape == (3, 2, network.num_classes)


def test_the_ann_is_left_as_it_is():
    network = small_cnn().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    convert(network, 2, batches=[images()])
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_spiking_network_holds_the_ann():
    network = small_cnn()
    snn = convert(network, 2, batches=[images()], fold_bn=False)
    assert torch.equal(snn.network(images()), network(images()))
    folded = convert(network, 2, batches=[images()])
    torch.testing.assert_close(folded.network(images()), network(images()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 8, 99])
@pytest.mark.parametrize("pool", [None, nn.MaxPool2d(2)])
def test_chunks_of_any_size_give_the_same_outputs(chunk, pool):
    snn = convert(small_cnn(pool=pool), 8, batches=[images()]).double()
    whole = snn(images().double())
    snn.time_chunk = chunk
    torch.testing.assert_close(snn(images().double()), whole, rtol=0, atol=1e-12)


def test_static_prefix_gives_the_same_outputs():
    snn = convert(small_cnn(), 4, batches=[images()]).double()
    assert snn.trace.static_prefix
    once = snn(images().double())
    snn.trace = snn.trace.without_prefix()
    torch.testing.assert_close(snn(images().double()), once, rtol=0, atol=1e-12)


def test_max_thresholds_approach_the_ann_as_steps_grow():
    network = small_cnn(pool=nn.MaxPool2d(2))
    errors = []
    for steps in (16, 64, 256):
        snn = convert(network, steps, batches=[images()], threshold="max").double()
        outputs = snn(images().double()).mean(0)
        exact = snn.network(images().double())
        errors.append(((outputs - exact).norm() / exact.norm()).item())
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 2


class Functional(nn.Module):
    """Calls one ReLU module twice and functional ReLUs in several spellings."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(6))
        self.act = nn.ReLU()
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        x = self.act(self.convs[0](x))
        x = self.act(self.convs[1](x) + x)
        x = F.relu(self.convs[2](x), inplace=True)
        x = torch.relu(self.convs[3](x))
        x = self.convs[4](x).relu()
        x = self.convs[5](x).clamp(min=0, max=6)
        return self.head(x.mean((2, 3)))


def test_shared_and_functional_activations_get_their_own_neurons():
    torch.manual_seed(0)
    snn = convert(Functional().eval(), 4, batches=[images()])
    names = [call.name for call, _ in snn.neurons()]
    assert names == ["act", "act#2", *("(network)", "(network)#2", "(network)#3", "(network)#4")]
    assert [call.record.operation for call, _ in snn.neurons()] == ["relu"] * 5 + ["clamp"]
    assert all("test_conversion.py" in call.record.source for call, _ in snn.neurons())


class Gated(nn.Module):
    """Applies a function between an activation and the head."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.head, self.function = nn.Conv2d(3, 4, 3), nn.Linear(4, 10), function

    def forward(self, x):
        return self.head(self.function(F.relu(self.conv(x))).mean((2, 3)))


def without_rate_exact_sites(snn):
    """As if the trace had taken these operations for linear."""
    kept = [i for i, call in enumerate(snn.calls) if call.kind is Kind.SPIKING]
    calls = tuple(snn.calls[i] for i in kept)
    snn.sites = nn.ModuleList(snn.sites[i] for i in kept)
    counts = {call.function: snn.trace.counts[call.function] for call in calls}
    snn.trace = replace(snn.trace, calls=calls, counts=counts)
    return snn


@pytest.mark.parametrize(
    ("network", "first"),
    [
        (small_cnn(pool=nn.MaxPool2d(2)), "5 "),
        (Gated(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()).eval(), "the output"),
        (create("resnet18"), "layer1.0.act1 "),
        (create("seresnet18"), "layer1.0.act1 "),
    ],
)
def test_the_check_names_the_first_site_behind_what_was_missed(network, first):
    batch = images(2, 64 if hasattr(network, "layer1") else 8).double()
    snn = convert(network, 3, example=batch.float(), measure=False)
    check_conversion(snn, batch)
    with pytest.raises(ConversionError, match="the mean over time differs") as error:
        check_conversion(without_rate_exact_sites(snn), batch)
    assert error.value.problems[0].startswith(first)


def test_the_check_leaves_the_network_as_it_was():
    network = small_cnn()
    snn = convert(network, 3, batches=[images()], check=False)
    before = {name: (value.dtype, value.clone()) for name, value in snn.state_dict().items()}
    check_conversion(snn, images(2))
    for name, value in snn.state_dict().items():
        assert value.dtype == before[name][0]
        assert torch.equal(value, before[name][1])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (F.gelu, "gelu: it is not a ReLU"),
        (lambda x: F.dropout(x, 0.5), "dropout: it drops at random also in eval mode"),
        (lambda x: x.sort(1).values, "sort: it orders values"),
        (lambda x: x * x.max().item(), "data"),
        (lambda x: F.batch_norm(x, None, None, training=True), "statistics of the batch"),
    ],
)
def test_what_can_not_be_converted_is_an_error_that_names_the_place(function, message):
    with pytest.raises(ConversionError, match=message) as error:
        convert(Gated(function).eval(), 4, batches=[images()])
    assert "test_conversion.py" in str(error.value) or "networks" in str(error.value)


def test_all_problems_are_listed():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3), nn.SiLU(), nn.ReLU()).eval()
    with pytest.raises(ConversionError) as error:
        convert(network, 4, batches=[images()])
    assert [problem.split(" ")[0] for problem in error.value.problems] == ["1", "3"]


def test_smooth_activations_run_on_request():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    snn = convert(network.eval(), 4, batches=[images()], smooth="rate")
    assert [call.kind.value for call in snn.calls] == ["rate-exact", "spiking"]


@pytest.mark.parametrize("threshold", ["mse", "max", 99.0, "99.9"])
def test_measured_thresholds_are_positive_and_at_most_the_maximum(threshold):
    network = small_cnn()
    network[0].bias.data[0] = -1e3  # a dead channel
    snn = convert(network, 4, batches=[images()], threshold=threshold)
    largest = torch.relu(network[0](images())).amax((0, 2, 3))
    _, site = next(snn.neurons())
    assert site.threshold[0] == site.threshold.max()
    assert (site.threshold[1:] <= largest[1:] * 1.0001).all()
    assert (site.threshold > 0).all()


@pytest.mark.parametrize(("activation", "kind"), [("qcfs", QCFS), ("rts", ClippedReLU)])
def test_prepare_exchanges_all_relus(activation, kind):
    network = create("resnet18")
    prepared = prepare(network, activation, levels=4, threshold=1.5)
    assert not any(isinstance(m, nn.ReLU) for m in prepared.modules())
    assert any(isinstance(m, nn.ReLU) for m in network.modules())
    assert sum(isinstance(m, kind) for m in prepared.modules()) == 17


def test_convert_takes_the_thresholds_of_qcfs():
    snn = convert(prepare(create("resnet18"), "qcfs", levels=4, threshold=1.5), 4)
    assert all((site.threshold == 1.5).all() and isinstance(site, SpikingNeuron) for _, site in snn.neurons())


def test_convert_measures_thresholds_below_the_bound_of_a_clipped_relu():
    network, bound = small_cnn(), 2.0
    snn = convert(prepare(network, "rts", threshold=bound), 8, batches=[images()], threshold="max")
    _, site = next(snn.neurons())
    largest = torch.relu(network[0](images())).amax((0, 2, 3))
    assert largest.min() < bound < largest.max()
    torch.testing.assert_close(site.threshold, largest.clamp(max=bound))


def test_prepare_measures_start_thresholds():
    prepared = prepare(small_cnn(), "qcfs", levels=4, batches=[(images(), torch.zeros(16))])
    thresholds = [m.threshold.item() for m in prepared.modules() if isinstance(m, QCFS)]
    assert all(0 < theta < 8 for theta in thresholds)
    assert len(set(thresholds)) == 2


def test_prepare_needs_a_relu():
    with pytest.raises(ConversionError, match="no ReLU module"):
        prepare(nn.Linear(2, 2), "qcfs")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"num_steps": 2, "threshold": "best"}, "threshold must be 'mse', 'max' or a percentile, got 'best'"),
        ({"num_steps": 2, "threshold": 0.0}, r"must lie in \(1, 100\], got 0"),
        ({"num_steps": 2}, "pass `batches=`"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        convert(small_cnn(), example=images(2), **kwargs)


def test_a_forward_that_depends_on_the_data_is_noticed():
    class Fickle(nn.Module):
        depth = 1

        def forward(self, x):
            for _ in range(self.depth):
                x = F.relu(x)
            return x.flatten(1)

    network = Fickle()
    snn = convert(network, 2, batches=[images()])
    snn.network.depth = 2
    with pytest.raises(RuntimeError, match="other operations than when it was converted"):
        snn(images())


def test_largest_tensor_of_single_steps_does_not_grow_with_the_number_of_steps():
    def largest_tensor(num_steps):
        snn = convert(small_cnn(), num_steps, batches=[images()], threshold="max")
        snn.time_chunk = 1
        sizes = []
        for module in snn.network.modules():
            module.register_forward_hook(lambda m, a, out: sizes.append(out.numel()))
        snn(images())
        return max(sizes)

    assert largest_tensor(2) == largest_tensor(16)


def test_a_cpu_runs_few_rows_at_once_unless_told_otherwise():
    snn = convert(small_cnn(), 8, batches=[images()])
    assert snn.chunks(1) == [8]
    assert snn.chunks(50) == [2, 2, 2, 2]
    assert snn.chunks(1000) == [1] * 8
    snn.time_chunk = 3
    assert snn.chunks(1000) == [3, 3, 2]


def test_what_is_missing_or_misspelt_is_said_at_once():
    with pytest.raises(ValueError, match="pass `batches=` with images of the training set, which measure"):
        convert(small_cnn(), 8)
    with pytest.raises(TypeError, match="Did you mean num_steps"):
        convert(small_cnn(), num_step=8)
