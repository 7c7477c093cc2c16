"""Weights fitted in the forward that calibrates."""

import copy
import json
import os
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from ftbc_pl import calibrate_, convert, evaluate, load_snn, prepare, save_snn
from ftbc_pl.calibration import weights as fitting
from ftbc_pl.calibration.plan import plan_fits
from ftbc_pl.calibration.report import BATCH_INSIDE, NO_LAYER, OWN_OUTPUT, SEES_IMAGE, WeightChange
from ftbc_pl.calibration.weights import WeightFit
from ftbc_pl.evaluation import Comparison
from ftbc_pl.functional.ridge import solve_ridge
from ftbc_pl.io import load_calibration
from ftbc_pl.reports.collect import collect_results
from ftbc_pl.reports.panels import weights_panel
from ftbc_pl.simulation.corrections import Changed
from ftbc_pl.simulation.visitors import Simulation
from tests.networks import create, images, randomise_, small_cnn

pytestmark = pytest.mark.filterwarnings("ignore:weights='ridge' fits")


def ridge(snn, batch, **options):
    return calibrate_(snn, [batch], progress=False, weights="ridge", **options)


def smooth_images(count=40, size=8, channels=3, seed=1):
    """Images with few large blobs, which a fit can learn something of."""
    return nn.functional.interpolate(images(count, size // 4, channels, seed), scale_factor=4.0, mode="bilinear")


class Block(nn.Module):
    """A residual block with a normalisation layer; the sum is written in place."""

    def __init__(self, channels=6):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu_()))
        out += x
        return out.relu_()


class Joined(nn.Module):
    """Concatenation and a transposed convolution."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2)

    def forward(self, x):
        return self.up(torch.cat([self.first(x).relu(), self.second(x).relu()], 1)).relu()


class Overwritten(nn.Module):
    """The sum is written over the shortcut, and a convolution's output is read twice."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x += self.conv1(x)
        x = x.relu()
        y = self.conv2(x)
        return y.relu() + y


