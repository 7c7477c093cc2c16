"""Synaptic operations and MACs are counted exactly, and priced by conventions that are named."""

import math
from functools import partial

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ftbc_pl import calibrate_, convert, load_snn, measure_energy, save_snn
from ftbc_pl.energy import Convention, EnergyMeter
from ftbc_pl.energy.fan_out import find_fan_out
from ftbc_pl.simulation import Simulation
from tests import reference
from tests.networks import images, randomise_, small_cnn
from tests.own_networks import Nested, conv, head, network

STEPS = 3


class Recording(Simulation):
    """Keeps the spikes, (K, B, C, ...) of each site."""

    def __init__(self, steps, kept):
        super().__init__(steps)
        self.kept = kept

    def simulate(self, call, site, current, out):
        super().simulate(call, site, current, out)
        self.kept.setdefault(call.name, []).append((out > 0).int())


def spikes_of(snn, batch):
    """All spikes by site, (T, B, C, ...), as nested lists."""
    kept = {}
    snn.simulate(batch, lambda steps: Recording(steps, kept))
    return {name: torch.cat(parts).tolist() for name, parts in kept.items()}


def converted(ann, size=6, **options):
    return convert(ann, STEPS, batches=[images(8, size)], **options)


def operations_by_step(spikes, of):
    """Synaptic operations of each step, for one image; `of` says those of spikes [C][H][W]."""
    return [sum(of(image) for image in step) / len(step) for step in spikes]


layers = st.fixed_dictionaries(
    {
        "kernel": st.integers(1, 3),
        "stride": st.integers(1, 3),
        "padding": st.integers(0, 2),
        "dilation": st.integers(1, 2),
        "groups": st.sampled_from([1, 2]),
        "transposed": st.booleans(),
    }
)


@settings(max_examples=40, deadline=None)
@given(layers)
def test_every_spike_meets_the_weights_that_a_walk_along_them_finds(options):
    transposed, kernel = options.pop("transposed"), options.pop("kernel")
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    torch.manual_seed(0)
    layer = kind(4, 6, kernel, **options)
    ann = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), layer, nn.ReLU()).eval()
    snn = converted(ann)
    batch = images(2, 6)
    cost = measure_energy(snn, [batch], progress=False)
    first, last = spikes_of(snn, batch).values()
    size = snn.network(batch).shape[2:]
    walk = partial(
        reference.synaptic_operations,
        weight_shape=tuple(layer.weight.shape), size=tuple(size), transposed=transposed, **options,
    )  # fmt: skip
    assert cost.site_sops[0].tolist() == operations_by_step(first, walk)
    # What leaves the network has met no weight: each spike is added up once.
    assert cost.site_sops[1].tolist() == cost.site_spikes[1].tolist()
    counted = [operations_by_step(spikes, lambda image: int(torch.tensor(image).sum())) for spikes in (first, last)]
    assert cost.site_spikes.tolist() == counted


def test_a_linear_layer_has_one_operation_for_each_spike_and_output():
    ann = nn.Sequential(nn.Flatten(), nn.Linear(27, 7), nn.ReLU(), nn.Linear(7, 5)).eval()
    cost = measure_energy(converted(ann, 3), [images(4, 3)], progress=False)
    assert torch.equal(cost.site_sops, 5 * cost.site_spikes)
    assert cost.static_macs == 27 * 7
    assert cost.step_macs == 0
    assert cost.ann_macs == 27 * 7 + 7 * 5
    assert cost.macs.tolist() == [27 * 7] * STEPS


def test_factors_of_a_matrix_product_are_part_of_its_weights():
    def scaled(x, one, two):
        x = F.relu(one(x.flatten(1)))
        return F.relu(torch.addmm(two.bias, x, two.weight.T, beta=0.5, alpha=0.25))

    ann = network(scaled, one=lambda: nn.Linear(27, 7), two=lambda: nn.Linear(7, 7))
    cost = measure_energy(converted(ann, 3), [images(4, 3)], progress=False)
    assert torch.equal(cost.site_sops[0], 7 * cost.site_spikes[0])


def walk_3x3(image, size, outputs=4):
    inputs = len(image)
    return reference.synaptic_operations(image, (outputs, inputs, 3, 3), (size, size), padding=1)


