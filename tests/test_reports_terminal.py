import pytest

from ftbc_pl.reports import accuracy_table
from ftbc_pl.reports.terminal import table_steps
from tests.report_results import make_results, make_uncalibrated_results


@pytest.mark.parametrize(
    ("num_steps", "steps"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (10, [1, 2, 4, 8, 10])]
)
def test_powers_of_two_and_the_last_step_are_shown(num_steps, steps):
    assert table_steps(num_steps) == steps


def test_the_table_is_aligned_and_in_percent():
    assert accuracy_table(make_results(10)).splitlines() == [
        " T  uncalibrated  calibrated     ANN",
        "--  ------------  ----------  ------",
        " 1        25.0 %      50.0 %  90.6 %",
        " 2        26.6 %      51.6 %  90.6 %",
        " 4        29.7 %      54.7 %  90.6 %",
        " 8        35.9 %      60.9 %  90.6 %",
        "10        39.1 %      64.1 %  90.6 %",
        "",
        "Accuracy on 1,000 test images: ANN 90.6 %, SNN 64.1 % at T = 10, calibrated (exact) with 100 images, "
        "1 forward pass, 2.2 s.",
    ]


def test_without_calibration_there_is_no_such_column():
    assert accuracy_table(make_uncalibrated_results(1)).splitlines() == [
        "T  uncalibrated     ANN",
        "-  ------------  ------",
        "1        25.0 %  90.6 %",
        "",
        "Accuracy on 1,000 test images: ANN 90.6 %, SNN 25.0 % at T = 1, not calibrated.",
    ]


def test_steps_can_be_chosen():
    rows = accuracy_table(make_results(8), steps=[3, 5]).splitlines()[2:4]
    assert [row.split()[0] for row in rows] == ["3", "5"]


@pytest.mark.parametrize("step", [0, 9])
def test_a_step_that_was_not_simulated_is_refused(step):
    with pytest.raises(ValueError, match=rf"steps in 1\.\.8, got {step}"):
        accuracy_table(make_results(8), steps=[step])
