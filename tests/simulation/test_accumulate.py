"""The schedule `accumulate`: against spikes that are fired one by one, and what it promises."""

import pytest
import torch
from torch import nn

from ftbc_pl import convert, load_snn, prepare, save_snn
from ftbc_pl.simulation import Simulation
from ftbc_pl.simulation.accumulate import AccumulatingNeuron
from tests import networks, reference
from tests.digits import classifier, digits
from tests.own_networks import network

SIZE = 5
SOURCES = ([-1], [0], [0, 1], [2, -1], [2, 3])  # what each layer gets: the image, or the numbers of sites


def branched():
    """Five layers, shortcuts between them and from the image."""
    torch.manual_seed(0)
    return network(_branches, **{f"layer{i}": lambda: nn.Linear(SIZE, SIZE) for i in range(len(SOURCES))}).double()


def _branches(x, layer0, layer1, layer2, layer3, layer4):
    first = torch.relu(layer0(x))
    second = torch.relu(layer1(first))
    third = torch.relu(layer2(first + second))
    return layer4(third + torch.relu(layer3(third + x)))


class Counts(Simulation):
    """Simulates, and keeps how many spikes each neuron fires."""

    def __init__(self, num_steps):
        super().__init__(num_steps)
        self.counts = []

    def simulate(self, call, site, current, out):
        super().simulate(call, site, current, out)
        self.counts.append((out[0] / site.quantum).round().long())


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 8])
def test_spikes_are_those_fired_one_by_one(num_steps):
    ann, threshold, v0 = branched(), 0.6, 0.3
    x = torch.randn(4, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    snn = convert(ann, num_steps, schedule="accumulate", v0=v0, example=x, measure=False).double()
    biases = [0.2 * torch.randn(SIZE, dtype=torch.float64) for _ in SOURCES[:-1]]
    for (_, site), bias in zip(snn.neurons(), biases, strict=True):
        site.threshold.fill_(threshold)
        site.temporal_bias[0] = bias
    visitor = Counts(1)
    outputs = snn.simulate(x, lambda steps: visitor)
    layers = [
        (layer.weight.detach(), layer.bias.detach(), sources)
        for layer, sources in zip(ann.layers.values(), SOURCES, strict=True)
    ]
    for image in range(len(x)):
        counts, mean, took = reference.accumulate(layers, x[image], threshold, biases, num_steps, v0)
        assert counts == [site[image].tolist() for site in visitor.counts]  # zero tolerance
        torch.testing.assert_close(outputs[0, image], mean, rtol=0, atol=1e-12)
        assert took == snn.latency == 4 * num_steps


def test_trains_are_spread_evenly():
    assert [reference.train(count, 4) for count in range(5)] == [
        [0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1],
    ]  # fmt: skip
    for num_steps in range(1, 9):
        for count in range(num_steps + 1):
            fired = [t * count // num_steps - (t - 1) * count // num_steps for t in range(1, num_steps + 1)]
            assert reference.train(count, num_steps) == fired
            assert sum(fired) == count


@pytest.mark.parametrize("levels", [1, 3, 4, 8])
def test_exact_where_steps_are_the_levels_of_qcfs(levels):
    images, _ = digits()
    ann = classifier(levels)
    snn = convert(ann, levels, schedule="accumulate", example=images[:2])
    assert torch.equal(snn(images[:64])[0], ann(images[:64]))


def test_rate_exact_sites_get_the_mean():
    ann = prepare(networks.small_cnn(nn.ReLU(), nn.MaxPool2d(2)), "qcfs", levels=4).eval()
    x = networks.images(4)
    snn = convert(ann, 4, schedule="accumulate", example=x)
    assert any(not isinstance(site, AccumulatingNeuron) for site in snn.sites)
    assert torch.equal(snn(x)[0], ann(x))


def test_one_forward_of_one_block_of_rows():
    images, _ = digits()
    ann = classifier(4)
    snn = convert(ann, 32, schedule="accumulate", example=images[:2])
    rows = []
    snn.network[3].register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    assert snn(images[:16]).shape == (1, 16, 10)
    assert rows == [16]
    assert snn.chunks(16) == [1]


def test_timesteps_are_no_mean_currents():
    images, _ = digits()
    snn = convert(classifier(4), 4, schedule="accumulate", example=images[:2])
    with pytest.raises(ValueError, match="one block of rows, got 4"):
        snn.visit(images[:2], Simulation(4))


def test_latency_is_the_longest_chain():
    images, _ = digits()
    assert convert(classifier(4), 8, example=images[:2]).latency == 8
    snn = convert(classifier(4), 8, schedule="accumulate", example=images[:2])
    assert snn.latency == 2 * 8
    assert "accumulate: the answer takes 16 timesteps" in str(snn.report)
    shared = network(_chunks, one=lambda: nn.Linear(6, 6), two=lambda: nn.Linear(3, 3))
    assert convert(shared, 2, schedule="accumulate", example=torch.rand(2, 6), measure=False).latency == 3 * 2


@pytest.mark.parametrize(
    ("schedule", "steps", "instead"),
    [("stream", 2, r"shorten_\(snn, 2\)"), ("stream", 16, "convert again"), ("accumulate", 2, "convert again")],
)
def test_an_assignment_to_num_steps_names_what_works(schedule, steps, instead):
    images, _ = digits()
    snn = convert(classifier(4), 8, schedule=schedule, example=images[:2])
    with pytest.raises(AttributeError, match=f"nothing: .*{instead}"):
        snn.num_steps = steps


def _chunks(x, one, two):
    """Sites that write over their input, in views: a chain of two beside one of three."""
    first, second = one(torch.relu_(one(x))).chunk(2, 1)
    short = torch.relu_(two(first))
    long = torch.relu_(two(torch.relu_(two(second))))
    return torch.cat([short, long], 1).sum(1, keepdim=True)


def test_saved_and_loaded_bit_equal(tmp_path):
    images, _ = digits()
    snn = convert(classifier(), 4, schedule="accumulate", batches=[images[:64]])
    for _, site in snn.neurons():
        site.temporal_bias.normal_(0, 0.1)
    save_snn(snn, tmp_path / "snn")
    loaded = load_snn(tmp_path / "snn", ann=classifier())
    assert loaded.options.schedule == "accumulate"
    assert loaded.latency == snn.latency == 8
    assert torch.equal(loaded(images[:64]), snn(images[:64]))


def test_uncalibrated_has_no_bias():
    images, _ = digits()
    snn = convert(classifier(4), 4, schedule="accumulate", example=images[:2])
    before = snn(images[:8])
    for _, site in snn.neurons():
        site.temporal_bias.fill_(0.1)
    assert not torch.equal(snn(images[:8]), before)
    with snn.uncalibrated():
        assert torch.equal(snn(images[:8]), before)