def added(*parts):
    return torch.tensor(parts).sum(0).tolist()


def concatenated(first, second):
    return [*first, *second]


# Operations between two sites, and what a walk along all weights finds for the spikes [C][H][W] of the one before.
BETWEEN = {
    "several consumers": (
        lambda x, a, b: F.relu(a(x) + b(x)),
        lambda image: 2 * walk_3x3(image, 6),
    ),
    "a residual add": (lambda x, a, b: F.relu(a(x) + x), lambda image: walk_3x3(image, 6) + sum_of(image)),
    "a sum of spikes before a layer": (lambda x, a, b: F.relu(a(x + x)), lambda image: 2 * walk_3x3(image, 6)),
    "a difference of spikes": (lambda x, a, b: F.relu(a(x - x.flip(1))), lambda image: 2 * walk_3x3(image, 6)),
    "a scale": (lambda x, a, b: F.relu(a(-0.25 * x / 3)), lambda image: walk_3x3(image, 6)),
    "average pooling": (
        lambda x, a, b: F.relu(a(F.avg_pool2d(x, 2))),
        lambda image: walk_3x3(reference.pooled(image, 2, 2), 3),
    ),
    "windows that overlap": (
        lambda x, a, b: F.relu(a(F.avg_pool2d(x, 3, stride=1))),
        lambda image: walk_3x3(reference.pooled(image, 3, 1), 4),
    ),
    "adaptive average pooling": (
        lambda x, a, b: F.relu(a(F.adaptive_avg_pool2d(x, 2))),
        lambda image: walk_3x3(reference.pooled(image, 3, 3), 2),
    ),
    "a global mean": (
        lambda x, a, b: F.relu(a(x.mean((2, 3), keepdim=True))),
        lambda image: 4 * sum_of(image),
    ),
    "upsampling": (
        lambda x, a, b: F.relu(a(F.interpolate(x, scale_factor=2.0))),
        lambda image: walk_3x3(torch.tensor(image).repeat_interleave(2, 1).repeat_interleave(2, 2).tolist(), 12),
    ),
    "a concatenation of spikes": (
        lambda x, a, b: F.relu(a(torch.cat([x, x], 1)[:, 1:5])),
        lambda image: walk_3x3(concatenated(image, image)[1:5], 6),
    ),
    "a permutation": (
        lambda x, a, b: F.relu(a(x.permute(0, 1, 3, 2).flip(2))),
        lambda image: walk_3x3(torch.tensor(image).transpose(1, 2).flip(1).tolist(), 6),
    ),
    "a pad": (
        lambda x, a, b: F.relu(F.conv2d(F.pad(x, (2, 0, 2, 0), value=1.0), a.weight)),
        lambda image: reference.synaptic_operations(
            F.pad(torch.tensor(image), (2, 0, 2, 0)).tolist(), (4, 4, 3, 3), (6, 6)
        ),
    ),
    "two layers in a row": (lambda x, a, b: F.relu(b(a(x))), lambda image: walk_3x3(image, 6)),
    "nothing": (lambda x, a, b: F.relu(x - 0.1), lambda image: sum_of(image)),
}  # fmt: skip


def sum_of(image):
    return int(torch.tensor(image).sum())


@pytest.mark.parametrize("between", BETWEEN)
def test_what_lies_between_two_sites_passes_spikes_on(between):
    function, walk = BETWEEN[between]
    ann = network(lambda x, stem, a, b: function(F.relu(stem(x)), a, b), stem=conv(), a=conv(4), b=conv(4))
    snn = converted(ann)
    batch = images(2, 6)
    cost = measure_energy(snn, [batch], progress=False)
    first = next(iter(spikes_of(snn, batch).values()))
    assert cost.site_sops[0].tolist() == operations_by_step(first, walk)
    # Only what gets a value that is no spike multiplies at every step.
    assert cost.step_macs == (4 * 4 * 9 * 36 if between == "two layers in a row" else 0)
    assert cost.static_macs == 3 * 4 * 9 * 36