class Attention(nn.Module):
    """Attention over tokens, with a product that is no layer."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp1, self.mlp2 = nn.Linear(8, 8), nn.Linear(8, 8)
        self.matrix = nn.Parameter(torch.eye(8) / 2)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.mlp2(self.mlp1(x).relu()) @ self.matrix


def around(channels, *modules, outputs=4 * 8 * 8):
    stem = [nn.Conv2d(3, channels, 3, padding=1), nn.ReLU()]
    return randomise_(nn.Sequential(*stem, *modules, nn.Flatten(), nn.Linear(outputs, 5)))


NETWORKS = {
    "plain": small_cnn,
    "residual": lambda: around(6, Block(), Block(), outputs=6 * 8 * 8),
    "depthwise": lambda: around(
        6, nn.Conv2d(6, 12, 3, padding=1, groups=6), nn.BatchNorm2d(12), nn.ReLU6(), nn.Conv2d(12, 4, 1)
    ),
    "concatenation": lambda: around(4, Joined(), outputs=4 * 16 * 16),
    "overwritten": lambda: around(4, Overwritten()),
    "attention": lambda: around(8, Attention(), outputs=64 * 8),
}


def make(name):
    torch.manual_seed(0)
    return NETWORKS[name]()


def converted(name, num_steps=4, **options):
    # The images of the conversion are others than those that calibrate.
    return convert(make(name), num_steps, batches=[smooth_images(seed=5)], **options)


def targets(name, **options):
    report = ridge(converted(name, **options), smooth_images())
    return {one.layer: one.target for one in report.weights}


@pytest.mark.parametrize("fold_bn", [False, True])
def test_layers_of_a_residual_network_belong_to_its_sites(fold_bn):
    snn = converted("residual", fold_bn=fold_bn)
    report = ridge(snn, smooth_images())
    assert {(one.layer, one.target) for one in report.weights} == {
        ("0", SEES_IMAGE),
        ("2.conv1", "2"),
        ("2.conv2", "2#2"),
        ("shortcut of 2#2", "2#2"),
        ("3.conv1", "3"),
        ("3.conv2", "3#2"),
        ("shortcut of 3#2", "3#2"),
        ("5", OWN_OUTPUT),
    }
    assert Changed("add_", 0, 1) in snn.corrections.changed
    assert all(0 < one.change < 10 for one in report.weights if one.target.startswith(("2", "3")))


def test_layers_whose_site_is_not_sure_are_fitted_to_their_own_output():
    assert targets("plain") == {"0": SEES_IMAGE, "3": "5", "7": OWN_OUTPUT}
    assert targets("depthwise") == {"0": SEES_IMAGE, "2": "4", "5": OWN_OUTPUT, "7": OWN_OUTPUT}
    assert targets("concatenation") == {
        "0": SEES_IMAGE, "2.first": "2", "2.second": "2#2", "2.up": "2#3", "4": OWN_OUTPUT,
    }  # fmt: skip
    assert targets("overwritten") == {"0": SEES_IMAGE, "2.conv1": OWN_OUTPUT, "2.conv2": OWN_OUTPUT, "4": OWN_OUTPUT}
    assert targets("attention") == {
        "0": SEES_IMAGE, "2": NO_LAYER, "2.attention": BATCH_INSIDE, "2.mlp1": "2", "2.mlp2": OWN_OUTPUT,
        "4": OWN_OUTPUT,
    }  # fmt: skip


@pytest.mark.slow
def test_a_vision_transformer_and_mobilenet_leave_nothing_out():
    for name, size, layers in (("cifar_mobilenetv2", 32, 25), ("vit_tiny_patch16_224", 32, None)):
        kwargs = {} if layers else {"img_size": 32, "depth": 2, "act_layer": nn.ReLU, "embed_dim": 24, "num_heads": 3}
        snn = convert(create(name, num_classes=10, **kwargs), 2, batches=[images(4, size)])
        report = ridge(snn, images(10, size))
        expected = [m for m in snn.network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(report.weights) == len(expected)
        assert not any(one.target == NO_LAYER for one in report.weights)
        assert snn(images(2, size)).isfinite().all()


class CurrentsOfSites(Simulation):
    """Mean over time of the current of each site, and the ANN's input, as a simulation sees them."""

    def __init__(self, num_steps):
        super().__init__(num_steps, ann_rows=True)
        self.found = {}

    def neuron(self, call, site, x, activation):
        blocks = self.unfold(x, call.static[0])
        self.found[call.name] = blocks[0].clone(), blocks[1:].clone()
        return super().neuron(call, site, x, activation)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("fold_bn", [False, True])
def test_the_network_does_what_the_calibration_saw(name, fold_bn, monkeypatch):
    batch = smooth_images().double()
    snn = converted(name, fold_bn=fold_bn).double()
    seen = {}
    original = WeightFit.at_site

    def at_site(self, call, x):
        original(self, call, x)
        seen[call.name] = x.clone()

    monkeypatch.setattr(WeightFit, "at_site", at_site)
    ridge(snn, batch)
    visitor = CurrentsOfSites(4)
    snn.reset()
    snn.visit(batch, visitor)
    snn.reset()
    assert snn.corrections.changed
    for place, (z, currents) in visitor.found.items():
        expected = seen[place]
        if len(expected) > len(z):
            # exact brings a neuron of each channel to its threshold, so that rounding decides whether it fires.
            differ = (torch.cat([z, currents.flatten(0, 1)]) - expected).abs() > 1e-9
            assert differ.double().mean() < 0.005


@pytest.mark.parametrize("name", NETWORKS)
def test_the_error_of_the_inputs_never_grows(name):
    report = ridge(converted(name), smooth_images())
    fitted = [one for one in report.weights if one.target not in (SEES_IMAGE, NO_LAYER)]
    assert fitted
    assert all(one.left <= 1 and one.left_held_out <= 1 for one in fitted)
    assert any(one.left < 0.99 for one in fitted)
    # A layer stays as it is only where no penalty is better than that, or gives back range only.
    assert all(one.left == 1 for one in fitted if one.penalty is None)


