"""The NIR file says what the spiking network does: other programs read it, and every neuron fires at the same steps.

In 64 bits spikes are equal on all neurons. In 32 bits a membrane within a rounding of its threshold may fire a step
earlier or later, and the layers behind it multiply that.
"""

import copy
import sys

import nir
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ftbc_pl import calibrate_, convert, create_network, export_nir, prepare, save_snn
from ftbc_pl.export import ExportError, export
from ftbc_pl.models import load_weights
from tests.documentation import ROOT
from tests.networks import images, randomise_, small_cnn
from tests.nir_readers import Naive, our_run, snntorch_network, snntorch_run
from tests.own_networks import Nested, conv, head, network


def spiking(ann, batch, dtype=torch.float64, num_steps=4, weights="keep", **options):
    batch = batch.to(dtype)
    snn = convert(copy.deepcopy(ann).to(dtype), num_steps, batches=[batch], **options).to(dtype)
    calibrate_(snn, [batch], readout="least_squares", weights=weights)
    return snn


def written(snn, folder):
    export_nir(snn, folder / "snn.nir")
    return nir.read(folder / "snn.nir")


def assert_same_spikes(theirs, ours, share=1.0):
    (their_outputs, their_spikes), (our_outputs, our_spikes) = theirs, ours
    assert len(their_spikes) == len(our_spikes)
    for a, b in zip(their_spikes, our_spikes, strict=True):
        assert a.shape == b.shape
        assert 0 < b.double().mean() < 1
        assert (a == b).double().mean() >= share
    torch.testing.assert_close(their_outputs.to(our_outputs), our_outputs, rtol=1e-5, atol=1e-5)


def resnet20(name):
    ann = create_network("cifar_resnet20", num_classes=10)
    if name == "qcfs8":
        ann = prepare(ann, "qcfs", levels=8)
    return load_weights(ann, ROOT / "benchmarks" / "weights" / f"cifar10_r20_{name}.safetensors").eval()


def blurred(count, seed):
    return 1.5 * F.interpolate(images(count, seed=seed), size=32, mode="bilinear")


def pre_activation(x, stem, norm, one, two, fc):
    x = stem(x)
    y = one(F.relu(norm(x)))
    x = x + y
    x = x + two(F.relu(x))
    return fc(F.relu(x).mean((2, 3)))


def dense(x, stem, one, two, norm, fc):
    x = F.relu(stem(x))
    x = torch.cat([x, F.relu(one(x))], 1)
    x = torch.cat([F.relu(two(norm(x))), x], dim=-3)
    return fc(F.adaptive_avg_pool2d(x, 2).flatten(1))


def constants(x, stem, one, fc):
    x = 0.5 - F.relu(stem(x) * 2 + 0.25)
    y = one(-x) / torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1)
    x = F.relu(y - x)
    return fc((x + x).mean((-1, -2), keepdim=True).view(len(x), -1)) * 3


def strided(x, stem, one, fc):
    x = F.avg_pool2d(F.relu(stem(x)), 3, 2, 1)
    return fc(F.relu(one(x)).flatten(1))


def vectors(x, one, norm, two, fc):
    x = F.relu(norm(one(x)))
    return fc(F.relu(two(x) + x))


