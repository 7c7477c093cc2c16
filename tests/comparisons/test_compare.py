"""compare in plain code: its numbers are those of convert, calibrate_ and evaluate, and it goes on where it stopped."""

import csv
import json

import pytest
import torch

from ftbc_pl import calibrate_, compare, convert, evaluate
from ftbc_pl.calibration import uncalibrated_readout
from tests.digits import classifier, digits


class Counted(list):
    """Batches that count how often they are gone through, and may stop at one time."""

    def __init__(self, batches, stop_at=None):
        super().__init__(batches)
        self.times, self.stop_at = 0, stop_at

    def __iter__(self):
        self.times += 1
        if self.times == self.stop_at:
            raise KeyboardInterrupt
        return super().__iter__()


@pytest.fixture(scope="module")
def held_out():
    images, labels = digits()
    return [(images[800:1000], labels[800:1000]), (images[1000:1150], labels[1000:1150])]


@pytest.fixture(scope="module")
def training():
    return list(digits()[0][:240].split(40))


def accuracies(ann, training, held_out, draw, steps, **options):
    """Accuracy at each t, by the other functions of the package."""
    own = training[draw : draw + 1]
    snn = convert(ann, steps, batches=own)
    calibrate_(snn, own, progress=False, **options)
    return evaluate(snn, held_out, progress=False).tolist()


@pytest.fixture(scope="module")
def table(training, held_out):
    return compare(classifier(4), held_out, training, num_steps=(2, 4), draws=2, progress=False)


class TestNumbers:
    @pytest.mark.parametrize("solver", ["heuristic", "exact", "balanced"])
    @pytest.mark.parametrize("readout", ["mean", "least_squares"])
    @pytest.mark.parametrize("steps", [2, 4])
    def test_they_are_those_of_a_calibration_for_that_t(self, table, training, held_out, solver, readout, steps):
        (rule,) = [rule for rule in table.plan.rules if rule.solver == solver]
        expected = [
            accuracies(classifier(4), training, held_out, draw, steps, solver=solver, readout=readout)[-1]
            for draw in range(2)
        ]
        assert table.accuracies(rule, readout, steps) == pytest.approx(expected, abs=1e-9)

    def test_the_uncalibrated_network_has_both_readouts(self, table, training, held_out):
        bare = convert(classifier(4), 4, batches=training[:1])
        rule = table.plan.rules[0]
        assert table.accuracies(rule, "mean", 4)[0] == evaluate(bare, held_out, progress=False)[-1].item()
        bare.readout_weights.copy_(uncalibrated_readout(bare, training[:1]))
        assert table.accuracies(rule, "least_squares", 4)[0] == evaluate(bare, held_out, progress=False)[-1].item()

    def test_the_ann_and_the_images_are_counted(self, table, held_out):
        correct = sum((classifier(4)(images).argmax(1) == labels).sum().item() for images, labels in held_out)
        assert (table.ann, table.images) == (correct / 350, 350)

    def test_one_calibration_serves_all_t_where_t_does_not_matter(self, table):
        made = sorted((str(record.solver), record.num_steps) for record in table.records if record.draw == 0)
        assert made == [("None", 4), ("balanced", 2), ("balanced", 4), ("exact", 4), ("heuristic", 4)]
        assert "Calibrated for each T by itself: balanced. The others: once, at the largest T." in table.note()


def test_thresholds_by_mse_are_measured_for_each_t(training, held_out):
    table = compare(classifier(), held_out, training, num_steps=(2, 6), solvers=["exact"], draws=1, progress=False)
    assert sorted((str(record.solver), record.num_steps) for record in table.records) == [
        ("None", 2), ("None", 6), ("exact", 2), ("exact", 6),
    ]  # fmt: skip
    assert "thresholds measured by mse depend on it" in table.note()
    fixed = compare(
        classifier(), held_out, training, num_steps=(2, 6), solvers=["exact"], draws=1, threshold="max", progress=False
    )
    assert {record.num_steps for record in fixed.records} == {6}


def test_weights_are_rows_of_their_own(held_out):
    training = [digits()[0][:200]]
    table = compare(
        classifier(4), held_out, training, num_steps=[2], solvers=["exact"], weights=["keep", "ridge"], draws=1,
        progress=False,
    )  # fmt: skip
    expected = accuracies(classifier(4), training, held_out, 0, 2, weights="ridge")[-1]
    assert table.accuracies(table.plan.rules[2], "least_squares", 2) == [expected]
    assert [row[:3] for row in table.grid()[1]][-3:] == [
        ["exact", "ridge", "mean"], ["exact", "ridge", "least_squares"], ["ANN", "–", "–"],
    ]  # fmt: skip


