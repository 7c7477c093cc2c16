"""The measurements of a comparison, and the table that is made of them."""

import csv
import io
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ftbc_pl.comparisons.plan import Plan, Rule
from ftbc_pl.tables import text_table

READOUTS = ("mean", "least_squares")
COLUMNS = ("solver", "weights", "readout", "T", "accuracy", "sd", "standard_error", "draws", "images", "seconds")
NOTHING = "–"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one calibration gave.

    Attributes:
        solver: Its solver; None: the network as it was converted.
        weights: What became of the weights.
        num_steps: T of conversion and calibration.
        draw: Number of the choice of calibration images.
        causal: Whether another T would have given the same at every t ≤ T.
        accuracies: Accuracy at t = 1 … T, in 0..1, by readout.
        seconds: Duration of the calibration.
    """

    solver: str | None
    weights: str
    num_steps: int
    draw: int
    causal: bool
    accuracies: Mapping[str, Sequence[float]]
    seconds: float

    def serves(self, rule: Rule, steps: int, draw: int) -> bool:
        """Whether the accuracy of a rule at T = `steps` stands here."""
        is_own = (self.solver, self.weights, self.draw) == (rule.solver, rule.weights, draw)
        return is_own and (self.num_steps == steps or (self.causal and self.num_steps > steps))


@dataclass
class ComparisonTable:
    """Accuracy of each rule and readout at each T, over the draws; print it, or take the files that were written.

    Attributes:
        plan: What is compared.
        records: What was measured so far.
        ann: Accuracy of the ANN, in 0..1.
        images: Number of images that the accuracies were measured on.
        split: `validation` or `test`.
        facts: What the accuracies are those of, by name: network, data, checkpoint and the like.
    """

    plan: Plan
    records: list[Record] = field(default_factory=list)
    ann: float | None = None
    images: int = 0
    split: str = "validation"
    facts: dict[str, str] = field(default_factory=dict)

    def record(self, rule: Rule, steps: int, draw: int) -> Record | None:
        """Where the accuracy of a rule at T = `steps` stands; one made for that T comes first."""
        found = [record for record in self.records if record.serves(rule, steps, draw)]
        return min(found, key=lambda record: record.num_steps, default=None)

    def accuracies(self, rule: Rule, readout: str, steps: int) -> list[float]:
        """The accuracies of a rule with a readout at T = `steps`, one for each draw that was measured."""
        found = [self.record(rule, steps, draw) for draw in range(self.plan.draws)]
        return [record.accuracies[readout][steps - 1] for record in found if record is not None]

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row for each rule, readout and T: mean, standard deviation over the draws, standard error."""
        for rule in self.plan.rules:
            for readout in READOUTS:
                for steps in self.plan.num_steps:
                    found = self.accuracies(rule, readout, steps)
                    if not found:
                        continue
                    mean = statistics.mean(found)
                    records = [self.record(rule, steps, draw) for draw in range(self.plan.draws)]
                    yield {
                        "solver": rule.solver or "uncalibrated",
                        "weights": rule.weights,
                        "readout": readout,
                        "T": steps,
                        "accuracy": mean,
                        "sd": statistics.stdev(found) if len(found) > 1 else None,
                        "standard_error": self.standard_error(mean),
                        "draws": len(found),
                        "images": self.images,
                        "seconds": statistics.mean(record.seconds for record in records if record is not None),
                    }

    def standard_error(self, accuracy: float) -> float:
        """√(p(1−p)/n) of an accuracy p on n images."""
        return math.sqrt(accuracy * (1 - accuracy) / max(self.images, 1))

    def grid(self) -> tuple[list[str], list[list[str]]]:
        """Titles and rows of text, a column for each T, in percent."""
        several = len({rule.weights for rule in self.plan.rules}) > 1
        titles = ["solver", *(["weights"] if several else []), "readout", *(f"T = {t}" for t in self.plan.num_steps)]
        found = {(row["solver"], row["weights"], row["readout"], row["T"]): row for row in self.rows()}
        rows = []
        for rule in self.plan.rules:
            for readout in READOUTS:
                key = (rule.solver or "uncalibrated", rule.weights, readout)
                cells = [_cell(found.get((*key, steps))) for steps in self.plan.num_steps]
                rows.append([key[0], *([key[1]] if several else []), readout, *cells])
        if self.ann is not None:
            ann = f"{100 * self.ann:.2f}"
            rows.append(["ANN", *([NOTHING] if several else []), NOTHING, *[ann] * len(self.plan.num_steps)])
        return titles, rows

    def note(self) -> str:
        """What the numbers are, in two sentences."""
        spread = (
            f"± standard deviation over {self.plan.draws} draws of the calibration images"
            if self.plan.draws > 1
            else "of one draw of the calibration images"
        )
        largest = max((row["standard_error"] for row in self.rows()), default=0.0)
        return (
            f"Accuracy in % on {self.images:,} {self.split} images, {spread}; standard error by the number of images: "
            f"up to {100 * largest:.2f}, less between rows, which saw the same images. {self._steps()}"
        )

    def title(self) -> str:
        """One line: network, activation, data, checkpoint."""
        return ", ".join(f"{name} {value}" for name, value in self.facts.items())

    def markdown(self) -> str:
        """The table in Markdown, with what the numbers are below it."""
        titles, rows = self.grid()
        lines = [titles, ["---"] * len(titles), *rows]
        table = "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)
        return f"{table}\n\n{self.note()}{f' {self.title()}.' if self.facts else ''}\n"

    def csv(self) -> str:
        """One line for each rule, readout and T; accuracies in 0..1."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows())
        return text.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """What was measured, as plain values for JSON."""
        return {
            "ann": self.ann,
            "images": self.images,
            "split": self.split,
            "facts": self.facts,
            "records": [asdict(record) for record in self.records],
        }

    def __str__(self) -> str:
        """The table as text, with what the numbers are below it."""
        titles, rows = self.grid()
        return text_table(titles, rows, left=("solver", "weights", "readout"), last=self.note())

    def _steps(self) -> str:
        own = [rule.name for rule in self.plan.rules if any(r.causal is False for r in self._of(rule))]
        if not own:
            return "One calibration at the largest T gives all smaller ones."
        if len(own) == len(self.plan.rules):
            return "Converted and calibrated for each T by itself: thresholds measured by mse depend on it."
        return f"Calibrated for each T by itself: {'; '.join(own)}. The others: once, at the largest T."

    def _of(self, rule: Rule) -> list[Record]:
        return [record for record in self.records if (record.solver, record.weights) == (rule.solver, rule.weights)]


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return NOTHING
    mean = f"{100 * row['accuracy']:.2f}"
    return mean if row["sd"] is None else f"{mean} ± {100 * row['sd']:.2f}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