def test_bilinear_upsampling_passes_a_spike_to_all_that_depend_on_it():
    def upsampled(x, stem, a):
        return F.relu(F.conv2d(F.interpolate(F.relu(stem(x)), scale_factor=2.0, mode="bilinear"), a.weight))

    ann = network(upsampled, stem=conv(), a=conv(4, 4, 1))
    fan_out = next(iter(find_fan_out(converted(ann), images(2, 6)).fan_out.values()))
    pulse = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    for y, x in ((0, 0), (2, 3), (5, 5), (0, 4)):
        pulse.zero_()[0, 0, y, x] = 1
        reached = F.interpolate(pulse, scale_factor=2.0, mode="bilinear").count_nonzero().item()
        assert fan_out[0, y, x] == 4 * reached


def test_spikes_that_meet_other_values_are_added_there():
    # The image itself is concatenated: a sixth of the layer behind multiplies, the rest gets spikes.
    def concatenating(x, stem, a):
        return F.relu(a(torch.cat([F.relu(stem(x)), x[:, :1]], 1)))

    ann = network(concatenating, stem=conv(outputs=5), a=conv(6, 4))
    snn = converted(ann)
    cost = measure_energy(snn, [images(2, 6)], progress=False)
    first = next(iter(spikes_of(snn, images(2, 6)).values()))
    assert cost.site_sops[0].tolist() == operations_by_step(first, lambda image: walk_3x3(image, 6))
    assert cost.step_macs == pytest.approx(4 * 9 * 36)


def test_a_rate_exact_site_hands_on_values_until_the_next_neurons():
    ann = network(
        lambda x, stem, a, b: b(F.relu(a(F.max_pool2d(F.relu(stem(x)), 2))).mean((2, 3))),
        stem=conv(), a=conv(4), b=head(4),
    )  # fmt: skip
    cost = measure_energy(converted(ann), [images(2, 6)], progress=False)
    assert cost.step_macs == 4 * 4 * 9 * 9
    # A spike before the pooling is added to the mean that it keeps, one behind it meets the five outputs.
    assert torch.equal(cost.site_sops[0], cost.site_spikes[0])
    assert torch.equal(cost.site_sops[1], 5 * cost.site_spikes[1])


def test_all_sites_of_a_network_with_shared_modules_are_counted():
    snn = converted(randomise_(Nested()))
    cost = measure_energy(snn, [images(3, 6)], progress=False)
    assert cost.sites == tuple(call.name for call, _ in snn.neurons())
    assert bool((cost.site_spikes.sum(1) > 0).all())
    assert cost.sops[-1] == pytest.approx(cost.site_sops.sum().item())


def test_batches_chunks_and_layouts_count_alike(tmp_path):
    snn = converted(small_cnn(), 8)
    calibrate_(snn, [images(8)], progress=False)
    batch = images(7)
    whole = measure_energy(snn, [batch], progress=False)
    snn.time_chunk = 1
    parts = measure_energy(snn, [(batch[:2], None), (batch[2:], None)], progress=False)
    snn.to(memory_format=torch.channels_last)
    last = measure_energy(snn, [batch.to(memory_format=torch.channels_last)], progress=False)
    save_snn(snn, tmp_path / "snn")
    loaded = measure_energy(load_snn(tmp_path / "snn", ann=small_cnn()), [batch], progress=False)
    for other in (parts, last, loaded):
        assert torch.equal(whole.site_spikes, other.site_spikes)
        torch.testing.assert_close(whole.site_sops, other.site_sops, rtol=1e-12, atol=0)
    assert whole.images == 7


def test_the_outputs_are_those_of_the_network():
    snn = converted(small_cnn(), 8)
    assert torch.equal(EnergyMeter(snn)(images(5)), snn(images(5)))


def test_the_bias_is_left_out_where_it_is_switched_off():
    snn = converted(small_cnn(), 8)
    before = measure_energy(snn, [images()], progress=False)
    calibrate_(snn, [images()], progress=False)
    with snn.uncalibrated():
        assert torch.equal(measure_energy(snn, [images()], progress=False).site_spikes, before.site_spikes)
    assert not torch.equal(measure_energy(snn, [images()], progress=False).site_spikes, before.site_spikes)


@torch.inference_mode()
def test_it_counts_inside_inference_mode():
    snn = converted(small_cnn(), 8)
    assert measure_energy(snn, [images().clone()], progress=False).sops[-1] > 0


