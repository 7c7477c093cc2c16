"""Each site's error is what it adds and what it gets, and the advice fits networks made sick on purpose."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from ftbc_pl import calibrate_, convert, diagnose, prepare
from ftbc_pl.simulation import Simulation
from tests.digits import classifier, digits
from tests.networks import images, small_cnn

FIRST, SECOND = "1", "4"


def healthy(steps=32, levels=None, **options):
    batch, _ = digits()
    return convert(copy.deepcopy(classifier(levels)), steps, batches=[batch[:200]], **options)


def unseen():
    return [digits()[0][800:900]]


def cause_of(snn, site):
    found = {finding.site: finding for finding in diagnose(snn, unseen(), progress=False).findings()}
    return found[site].cause


class Recording(Simulation):
    """Keeps input and output of each site, (T, B, C, ...)."""

    def __init__(self, steps, kept):
        super().__init__(steps)
        self.kept = kept

    def simulate(self, call, site, current, out):
        x = current.clone()
        super().simulate(call, site, current, out)
        self.kept[call.name] = x, out.clone()


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_the_errors_are_those_of_their_definition(chunk):
    snn = convert(prepare(small_cnn(), "qcfs", levels=4, threshold=0.75), 5, batches=[images()]).double()
    calibrate_(snn, [images().double()], progress=False)
    batch, kept, activations = images(6, seed=3).double(), {}, {}
    snn.time_chunk = chunk
    sick = diagnose(snn, [batch[:4], batch[4:]], progress=False)
    snn.time_chunk = 5
    snn.simulate(batch, lambda steps: Recording(steps, kept))
    modules = dict(snn.network.named_modules())
    handles = [
        modules[name].register_forward_hook(lambda _, __, out, name=name: activations.update({name: out.clone()}))
        for name in sick.sites
    ]
    snn.network(batch)
    for handle in handles:
        handle.remove()
    for row, name in enumerate(sick.sites):
        a, (x, spikes) = activations[name], kept[name]
        for t in range(1, 6):
            mean = spikes[:t].mean(0)
            wanted = modules[name](x[:t].mean(0))
            for found, difference in (
                (sick.error, mean - a), (sick.own_error, mean - wanted), (sick.inherited_error, wanted - a)
            ):  # fmt: skip
                assert found[row, t - 1].item() == pytest.approx((difference.norm() / a.norm()).item(), rel=1e-9)
    # The first site gets the images themselves.
    assert sick.inherited_error[0].abs().max() < 1e-12
    assert sick.images == 6


def test_a_healthy_network_has_nothing_to_mend():
    sick = diagnose(healthy(256, threshold="max"), unseen(), progress=False)
    assert {finding.cause for finding in sick.findings()} == {"none"}
    assert sick.advice() == ["No site adds much of an error: nothing to mend."]
    assert str(sick).count(" % ") > 8  # the numbers are there all the same
    assert sick.error[:, -1].max() < 0.05


def test_a_threshold_that_is_too_small():
    snn = healthy()
    snn.sites[0].threshold.mul_(0.2)
    sick = diagnose(snn, unseen(), progress=False)
    assert sick.findings()[0].site == FIRST
    assert sick.findings()[0].cause == "clipping"
    share = 100 * sick.above[0].item()
    added = f"Site {FIRST} adds an error of {100 * sick.own_error[0, -1]:.0f} % of its activation at T = 32: "
    assert added in str(sick)
    assert f"{share:.0f} % of its inputs lie above the threshold; try ftbc.threshold=max" in str(sick)
    assert cause_of(snn, SECOND) != "clipping"


def test_a_threshold_that_is_too_large():
    snn = healthy(8)
    snn.sites[1].threshold.mul_(20)
    sick = diagnose(snn, unseen(), progress=False)
    assert sick.findings()[0].site == SECOND
    assert sick.findings()[0].cause == "high threshold"
    assert sick.peak[1] < 0.5
    assert "try ftbc.threshold=mse" in str(sick)


@pytest.mark.parametrize(("factor", "advice"), [(0.2, "its learned threshold rises"), (20, "from a smaller one")])
def test_a_learned_threshold_is_not_to_be_measured_otherwise(factor, advice):
    snn = convert(prepare(small_cnn(), "qcfs", levels=4, threshold=1.0), 8, batches=[images()])
    for site in snn.sites:
        site.threshold.mul_(factor)
    sick = diagnose(snn, [images()], progress=False)
    assert sick.learned == (True,) * len(sick.sites)
    assert advice in str(sick)
    assert "ftbc.threshold" not in str(sick)
    assert diagnose(healthy(2), unseen(), progress=False).learned == (False, False)


def test_a_dead_layer():
    snn = healthy()
    snn.network[3].bias.fill_(-1000.0)
    sick = diagnose(snn, unseen(), progress=False)
    assert sick.dead.tolist() == [pytest.approx(sick.dead[0].item()), 1.0]
    assert sick.dead[0] < 0.5
    assert sick.findings()[0].site == SECOND
    assert sick.findings()[0].cause == "dead"
    assert f"Site {SECOND}: 100 % of its channels are 0 in the ANN" in str(sick)
    assert sick.error[1].tolist() == sick.own_error[1].tolist() == sick.inherited_error[1].tolist() == [0.0] * 32
    assert str(sick).splitlines()[2].split()[:4] == [SECOND, "-", "-", "-"]
    assert 0 < sick.error[0, -1] < 1


def test_too_few_levels():
    assert cause_of(healthy(64, levels=2), FIRST) == "levels"
    assert "train with more levels" in str(diagnose(healthy(64, levels=2), unseen(), progress=False))
    assert cause_of(healthy(8, levels=32), FIRST) != "levels"


def test_too_few_steps():
    snn = healthy(2, threshold="max")
    assert cause_of(snn, FIRST) == cause_of(snn, SECOND) == "steps"
    sick = diagnose(snn, unseen(), progress=False)
    assert f"(at t = 1 the error was {100 * sick.own_error[0, 0]:.0f} %, so that more steps lower it)" in str(sick)
    assert "try more timesteps" in str(sick)


def test_the_text_names_what_adds_something_in_the_order_of_its_size():
    found = diagnose(healthy(2), unseen(), progress=False)

    def sick(own, dead):
        own_error = torch.tensor(own).unsqueeze(1)
        zeros, names = torch.zeros(len(own)), tuple(map(str, range(len(own))))
        return replace(
            found, sites=names, learned=(False,) * len(own), error=own_error, own_error=own_error,
            inherited_error=own_error, clipped=zeros, rounded=zeros, above=zeros, peak=zeros + 1, saturated=zeros,
            dead=torch.tensor(dead), silent=zeros,
        )  # fmt: skip

    # The most severe of the four adds the least of those that are shown; one that is dead in part adds nothing.
    lines = sick([0.5, 0.4, 0.001, 0.3], [0.0, 0.75, 0.9, 0.0]).advice()
    assert [line.split(":")[0].split(" of its")[0] for line in lines] == [
        f"Site {name} adds an error of {size} %" for name, size in (("0", 50), ("1", 40), ("3", 30))
    ]
    assert sick([0.0, 0.4], [1.0, 0.0]).advice()[0].startswith("Site 0: 100 % of its channels are 0")


def test_saturated_channels_are_those_whose_mean_is_above_the_threshold():
    snn = healthy()
    batch = unseen()[0]
    mean = snn.network[:2](batch).mean((0, 2, 3))
    snn.sites[0].threshold.copy_(torch.where(mean > mean.median(), mean * 0.9, mean * 1.1 + 1e-3))
    sick = diagnose(snn, [batch], progress=False)
    assert sick.saturated[0] == (mean > mean.median()).double().mean()
    source = snn.network[0](batch)
    theta = snn.sites[0].threshold.view(1, -1, 1, 1)
    assert sick.above[0].item() == pytest.approx((source > theta).double().mean().item())


def test_activations_in_place_are_compared():
    ann = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(inplace=True), nn.Linear(9, 4), nn.ReLU(True)).eval()
    snn = convert(ann, 64, batches=[digits()[0][:100]], threshold="max")
    sick = diagnose(snn, unseen(), progress=False)
    assert sick.error[:, -1].max() < 0.05


def test_plain_values_and_an_empty_loader():
    snn = healthy(2)
    plain = diagnose(snn, unseen(), progress=False).to_dict()
    assert [site["name"] for site in plain["sites"]] == [FIRST, SECOND]
    assert len(plain["sites"][0]["error"]) == 2
    assert len(plain["advice"]) == 2
    with pytest.raises(ValueError, match="loader is empty"):
        diagnose(snn, [], progress=False)