NETWORKS = {
    "small": (small_cnn, (3, 8, 8)),
    "nested": (lambda: randomise_(Nested()), (3, 8, 8)),
    "pre-activation": (
        lambda: network(
            pre_activation, stem=conv(), norm=lambda: nn.BatchNorm2d(4), one=conv(4), two=conv(4), fc=head(4)
        ),
        (3, 8, 8),
    ),
    "dense": (
        lambda: network(
            dense, stem=conv(), one=conv(4, 2), two=conv(6, 3), norm=lambda: nn.BatchNorm2d(6), fc=head(36)
        ),
        (3, 8, 8),
    ),
    "constants": (lambda: network(constants, stem=conv(), one=conv(4), fc=head(4)), (3, 7, 5)),
    "strided": (
        lambda: network(strided, stem=conv(stride=2), one=conv(4, 4, 3, groups=2), fc=head(4 * 4 * 3)),
        (3, 13, 9),
    ),
    "vectors": (
        lambda: network(
            vectors,
            one=lambda: nn.Linear(6, 8),
            norm=lambda: nn.BatchNorm1d(8),
            two=lambda: nn.Linear(8, 8),
            fc=head(8),
        ),
        (6,),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_neuron_fires_at_the_same_steps(name, tmp_path):
    make, size = NETWORKS[name]
    calibration, batch = (torch.randn(6, *size, generator=torch.Generator().manual_seed(s)).double() for s in (1, 2))
    snn = spiking(make(), calibration)
    graph = written(snn, tmp_path)
    assert_same_spikes(Naive(graph).run(batch), our_run(snn, batch))


@pytest.mark.parametrize("fold_bn", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_fitted_weights_and_gains_are_those_of_the_file(name, fold_bn, tmp_path):
    make, size = NETWORKS[name]
    calibration, batch = (torch.randn(n, *size, generator=torch.Generator().manual_seed(n)).double() for n in (66, 8))
    snn = spiking(make(), calibration, weights="ridge", fold_bn=fold_bn)
    assert snn.corrections.changed
    assert_same_spikes(Naive(written(snn, tmp_path)).run(batch), our_run(snn, batch))


@pytest.mark.parametrize("name", ["qcfs8", "relu"])
def test_a_trained_resnet20_fires_the_same_spikes_in_snntorch_and_by_the_definitions(name, tmp_path):
    batch = blurred(2, seed=2).double()
    snn = spiking(resnet20(name), blurred(8, seed=1), num_steps=8, fold_bn=True)
    graph = written(snn, tmp_path)
    ours = our_run(snn, batch)
    assert len(ours[1]) == 19
    assert_same_spikes(Naive(graph).run(batch), ours)
    assert_same_spikes(snntorch_run(graph, batch), ours)


def test_snntorch_reads_a_small_network_in_32_bits(tmp_path):
    snn = spiking(small_cnn(), images(), torch.float32, fold_bn=True)
    assert_same_spikes(snntorch_run(written(snn, tmp_path), images(seed=3)), our_run(snn, images(seed=3)), share=0.9999)


def test_what_the_documentation_says_of_snntorchs_reader_holds(tmp_path):
    _, neurons = snntorch_network(written(spiking(small_cnn(), images()), tmp_path))
    for neuron in neurons.values():
        assert neuron.reset_mechanism == "subtract"
        assert neuron.beta.item() == pytest.approx(0.9)
        assert (neuron.reset_delay, neuron.init_hidden) == (False, False)


def test_thresholds_are_one_and_the_metadata_says_how_to_feed_and_to_read(tmp_path):
    snn = spiking(small_cnn(), images())
    graph = written(snn, tmp_path)
    neurons = [node for node in graph.nodes.values() if isinstance(node, nir.IF)]
    assert len(neurons) == 2
    assert all((node.v_threshold == 1).all() and (node.r == 1).all() for node in neurons)
    assert graph.metadata["num_steps"] == 4
    assert graph.metadata["image_channels"] == 3
    assert graph.metadata["sites"].split("\n") == [call.name for call, _ in snn.neurons()]
    outputs, _ = Naive(graph).run(images(seed=3).double())
    predictions = torch.tensordot(torch.from_numpy(graph.metadata["readout_weights"]).double(), outputs, 1)
    torch.testing.assert_close(predictions, snn.readout(snn(images(seed=3).double())))


def test_batch_normalisation_is_folded_in_the_file_and_not_in_the_network(tmp_path):
    snn = spiking(small_cnn(), images())
    before, outputs = copy.deepcopy(snn.state_dict()), snn(images().double())
    graph = written(snn, tmp_path)
    kinds = {name: type(node).__name__ for name, node in graph.nodes.items() if "clock" not in name}
    layers = {"0": "Conv2d", "1": "IF", "2": "AvgPool2d", "3": "Conv2d", "5": "IF", "6": "Flatten", "7": "Affine"}
    assert kinds == layers | {"input": "Input", "image": "Conv2d", "output": "Output"}
    assert all(torch.equal(value, before[name]) for name, value in snn.state_dict().items())
    assert torch.equal(snn(images().double()), outputs)


def sliced(x, stem, fc):
    x = F.max_pool2d(F.relu(stem(x)), 2)
    return fc(torch.sigmoid(x[:, :, ::2, ::2]).flatten(1))


def test_what_nir_cannot_say_is_listed_with_what_would_avoid_it(tmp_path):
    snn = spiking(network(sliced, stem=conv(), fc=head(16)), images())
    target = tmp_path / "snn.nir"
    target.write_text("before")
    with pytest.raises(ExportError) as error:
        export_nir(snn, target)
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["snn.nir"]
    maximum, index, gate = error.value.problems
    assert "max_pool2d" in maximum
    assert "test_nir.py:" in maximum
    assert "pooling='avg'" in maximum
    assert "getitem" in index
    assert "sigmoid" in gate
    assert "export_onnx" in gate


def several(x, stem, fc):
    x = F.relu(stem(x))
    return x, fc(x.mean((2, 3)))


def uneven(x, stem, fc):
    return fc(F.avg_pool2d(F.relu(stem(x)), 3, ceil_mode=True).flatten(1))


def borders(x, stem, fc):
    return fc(F.avg_pool2d(F.relu(stem(x)), 2, 2, 1, count_include_pad=False).flatten(1))


def tokens(x, stem, fc):
    return fc(F.relu(stem(x).flatten(2).transpose(1, 2))).mean(1)


def grown(x, stem, fc):
    return fc(F.relu(F.conv2d(x, stem.weight, padding=5)).mean((2, 3)))


def overwritten(x, stem, fc):
    x = F.relu(stem(x))
    flat = x.flatten(1)
    flat *= 2
    return fc(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("function", "features", "kernel", "text"),
    [
        (several, 4, 3, "returns one"),
        (uneven, 36, 3, "ceil_mode=False"),
        (borders, 100, 3, "count_include_pad=True"),
        (tokens, 4, 3, "flatten"),
        (grown, 4, 3, "pad less"),
        (overwritten, 4, 3, "changed in place"),
        (lambda x, stem, fc: fc(F.relu(stem(x)).mean((2, 3))), 4, (1, 3), "square kernel"),
    ],
)
def test_what_nir_or_its_readers_would_take_for_something_else_is_refused(function, features, kernel, text, tmp_path):
    ann = network(function, stem=lambda: nn.Conv2d(3, 4, kernel, padding="same"), fc=head(features))
    snn = convert(ann.double(), 2, batches=[images().double()]).double()
    with pytest.raises(ExportError, match=text) as error:
        export_nir(snn, tmp_path / "snn.nir")
    assert len(error.value.problems) == (2 if function is tokens else 1)  # and none of what follows from them


def test_a_saved_network_is_exported_and_no_file_overwritten_unasked(tmp_path):
    ann = prepare(create_network("cifar_resnet20", num_classes=10), "qcfs").eval()
    save_snn(convert(ann, 2), tmp_path / "snn")
    export(tmp_path, "nir", tmp_path / "new" / "snn.nir")
    assert len(nir.read(tmp_path / "new" / "snn.nir").metadata["sites"].split("\n")) == 19
    with pytest.raises(FileExistsError, match="overwrite"):
        export(tmp_path, "nir", tmp_path / "new" / "snn.nir")
    export(tmp_path, "nir", tmp_path / "new" / "snn.nir", overwrite=True)
    with pytest.raises(ValueError, match=r"nir or onnx.*'pt'"):
        export(tmp_path, "pt", tmp_path / "snn.pt")
    with pytest.raises(FileNotFoundError):
        export(tmp_path / "nowhere", "onnx", tmp_path / "snn.onnx")


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(ImportError, match=r"'nir'.*pip install 'ftbc_pl\[export\]'"):
        export_nir(spiking(small_cnn(), images()), tmp_path / "snn.nir")
