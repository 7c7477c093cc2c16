"""What a reader needs beside the numbers: why they are so large, how sure they are, what words mean."""

from dataclasses import replace

import pytest
import torch
import yaml

from ftbc_pl.energy.cost import EnergyCost
from ftbc_pl.options import RunOptions
from ftbc_pl.reports.cost_panels import diagnosis_panel, energy_panel
from ftbc_pl.reports.panels import accuracy_panel, calibration_panel, key_figures, settings_panel, sites_panel
from ftbc_pl.reports.wording import closing_lines
from tests.report_results import make_results

POOLING = "; average pooling keeps spikes, train with model.pooling avg"
ADVICE = ["Site act adds an error of 9 % of its activation at T = 2: more steps."]


def energy(step_macs, images=1000):
    """Ten spikes a step that meet ten weights each, beside an ANN of 1,000 MACs."""
    spikes = torch.full((1, 2), 10.0, dtype=torch.float64)
    neurons = torch.tensor([20.0], dtype=torch.float64)
    return EnergyCost(images, ("act",), spikes, 10 * spikes, neurons, 200.0, 1000.0, step_macs, 50.0).to_dict()


def with_energy(step_macs, images=1000, operations=None):
    conversion = {"operations": {"spiking": {"relu": 1}, "rate-exact": operations or {}}}
    return make_results(2, images=1000, energy=energy(step_macs, images), conversion=conversion)


@pytest.mark.parametrize(
    ("operations", "behind", "pooling"),
    [
        ({"max_pool2d": 2}, "rate-exact sites (max_pool2d)", POOLING),
        ({"softmax": 1, "matmul": 2}, "rate-exact sites (softmax, matmul)", ""),
        ({}, "other layers, without neurons in between", ""),
    ],
)  # fmt: skip
def test_the_line_of_energy_says_what_multiplies_at_every_step(operations, behind, pooling):
    line = closing_lines(with_energy(1000.0, operations=operations))[1]
    share = 2000 * 4.6 / (2050 * 4.6 + 200 * 0.9)
    assert line.endswith(
        f" {100 * share:.0f} % of the energy (45nm) are MACs of layers behind {behind}: these get values, no spikes, "
        f"and multiply at every step{pooling} (docs/energy.md)."
    )


def test_multiplications_once_and_results_of_before_need_no_cause():
    once = with_energy(0.0)
    before = {name: value for name, value in energy(1000.0).items() if name != "static_macs"}
    for results in (once, replace(once, energy=before)):
        assert closing_lines(results)[1].endswith("Memory traffic is not counted.")


@pytest.mark.parametrize(("step_macs", "rate"), [(1000.0, "always"), (940.0, "0.256"), (0.0, "never")])
def test_a_firing_rate_of_break_even_that_can_not_occur_is_a_word(step_macs, rate):
    table = energy_panel(with_energy(step_macs)).tables[0]
    first = dict(zip(table.columns, next(iter(table.rows)), strict=True))
    # 1,000 − 990 MACs at 4.6 pJ against 200 synapses at 0.9 pJ: 0.256.
    assert first["ANN cheaper above rate, 45nm"] == rate


def test_images_are_spread_only_over_more_of_them():
    assert "counted on 1,000 test images;" in energy_panel(with_energy(0.0)).note
    assert (
        "counted on 128 images that are spread over the 1,000 test images;" in energy_panel(with_energy(0.0, 128)).note
    )


def test_the_headline_is_the_gain_at_the_last_step_with_its_error():
    results = make_results(2, images=20, accuracy_uncalibrated=[0.0, 0.5], accuracy_calibrated=[0.5, 0.6])
    # √(0.5·0.5/20 + 0.6·0.4/20) = 0.1565
    assert key_figures(results)[-1] == ("+10.0 ± 15.7 points", "gain by calibration at T\u00a0=\u00a02")


def test_a_calibration_that_costs_accuracy_says_so():
    def said(uncalibrated, calibrated):
        curves = {"accuracy_uncalibrated": [0.1, uncalibrated], "accuracy_calibrated": [0.1, calibrated]}
        return closing_lines(make_results(2, images=100, **curves))

    # √(0.85·0.15/100 + 0.77·0.23/100) = 0.0552
    assert said(0.85, 0.77)[0].startswith("At T = 2 the calibration lowers the accuracy by 8.0 ± 5.5 points (it had")
    assert said(0.85, 0.80) == said(0.80, 0.85) == []


def test_few_images_are_said_to_tell_little():
    few = "20 test images are few: differences below 22 points say nothing."
    assert closing_lines(make_results(2, images=20)) == [few]
    assert accuracy_panel(make_results(2, images=20)).note.endswith(few)
    assert closing_lines(make_results(2, images=100)) == []


@pytest.mark.parametrize(
    ("changes", "is_mended"),
    [
        ({}, False),  # 0.90625 of the ANN against 0.515625
        ({"accuracy_calibrated": [0.5, 0.9]}, True),
        ({"accuracy_calibrated": [0.9, 0.89]}, False),  # its standard error is 0.0092
        ({"accuracy_calibrated": [0.5, 0.9], "images": 50}, False),  # too few to tell
    ],
)
def test_there_is_nothing_to_mend_where_no_accuracy_is_lost(changes, is_mended):
    results = make_results(2, **changes)
    diagnosis = {"advice": ADVICE, "sites": [{"name": "act", "own_error": [0.2, 0.09], "dead": 0.5}]}
    said = ["At T = 2 no accuracy is lost beyond its standard error: nothing to mend."] if is_mended else ADVICE
    assert closing_lines(replace(results, diagnosis=diagnosis))[:1] == said
    assert diagnosis_panel(replace(results, diagnosis=diagnosis)).listings[0].text == said[0]
    diagnosis["sites"][0]["dead"] = 1.0  # of the ANN, which loses it as well
    assert closing_lines(replace(results, diagnosis=diagnosis))[:1] == ADVICE


def test_settings_are_those_that_the_solver_takes():
    def shown(settings):
        return yaml.safe_load(settings_panel(make_results(2, settings=settings)).listings[0].text)

    exact = {"ftbc": RunOptions(num_steps=2).to_dict(), "seed": 1}
    own = {"alpha", "passes", "horizon", "mean_weight"}
    assert shown(exact) == {"ftbc": {k: v for k, v in exact["ftbc"].items() if k not in own}, "seed": 1}
    heuristic = {"ftbc": RunOptions(solver="heuristic").to_dict()}
    assert own & shown(heuristic)["ftbc"].keys() == {"alpha", "passes"}
    ridge = {"ftbc": RunOptions(weights="ridge", horizon=2).to_dict()}
    assert shown(ridge)["ftbc"]["horizon"] == 2
    for other in ({"ftbc": {"solver": "own:mine", "alpha": 0.5}}, {"ftbc": 3}):
        assert shown(other) == other


def test_words_of_the_tables_are_explained():
    assert "A dead channel is 0 in the ANN" in calibration_panel(make_results(2)).note
    assert "saturated one" in calibration_panel(make_results(2)).note
    assert "a rate-exact one (max pooling, say)" in sites_panel(make_results(2)).note
    assert "Origin: whether a module" in sites_panel(make_results(2)).note