def test_means_over_time_have_the_mean_and_range_of_the_ann():
    snn = converted("residual").double()
    batch = smooth_images().double()
    ridge(snn, batch)
    visitor = CurrentsOfSites(4)
    snn.visit(batch, visitor)
    snn.reset()
    for z, currents in list(visitor.found.values())[1:]:
        mean = currents.mean(0)
        torch.testing.assert_close(mean.mean((0, 2, 3)), z.mean((0, 2, 3)), rtol=1e-6, atol=1e-6)
        ratio = mean.std((0, 2, 3)) / z.std((0, 2, 3))
        assert ((ratio - 1).abs() < 1e-6).all() or (ratio < 1).any()  # γ is 4 at most


@pytest.mark.parametrize("horizon", [1, 2])
def test_a_horizon_is_the_one_timestep_that_is_fitted(horizon, monkeypatch):
    monkeypatch.setattr(fitting, "EXPAND", False)  # it gives back a part of what the fit has gained
    monkeypatch.setattr(fitting, "solve_ridge", partial(solve_ridge, penalties=(0.3,)))
    lacking = {}
    for given in (horizon, None):
        snn = converted("plain").double()
        batch = smooth_images().double()
        ridge(snn, batch, horizon=given)
        visitor = CurrentsOfSites(4)
        snn.visit(batch, visitor)
        snn.reset()
        z, currents = list(visitor.found.values())[1]  # the first one whose inputs are the same in both
        missing = z - currents[:horizon].mean(0)
        centred = missing - missing.mean((0, 2, 3), keepdim=True)
        lacking[given] = centred.square().sum().item()
    assert lacking[horizon] < lacking[None]


def test_a_fit_for_one_timestep_has_no_other_horizon():
    fits = []
    for horizon in (None, 1):
        snn = converted("residual", num_steps=1)
        ridge(snn, smooth_images(), horizon=horizon)
        fits.append([tensor for tensors in snn.corrections.content().values() for tensor in tensors])
    assert all(torch.equal(one, other) for one, other in zip(*fits, strict=True))


def test_nothing_changes_where_spikes_are_exact():
    # One step of neurons is what QCFS with one level computes.
    torch.manual_seed(0)
    network = prepare(around(4, nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()), "qcfs", levels=1, threshold=1.0)
    snn = convert(network, 1, example=smooth_images(2)).double()
    before = {name: value.clone() for name, value in snn.state_dict().items()}
    report = ridge(snn, smooth_images().double(), readout="mean")
    assert not snn.corrections.changed
    assert all(one.change == 0 for one in report.weights)
    torch.testing.assert_close(snn(smooth_images().double())[0], snn.network(smooth_images().double()))
    assert snn.state_dict().keys() == before.keys()


def test_the_ann_and_an_uncalibrated_network_stay_as_they_are():
    snn, batch = converted("residual"), smooth_images()
    ann, logits = copy.deepcopy(snn.network.state_dict()), snn.network(batch)
    before = snn(batch)
    ridge(snn, batch)
    assert all(torch.equal(value, ann[name]) for name, value in snn.network.state_dict().items())
    assert torch.equal(snn.network(batch), logits)
    assert not torch.equal(snn(batch), before)
    with snn.uncalibrated():
        assert torch.equal(snn(batch), before)


def test_time_may_run_in_chunks_afterwards():
    snn = converted("residual").double()
    ridge(snn, smooth_images().double())
    whole = snn(smooth_images().double())
    snn.time_chunk = 1
    torch.testing.assert_close(snn(smooth_images().double()), whole, rtol=0, atol=1e-12)


