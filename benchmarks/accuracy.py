"""Accuracy of calibrated networks on CIFAR-10: the tables and figures of the README.

    python benchmarks/accuracy.py table --data FOLDER                        # rules side by side, the trained networks
    python benchmarks/accuracy.py images|passes|alpha|robustness --data FOLDER --figure docs/images.png
    python benchmarks/accuracy.py select --data FOLDER                       # on validation images: how λ was chosen

FOLDER holds train.tar and test.tar (or folders train/ and test/) with a folder for each class; `--download` gets
CIFAR-10 through torchvision instead. Calibration images are training images, drawn anew for each draw; accuracy is that
of the mean output up to T.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import trained
from authors import Authors
from authors import accuracy as authors_accuracy
from matplotlib.figure import Figure
from rules import RULES, Rule, solver
from torch import Tensor
from torchvision.transforms import functional as TF

from ftbc_pl import convert, evaluate
from ftbc_pl.reports.terminal import table_steps

SIZES = (8, 32, 128, 512, 2048)
PASSES = (1, 2, 5, 10, 20, 50)
ALPHAS = (0.05, 0.1, 0.2, 0.4, 0.5, 0.8)
MEAN_WEIGHTS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
CORRUPTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "noise": lambda images, strength: (images + strength * torch.randn_like(images)).clamp(0, 1),
    "blur": lambda images, strength: TF.gaussian_blur(images, [5, 5], [strength, strength]),
    "contrast": lambda images, strength: TF.adjust_contrast(images, strength),
}
STRENGTHS = {"noise": (0.05, 0.1, 0.2), "blur": (0.5, 0.8, 1.2), "contrast": (0.7, 0.4, 0.2)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(COMMANDS))
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--download", action="store_true", help="download CIFAR-10 to that folder")
    parser.add_argument("--networks", nargs="+", default=trained.names(), help="trained networks; default: all")
    parser.add_argument("--rules", nargs="+", default=list(RULES), help="rules of the table; default: all")
    parser.add_argument("--num_steps", type=int, default=32, help="timesteps T")
    parser.add_argument("--validation", type=int, default=5000, help="training images that were held out")
    parser.add_argument("--images", type=int, default=10_000, help="images to evaluate on, spread evenly over the set")
    parser.add_argument("--draws", type=int, default=5, help="draws of calibration images")
    parser.add_argument("--authors-repo", help="checkout of the authors' code, to run it beside ours")
    parser.add_argument("--figure", type=Path, help="where to draw the figure")
    return parser.parse_args()


class Bench:
    """One trained network, converted, and the images it is measured on."""

    def __init__(self, name: str, args: argparse.Namespace, data: trained.Cifar10, role: str = "test") -> None:
        self.name, self.data, self.num_steps = name, data, args.num_steps
        self.ann = trained.load(name)
        self.levels = trained.description(name)["model"]["levels"]
        count = min(args.images, len(data.data.images(role)))  # type: ignore[arg-type]
        self.loader = data.batches(role, count)
        self.snn = convert(self.ann, args.num_steps, batches=data.calibration(200, 1, draw=0))

    def ann_accuracy(self) -> float:
        """Accuracy of the ANN, in 0..1."""
        return trained.accuracy(self.ann, self.loader)

    def calibrate(self, rule: Rule, draw: int) -> tuple[int, float]:
        """Calibrate with the images of a draw; returns forwards and seconds."""
        return rule(self.snn, self.data.calibration(rule.batch_size, rule.num_batches, draw))

    def evaluate(self) -> Tensor:
        """Accuracy of the spiking network at every step, (T,)."""
        return evaluate(self.snn, self.loader, progress=False)


def row(title: str, values: Sequence[Tensor], steps: Sequence[int], cost: str = "") -> str:
    """A row of a table: mean and, for several draws, standard deviation in percent."""
    stacked = 100 * torch.stack(list(values))
    cells = []
    for step in steps:
        column = stacked[:, step - 1]
        spread = f" ± {column.std().item():.2f}" if len(column) > 1 else ""
        cells.append(f"{column.mean().item():.2f}{spread}")
    return f"| {title} | " + " | ".join(cells) + f" | {cost} |"


def header(steps: Sequence[int], first: str = "rule", last: str = "cost of one calibration") -> str:
    return f"| {first} | " + " | ".join(f"T = {t}" for t in steps) + f" | {last} |\n|---|" + "---|" * (len(steps) + 1)


def table(args: argparse.Namespace, data: trained.Cifar10) -> None:
    """Rules side by side for each network."""
    steps = table_steps(args.num_steps)
    figure = Figure(figsize=(4.5 * len(args.networks), 3.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(args.networks), squeeze=False)[0], args.networks, strict=True):
        bench = Bench(name, args, data)
        total = len(bench.loader.dataset)  # type: ignore[arg-type]
        ann = 100 * bench.ann_accuracy()
        print(f"\n{name}: ANN {ann:.2f} % on {total} test images\n\n{header(steps)}", flush=True)
        with bench.snn.uncalibrated():
            uncalibrated = bench.evaluate()
        print(row("uncalibrated", [uncalibrated], steps), flush=True)
        axes.axhline(ann, color="#333333", linestyle="--", label="ANN")
        axes.plot(range(1, args.num_steps + 1), 100 * uncalibrated, label="uncalibrated")
        for key in args.rules:
            values, costs = [], []
            for draw in range(args.draws):
                costs.append(bench.calibrate(RULES[key], draw))
                values.append(bench.evaluate())
            print(row(RULES[key].title, values, steps, _cost(costs)), flush=True)
            axes.plot(range(1, args.num_steps + 1), 100 * torch.stack(values).mean(0), label=RULES[key].title)
        axes.set(title=name, xlabel="timestep T", ylabel="accuracy in %", xscale="log")
        axes.set_xticks(steps, labels=map(str, steps))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        if args.authors_repo and trained.description(name)["model"]["activation"] == "qcfs":
            print(_authors_row(args, bench, steps), flush=True)
    if args.figure:
        figure.savefig(args.figure, dpi=120)


def _cost(costs: Sequence[tuple[int, float]]) -> str:
    passes, seconds = costs[0][0], sorted(seconds for _, seconds in costs)[len(costs) // 2]
    return f"{passes} forward{'' if passes == 1 else 's'}, {seconds:.1f} s"


def _authors_row(args: argparse.Namespace, bench: Bench, steps: Sequence[int]) -> str:
    authors = Authors(args.authors_repo)
    values, costs = [], []
    for draw in range(args.draws):
        ann, snn = authors.networks(bench.ann, bench.levels, args.num_steps)
        costs.append(authors.calibrate(ann, snn, args.num_steps, bench.data.calibration(200, 3, draw), alpha=0.4))
        values.append(authors_accuracy(snn, bench.loader, args.num_steps))
    return row("authors' code (QCFS branch), α = 0.4, 3 × 200 images", values, steps, _cost(costs))


def select(args: argparse.Namespace, data: trained.Cifar10) -> None:
    """Accuracy against λ on validation images."""
    steps = table_steps(args.num_steps)
    for name in args.networks:
        bench = Bench(name, args, data, role="val")
        print(f"\n{name}: validation images\n\n{header(steps, 'λ')}", flush=True)
        for weight in MEAN_WEIGHTS:
            rule = solver("", 200, 1, solver="balanced", mean_weight=weight)
            values = [(bench.calibrate(rule, draw), bench.evaluate())[1] for draw in range(args.draws)]
            print(row(f"{weight:g}", values, steps), flush=True)


def sweep(args: argparse.Namespace, data: trained.Cifar10, axis: str, lines: dict[str, dict[float, Rule]]) -> None:
    """Accuracy at T against what a rule is given: a table and a figure of all networks."""
    figure = Figure(figsize=(4 * len(args.networks), 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(args.networks), squeeze=False)[0], args.networks, strict=True):
        bench = Bench(name, args, data)
        print(f"\n{name}: accuracy at T = {args.num_steps}\n\n| {axis} | " + " | ".join(lines) + " |", flush=True)
        print("|---|" + "---|" * len(lines))
        points: dict[str, list[float]] = {title: [] for title in lines}
        xs = list(next(iter(lines.values())))
        for x in xs:
            for title, rules in lines.items():
                measured = [(bench.calibrate(rules[x], draw), bench.evaluate()[-1])[1] for draw in range(args.draws)]
                points[title].append(100 * float(torch.stack(measured).mean()))
            print(f"| {x:g} | " + " | ".join(f"{values[-1]:.2f}" for values in points.values()) + " |", flush=True)
        for title, values in points.items():
            axes.plot(xs, values, "o-", label=title)
        axes.set(title=name, xlabel=axis, ylabel=f"accuracy at T = {args.num_steps} in %", xscale="log")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    if args.figure:
        figure.savefig(args.figure, dpi=120)


def images(args: argparse.Namespace, data: trained.Cifar10) -> None:
    """Accuracy against the number of calibration images."""
    options: dict[str, dict[str, Any]] = {
        "balanced": {"solver": "balanced"},
        "exact": {"solver": "exact"},
        "heuristic, α = 0.5, 10 passes": {"solver": "heuristic", "alpha": 0.5, "passes": 10},
    }
    lines: dict[str, dict[float, Rule]] = {
        title: {n: solver(title, min(n, 512), max(1, n // 512), **given) for n in SIZES}
        for title, given in options.items()
    }
    sweep(args, data, "calibration images", lines)


def passes(args: argparse.Namespace, data: trained.Cifar10) -> None:
    """Accuracy of the heuristic against its passes."""
    make = partial(solver, batch_size=128, num_batches=1, solver="heuristic")
    lines: dict[str, dict[float, Rule]] = {
        f"heuristic, α = {a:g}": {n: make(f"{n}", alpha=a, passes=n) for n in PASSES} for a in (0.1, 0.5)
    }
    lines["balanced, one pass"] = dict.fromkeys(PASSES, solver("balanced", 128, 1, solver="balanced"))
    sweep(args, data, "passes over 128 images", lines)


def alpha(args: argparse.Namespace, data: trained.Cifar10) -> None:
    """Accuracy of the heuristic against its step size."""
    make = partial(solver, batch_size=128, num_batches=1, solver="heuristic")
    lines: dict[str, dict[float, Rule]] = {
        f"heuristic, {n} passes": {a: make(f"{a}", alpha=a, passes=n) for a in ALPHAS} for n in (1, 5, 20)
    }
    sweep(args, data, "step size α", lines)


def robustness(args: argparse.Namespace, data: trained.Cifar10) -> None:
    """Accuracy on corrupted test images at T, calibrated on clean training images."""
    cases = [(kind, strength) for kind, strengths in STRENGTHS.items() for strength in strengths]
    for name in args.networks:
        bench = Bench(name, args, data)
        clean, columns = bench.loader, {}
        loaders = [list(_corrupted(clean, data, *case)) for case in cases]
        for title in ("ANN", "uncalibrated", "paper", "balanced"):
            if title in RULES:
                bench.calibrate(RULES[title], draw=0)
            columns[title] = []
            for bench.loader in loaders:  # type: ignore[assignment]
                measured = bench.ann_accuracy() if title == "ANN" else bench.evaluate()[-1].item()
                columns[title].append(f"{100 * measured:.2f}")
        print(f"\n{name}: T = {args.num_steps}\n\n| corruption | strength | {' | '.join(columns)} |")
        print("|---|---|" + "---|" * len(columns))
        for (kind, strength), *cells in zip(cases, *columns.values(), strict=True):
            print(f"| {kind} | {strength:g} | {' | '.join(cells)} |", flush=True)


def _corrupted(loader: Any, data: trained.Cifar10, kind: str, strength: float) -> Iterator[tuple[Tensor, Tensor]]:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.data.mean, data.data.std))
    torch.manual_seed(0)
    for normalised, labels in loader:
        pixels = CORRUPTIONS[kind](normalised * std + mean, strength)
        yield (pixels - mean) / std, labels


COMMANDS: dict[str, Callable[[argparse.Namespace, trained.Cifar10], None]] = {
    "table": table,
    "select": select,
    "images": images,
    "passes": passes,
    "alpha": alpha,
    "robustness": robustness,
}


def main() -> None:
    args = arguments()
    COMMANDS[args.what](args, trained.Cifar10(args.data, args.download, args.validation))


if __name__ == "__main__":
    main()
