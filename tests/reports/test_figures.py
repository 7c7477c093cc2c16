import numpy as np
import pytest
from matplotlib import pyplot

from ftbc_pl.reports import accuracy_figure, bias_figure, firing_rate_figure
from tests.report_results import SETTINGS, make_results, make_uncalibrated_results


def test_the_accuracy_figure_shows_both_curves_and_the_ann():
    results = make_results(8)
    lines = {line.get_label().split(" (")[0]: line for line in accuracy_figure(results).axes[0].get_lines()}
    assert lines["SNN, calibrated"].get_xdata().tolist() == list(range(1, 9))
    assert list(lines["SNN, calibrated"].get_ydata()) == results.accuracy_calibrated
    assert list(lines["SNN, uncalibrated"].get_ydata()) == results.accuracy_uncalibrated
    assert set(lines["ANN"].get_ydata()) == {results.ann_accuracy}


def test_the_accuracy_figure_of_an_uncalibrated_run_has_one_curve():
    lines = accuracy_figure(make_uncalibrated_results()).axes[0].get_lines()
    assert {line.get_label() for line in lines} == {"ANN", "SNN, uncalibrated (readout mean)"}


def test_the_legend_names_solver_readout_and_activation():
    legend = accuracy_figure(make_results(4, settings=SETTINGS)).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [
        "ANN (qcfs, L = 4)",
        "SNN, uncalibrated (readout mean)",
        "SNN, calibrated (exact, readout least_squares)",
    ]


@pytest.mark.parametrize("draw", [accuracy_figure, bias_figure, firing_rate_figure])
def test_every_figure_is_titled_with_what_it_shows(draw):
    assert draw(make_results(4, settings=SETTINGS)).get_suptitle() == (
        "cifar_resnet20 (qcfs, L = 4) on ImageData (torch/cifar10): 1,000 test images\n"
        "solver exact, readout least_squares, checkpoint best.ckpt"
    )


def test_a_long_title_is_broken_rather_than_cut():
    settings = {"model": {"network": "a_long_name " * 30}}
    lines = accuracy_figure(make_results(4, settings=settings)).get_suptitle().splitlines()
    assert max(map(len, lines)) <= 110
    assert " ".join(lines).count("a_long_name") == 30


def test_bands_are_one_standard_error_wide():
    results = make_results(2, accuracy_uncalibrated=[0.5, 1.0], accuracy_calibrated=None, calibration=None)
    (band,) = accuracy_figure(results).axes[0].collections
    low, high = band.get_datalim(accuracy_figure(results).axes[0].transData).get_points()[:, 1]
    assert low == pytest.approx(0.5 - 0.5 / 1000**0.5)
    assert high == 1  # all right, so no spread


@pytest.mark.parametrize(
    ("num_steps", "ticks"),
    [(1, [1]), (4, [1, 2, 3, 4]), (32, [1, 2, 4, 8, 16, 32]), (17, [1, 2, 4, 8, 17]), (24, [1, 2, 4, 8, 16, 24])],
)
def test_the_time_axis_shows_first_and_last_step(num_steps, ticks):
    assert accuracy_figure(make_results(num_steps)).axes[0].get_xticks().tolist() == ticks


def test_the_bias_figure_has_a_row_per_calibrated_site_and_a_column_per_step():
    results = make_results(num_steps=5, num_sites=4)
    axes = bias_figure(results).axes[1]
    calibrated = [site for site in results.sites if site.temporal_bias_rms]
    np.testing.assert_array_equal(axes.images[0].get_array(), [site.temporal_bias_rms for site in calibrated])
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"layer{index}.act" for index in range(4)]


def test_a_bias_of_zero_everywhere_can_be_drawn():
    sites = [site for site in make_results(2).sites if site.kind == "spiking"]
    zeros = [type(site)(**{**vars(site), "temporal_bias_rms": [0.0, 0.0]}) for site in sites]
    assert bias_figure(make_results(2, sites=zeros)).axes[1].images[0].get_clim() == (0, 1)


def test_the_firing_rate_figure_has_a_bar_per_spiking_site():
    results = make_results(num_sites=4)
    bars = firing_rate_figure(results).axes[0].patches
    assert [bar.get_width() for bar in bars] == [0.2, 0.4, 0.6, 0.8]


def test_many_sites_make_a_taller_figure_rather_than_smaller_rows():
    heights = {count: bias_figure(make_results(64, count)).get_figheight() for count in (10, 100)}
    assert heights[100] - heights[10] > 90 * 8 / 72  # 90 lines of type of 8 points


@pytest.mark.parametrize("figure", [bias_figure, firing_rate_figure])
def test_nothing_to_draw_is_an_error(figure):
    with pytest.raises(ValueError, match="expected at least one"):
        figure(make_uncalibrated_results())


def test_no_figure_is_left_open_in_pyplot():
    for draw in (accuracy_figure, bias_figure, firing_rate_figure):
        draw(make_results())
    assert pyplot.get_fignums() == []