def test_a_calibration_begins_with_the_weights_of_the_ann():
    snn, batch = converted("residual"), smooth_images()
    ridge(snn, batch)
    first = copy.deepcopy(snn.state_dict())
    ridge(snn, batch)
    assert all(torch.equal(value, first[name]) for name, value in snn.state_dict().items())
    calibrate_(snn, [batch], progress=False)
    assert not snn.corrections.changed


def test_weights_are_given_back_after_an_error():
    snn, batch = converted("residual"), smooth_images()
    ridge(snn, batch)
    before = copy.deepcopy(snn.state_dict())
    batch[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        ridge(snn, batch)
    assert all(torch.equal(value, before[name]) for name, value in snn.state_dict().items())


@pytest.mark.parametrize("solver", ["exact", "balanced", "heuristic"])
@pytest.mark.parametrize("granularity", ["channel", "layer"])
def test_all_solvers_go_with_it(solver, granularity):
    snn = converted("residual")
    report = ridge(snn, smooth_images(), solver=solver, granularity=granularity)
    assert any(one.change for one in report.weights)
    assert "layers and shortcuts changed" in str(report)


@pytest.mark.parametrize("name", [*NETWORKS, "channels_last"])
def test_outputs_are_bit_equal_after_loading(name, tmp_path):
    snn, batch = converted("residual" if name == "channels_last" else name), smooth_images()
    if name == "channels_last":
        snn = snn.to(memory_format=torch.channels_last)
    report = ridge(snn, batch)
    save_snn(snn, tmp_path, report=report)
    loaded = load_snn(tmp_path, ann=randomise_(make("residual" if name == "channels_last" else name), seed=9))
    assert torch.equal(loaded(batch), snn(batch))
    assert torch.equal(loaded.network(batch), snn.network(batch))
    with loaded.uncalibrated(), snn.uncalibrated():
        assert torch.equal(loaded(batch), snn(batch))
    assert load_calibration(tmp_path) == report


def test_files_that_were_changed_are_refused(tmp_path):
    snn = converted("plain")
    ridge(snn, smooth_images())
    save_snn(snn, tmp_path)
    path = tmp_path / "snn.json"
    whole = json.loads(path.read_text())
    for content, message in (
        (whole | {"corrections": [["conv2d", 7, -1, 1]]}, "was changed after it was saved, under 'corrections'"),
        (whole | {"corrections": [["conv2d"]]}, "expected the calls whose weights were fitted"),
        ({key: value for key, value in whole.items() if key != "corrections"}, "does not fit the network"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            load_snn(tmp_path, ann=make("plain"))


def test_other_layers_than_those_that_were_fitted_are_an_error():
    snn = converted("plain")
    ridge(snn, smooth_images())
    snn.corrections.replace_({Changed("conv2d", 5): snn.corrections.content()[Changed("conv2d", 1)]})
    with pytest.raises(RuntimeError, match="called other operations"):
        snn(smooth_images())
    snn.corrections.replace_({Changed("conv2d", 0): snn.corrections.content()[Changed("conv2d", 5)]})
    with pytest.raises(RuntimeError, match="calibrate it again"):
        snn(smooth_images())


def test_several_passes_are_refused():
    with pytest.raises(ValueError, match="raise batch_size or num_batches"):
        ridge(converted("plain"), smooth_images(), passes=2, solver="heuristic")
    with pytest.raises(ValueError, match="weights must be 'keep' or 'ridge'"):
        calibrate_(converted("plain"), [smooth_images()], weights="lasso")


@pytest.mark.filterwarnings("default")
def test_few_images_are_warned_of():
    with pytest.warns(UserWarning, match="fits weights to 49 calibration images.*Take 200") as warned:
        ridge(converted("plain"), smooth_images(49))
    assert [one.filename for one in warned] == [__file__]  # where calibrate_ is called
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ridge(converted("plain"), smooth_images(50))


def test_channels_that_normalisation_silences_stay_as_they_are():
    network = make("residual")
    network[2].bn2.weight.data[1] = 0
    snn = convert(network, 4, batches=[smooth_images(seed=5)], fold_bn=False)
    ridge(snn, smooth_images())
    conv2 = Changed("conv2d", 2)
    fitted, own = snn.corrections.content()[conv2][0], network[2].conv2.weight
    assert torch.equal(fitted[1], own[1])
    assert not torch.equal(fitted[0], own[0])
    assert snn(smooth_images()).isfinite().all()


def test_weights_that_were_0_have_no_relative_change():
    network = make("residual")
    network[2].conv2.weight.data.zero_()
    snn = convert(network, 4, batches=[smooth_images(seed=5)])
    report = ridge(snn, smooth_images(60))
    (change,) = (one for one in report.weights if one.layer == "2.conv2")
    assert change.change is None
    assert snn.corrections.content()[Changed("conv2d", 2)][0].any()
    assert "% (median)" in str(report)


def test_the_report_page_shows_the_weights():
    snn, batch = converted("residual"), smooth_images()
    report = ridge(snn, batch)
    labelled = [(batch, torch.zeros(len(batch), dtype=torch.int64))]
    comparison = Comparison(4)
    comparison.update(snn, *labelled[0])
    results = collect_results(snn, comparison.compute(), report, "test", {})
    panel = weights_panel(results)
    assert panel is not None
    rows = {row[0]: row for row in panel.tables[0].rows}
    (conv2,) = [one for one in report.weights if one.layer == "2.conv2"]
    assert rows["2.conv2"][1:3] == ["2#2", f"{100 * conv2.change:.1f} %"]
    assert type(results).from_json(json.loads(json.dumps(results.to_json()))).weights == results.weights


SHARES = (slice(0, 17), slice(17, 40))


def state_of(batch):
    snn = converted("residual").double()
    # The other solvers bring a neuron of each channel to its threshold, where rounding decides whether it fires.
    report = ridge(snn, batch, solver="heuristic")
    return dict(snn.state_dict()), [one.penalty for one in report.weights]


def share(rank, store, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.save(state_of(smooth_images().double()[SHARES[rank]]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_fit_the_weights_of_one(tmp_path):
    mp.spawn(share, (tmp_path / "store", tmp_path), nprocs=2)
    (first, one), (second, two) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone, penalties = state_of(smooth_images().double())
    assert one == two == penalties
    for name, value in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-8, atol=1e-8)


def test_plans_do_not_depend_on_inference_mode():
    snn = converted("residual")
    with torch.inference_mode():
        inside = plan_fits(snn, smooth_images(2))
    assert inside.sites.keys() == plan_fits(snn, smooth_images(2)).sites.keys() == {"2", "2#2", "3", "3#2"}


@pytest.mark.skipif("FTBC_CIFAR10" not in os.environ, reason="FTBC_CIFAR10 names no folder of CIFAR-10 images")
def test_accuracy_rises(monkeypatch):
    monkeypatch.syspath_prepend("benchmarks")
    import trained

    data = trained.Cifar10(os.environ["FTBC_CIFAR10"])
    accuracies = {}
    for weights in ("keep", "ridge"):
        batches = data.calibration(100, 1, 0)
        snn = convert(trained.load("cifar10_r20_relu"), 4, batches=batches, fold_bn=True)
        calibrate_(snn, batches, progress=False, weights=weights)
        accuracies[weights] = evaluate(snn, data.batches("val", 200))
    assert (accuracies["ridge"] > accuracies["keep"]).all()
    assert accuracies["ridge"][1] > accuracies["keep"][1] + 0.08


def test_a_layer_of_almost_no_weights_does_not_rule_what_the_report_says():
    report = calibrate_(convert(small_cnn(), 2, batches=[images()]), [images()], progress=False)
    changes = tuple(WeightChange(layer=str(change), target="a", change=change) for change in (0.1, 0.2, 1e9, 0.0))
    assert "Weights of 3 of 4 layers and shortcuts changed, by 20 % (median)" in str(replace(report, weights=changes))