class TestFolder:
    options = {"num_steps": [1, 2], "solvers": ["exact", "balanced"], "draws": 2, "progress": False}

    def test_it_goes_on_where_it_was_stopped(self, training, held_out, tmp_path, caplog):
        caplog.set_level("INFO")
        stopped = Counted(held_out, stop_at=5)  # the ANN, the network as it was, exact, and balanced at T = 2
        with pytest.raises(KeyboardInterrupt):
            compare(classifier(4), stopped, training, output_dir=tmp_path / "out", **self.options)
        written = json.loads((tmp_path / "out" / "comparison.json").read_text())
        assert [record["solver"] for record in written["records"]] == [None, "exact", "balanced"]
        assert "Measuring uncalibrated, T = 2, draw 1 of 2 (1 of 8)." in caplog.text
        assert "are there already" not in caplog.text
        caplog.clear()
        rest = Counted(held_out)
        table = compare(classifier(4), rest, training, output_dir=tmp_path / "out", **self.options)
        assert rest.times == 5
        assert [record.getMessage() for record in caplog.records if "easur" in record.getMessage()] == [
            f"3 of 8 measurements are there already, in {tmp_path / 'out'}.",
            "Measuring balanced, T = 1, draw 1 of 2 (4 of 8).",
            "Measuring uncalibrated, T = 2, draw 2 of 2 (5 of 8).",
            "Measuring exact, T = 2, draw 2 of 2 (6 of 8).",
            "Measuring balanced, T = 2, draw 2 of 2 (7 of 8).",
            "Measuring balanced, T = 1, draw 2 of 2 (8 of 8).",
        ]
        whole = compare(classifier(4), held_out, training, **self.options)
        assert list(table.rows()) == [{**row, "seconds": pytest.approx(row["seconds"], abs=9)} for row in whole.rows()]
        again = Counted(held_out)
        assert str(compare(classifier(4), again, training, output_dir=tmp_path / "out", **self.options)) == str(table)
        assert again.times == 0

    def test_more_draws_and_steps_add_to_it(self, training, held_out, tmp_path):
        compare(classifier(4), held_out, training, output_dir=tmp_path, num_steps=[2], solvers=["exact"], draws=1)
        more = Counted(held_out)
        table = compare(
            classifier(4), more, training, output_dir=tmp_path, num_steps=[1, 2], solvers=["exact"], draws=2
        )
        assert more.times == 2  # of the second draw
        assert [row["draws"] for row in table.rows()] == [2] * 8

    def test_table_and_picture_lie_there(self, training, held_out, tmp_path):
        table = compare(classifier(4), held_out, training, output_dir=tmp_path, **self.options)
        rows = list(csv.DictReader((tmp_path / "comparison.csv").read_text().splitlines()))
        assert [float(row["accuracy"]) for row in rows] == [row["accuracy"] for row in table.rows()]
        assert (tmp_path / "comparison.md").read_text() == table.markdown()
        assert (tmp_path / "comparison.png").read_bytes()[:4] == b"\x89PNG"
        assert {path.name for path in tmp_path.iterdir()} == {
            "comparison.json", "comparison.csv", "comparison.md", "comparison.png",
        }  # fmt: skip

    def test_another_network_or_other_options_are_refused(self, training, held_out, tmp_path):
        options = {**self.options, "output_dir": tmp_path, "solvers": ["exact"]}
        compare(classifier(4), held_out, training, **options)
        with pytest.raises(FileExistsError, match="holds a comparison of another network"):
            compare(classifier(), held_out, training, **options)
        with pytest.raises(FileExistsError, match="or other options"):
            compare(classifier(4), held_out, training, granularity="layer", **options)
        table = compare(classifier(), held_out, training, overwrite=True, **options)
        assert table.ann == json.loads((tmp_path / "comparison.json").read_text())["ann"]

    def test_a_damaged_file_is_named(self, training, held_out, tmp_path):
        (tmp_path / "comparison.json").write_text("{")
        with pytest.raises(FileExistsError, match=r"comparison\.json is no comparison that can be read"):
            compare(classifier(4), held_out, training, output_dir=tmp_path, **self.options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"solver": "exact"}, TypeError, "it goes over num_steps, solvers and weights"),
        ({"readout": "mean"}, TypeError, "shows every readout"),
        ({"alhpa": 0.5}, TypeError, "compare has no option 'alhpa'. Its options are alpha,"),
        ({"draws": 0}, ValueError, "draws must be at least 1"),
        ({"num_steps": []}, ValueError, "at least one number of timesteps"),
        ({"num_steps": [0]}, ValueError, "num_steps must be at least 1"),
        ({"solvers": ["exakt"]}, ValueError, "Did you mean 'exact'"),
        ({"solvers": ["exact"], "passes": 3}, ValueError, "passes is an option of none of the solvers"),
        ({"horizon": 4, "num_steps": [2, 4]}, ValueError, "predictions, one of 1 to 2, got 4"),
        (
            {"horizon": 1, "num_steps": [2], "schedule": "accumulate"},
            ValueError,
            "predictions, 2, the only prediction, got 1",
        ),
        ({"threshold": 0.999}, ValueError, r"write 99\.9"),
        ({"draws": 7}, ValueError, "7 draws need 7 calibration batches, the loader holds 6"),
    ],
)
def test_what_is_wrong_is_said(training, held_out, options, error, message):
    with pytest.raises(error, match=message):
        compare(classifier(4), held_out, training, **{"num_steps": [1], "progress": False, **options})


def test_a_folder_made_for_nothing_is_not_left_and_nothing_is_measured_first(training, tmp_path):
    def never():
        raise AssertionError("the images were looked at before the number of calibration batches")
        yield

    with pytest.raises(ValueError, match="7 draws need 7"):
        compare(classifier(4), _Loader(never), training, draws=7, output_dir=tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


class _Loader:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return self.batches()


def test_what_one_solver_does_not_take_goes_to_those_that_do(training, held_out):
    table = compare(
        classifier(4), held_out, training, num_steps=[2], solvers=["heuristic", "exact"], draws=1, passes=3,
        progress=False,
    )  # fmt: skip
    expected = accuracies(classifier(4), training, held_out, 0, 2, solver="heuristic", passes=3)[-1]
    assert table.accuracies(table.plan.rules[1], "least_squares", 2) == [expected]


def test_images_that_can_be_gone_through_only_once_are_refused(training, held_out):
    with pytest.raises(TypeError, match="hand in a loader or a list"):
        compare(classifier(4), iter(held_out), training)


def test_the_network_stays_as_it_is(held_out):
    ann, training = classifier(4), [digits()[0][:200]]
    before = {name: value.clone() for name, value in ann.state_dict().items()}
    compare(ann, held_out, training, num_steps=[2], solvers=["exact"], weights=["ridge"], draws=1, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in ann.state_dict().items())