NETWORKS = {
    "resnet18": {}, "mobilenetv2_100": {}, "regnetx_002": {}, "densenet121": {}, "hrnet_w18_small": {},
    "ghostnet_100": {}, "dla34": {}, "seresnet18": {}, "repvgg_a0": {}, "skresnet18": {},
    "efficientnet_b0": {"act_layer": nn.ReLU}, "vit_tiny_patch16_224": {"img_size": 32, "act_layer": nn.ReLU},
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_the_macs_of_the_ann_are_those_that_torch_counts(name):
    ann = timm.create_model(name, **NETWORKS[name]).eval()
    batch = torch.zeros(2, 3, 32, 32)
    snn = convert(ann, 1, example=batch, check=False, measure=False, smooth="rate")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ann(batch[:1])
    found = find_fan_out(snn, batch)
    assert found.ann_macs == counter.get_total_flops() / 2
    # A spike meets no padding, so no more operations than those of a dense layer.
    assert found.static_macs + found.step_macs <= found.ann_macs
    assert all(bool((values >= 0).all()) for values in found.fan_out.values())


def cost_of_small_cnn():
    return measure_energy(converted(small_cnn(), 8), [images()], progress=False)


def test_the_conventions_are_those_of_their_sources():
    cost = cost_of_small_cnn()
    macs, sops = cost.macs, cost.sops
    assert cost.ann_joules("45nm") == cost.ann_macs * 4.6e-12
    assert cost.ann_joules("neuromorphic") == cost.ann_macs * 12.5e-12
    torch.testing.assert_close(cost.joules("45nm"), macs * 4.6e-12 + sops * 0.9e-12, rtol=1e-14, atol=0)
    torch.testing.assert_close(cost.joules("neuromorphic"), macs * 12.5e-12 + sops * 77e-15, rtol=1e-14, atol=0)
    own = Convention(name="own", mac=2.0, accumulate=1.0, source="a test")
    torch.testing.assert_close(cost.joules(own), 2 * macs + sops, rtol=1e-14, atol=0)
    with pytest.raises(ValueError, match="'45nm', 'neuromorphic', got '7nm'"):
        cost.joules("7nm")
    with pytest.raises(ValueError, match="above 0"):
        Convention(name="free", mac=0.0, accumulate=1.0, source="")


def test_at_the_rate_of_break_even_both_cost_the_same():
    cost = cost_of_small_cnn()
    for name in ("45nm", "neuromorphic"):
        rate = cost.break_even_rate(name)
        scaled = cost.macs * 4.6e-12 if name == "45nm" else cost.macs * 12.5e-12
        steps = torch.arange(1, STEPS + 1)
        price = 0.9e-12 if name == "45nm" else 77e-15
        energy = scaled + rate * steps * cost.synapses * price
        torch.testing.assert_close(energy, torch.full_like(energy, cost.ann_joules(name)), rtol=1e-12, atol=0)
    assert bool((cost.firing_rate > 0).all())
    assert bool((cost.firing_rate < 1).all())


def test_what_neurons_do_has_a_line_of_its_own():
    cost = cost_of_small_cnn()
    neurons = 8 * 8 * 8 + 8 * 4 * 4
    assert cost.membrane_updates.tolist() == [neurons, 2 * neurons, 3 * neurons]
    assert torch.equal(cost.neuron_operations, 2 * cost.membrane_updates + cost.spikes)
    assert cost.neuron_joules("45nm")[-1] == pytest.approx(0.9e-12 * cost.neuron_operations[-1].item())


def test_the_text_and_the_values_for_json_tell_what_is_not_counted():
    cost = cost_of_small_cnn()
    assert str(cost).count("\n") >= STEPS + 2
    assert "Memory traffic is not counted" in str(cost)
    plain = cost.to_dict()
    assert plain["sops"] == cost.sops.tolist()
    assert plain["conventions"]["45nm"]["ratio"] == cost.ratio("45nm").tolist()
    assert sum(sum(site["sops"]) for site in plain["sites"]) == pytest.approx(plain["sops"][-1])
    assert all(math.isfinite(value) for value in plain["firing_rate"])


def test_images_of_one_size_and_at_least_one():
    snn = converted(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval())
    with pytest.raises(ValueError, match="measure each size by itself"):
        measure_energy(snn, [images(2, 6), images(2, 7)], progress=False)
    with pytest.raises(ValueError, match="the loader is empty"):
        measure_energy(snn, [], progress=False)
