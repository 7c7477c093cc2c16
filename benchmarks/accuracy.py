"""Accuracy of calibrated networks on CIFAR-10: the tables and figures of the README.

    python benchmarks/accuracy.py table --data FOLDER                        # rules side by side, the trained networks
    python benchmarks/accuracy.py images|passes|alpha|robustness --data FOLDER --figure docs/images.png
    python benchmarks/accuracy.py select --data FOLDER                       # on validation images: how λ was chosen
    python benchmarks/accuracy.py weights --data FOLDER                      # how the fit of weights was chosen
    python benchmarks/accuracy.py thresholds --data FOLDER                   # and the search for thresholds

FOLDER holds train.tar and test.tar (or folders train/ and test/) with a folder for each class; `--download` gets
CIFAR-10 through torchvision instead. Calibration images are training images, drawn anew for each draw; accuracy is that
of the prediction at T, by the mean of the outputs so far or by least squares (--readouts). What is in the file of
--results is not measured again: delete it to measure anew.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import trained
from bench import AUTHORS, READOUTS, Bench, Run
from matplotlib.axes import Axes
from results import Measurement, Results
from rules import DEFAULT, RULES, WEIGHT_RULES, Rule, solver
from selection import select, thresholds, weights
from tables import at, head, panels_of, percent, row, save

from ftbc_pl.reports.terminal import table_steps

SIZES = (8, 32, 128, 512, 2048)
PASSES = (1, 2, 5, 10, 20, 50)
ALPHAS = (0.05, 0.1, 0.2, 0.4, 0.5, 0.8)
# What the figure of the table shows; the other rules lie too close to these to tell lines apart.
DRAWN = [
    ("uncalibrated", READOUTS[0]),
    (AUTHORS, READOUTS[0]),
    *((RULES[key].title, READOUTS[0]) for key in ("constant", "paper", "exact")),
    *((RULES[key].title, READOUTS[1]) for key in ("none", "exact")),
]
STRENGTHS = {"noise": (0.05, 0.1, 0.2), "blur": (0.5, 0.8, 1.2), "contrast": (0.7, 0.4, 0.2)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(COMMANDS))
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--download", action="store_true", help="download CIFAR-10 to that folder")
    parser.add_argument("--networks", nargs="+", default=trained.names(), help="trained networks; default: all")
    parser.add_argument("--rules", nargs="+", default=DEFAULT, choices=RULES, help="rules of the table")
    parser.add_argument("--fits", nargs="+", choices=WEIGHT_RULES, default=list(WEIGHT_RULES), help="ways to fit")
    parser.add_argument(
        "--num_steps", nargs="+", type=int, default=[8, 32], help="timesteps T; the table converts once for each"
    )
    parser.add_argument(
        "--draws", nargs="+", type=int, default=[5, 1], help="draws of calibration images, for each of --num_steps"
    )
    parser.add_argument(
        "--readouts",
        nargs="+",
        choices=READOUTS,
        default=list(READOUTS),
        help="of the table; all else takes the last one",
    )
    parser.add_argument("--validation", type=int, default=5000, help="training images that were held out")
    parser.add_argument(
        "--images",
        nargs="+",
        type=int,
        default=[10_000, 10_000],
        help="images to evaluate on, for each of --num_steps; spread evenly over the set",
    )
    parser.add_argument("--device", default="cpu", help="where to run, such as cuda")
    parser.add_argument("--authors-repo", help="checkout of the authors' code, to run it beside ours")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "accuracy.jsonl")
    parser.add_argument("--figure", type=Path, help="where to draw the figure")
    args = parser.parse_args()
    if not len(args.num_steps) == len(args.draws) == len(args.images):
        parser.error("--draws and --images need one number for each of --num_steps")
    args.runs = [Run(*values) for values in zip(args.num_steps, args.draws, args.images, strict=True)]
    return args


def table(args: argparse.Namespace, data: trained.Cifar10) -> None:
    """Rules side by side for each network. Each T comes from the shortest simulation that holds it or from its own."""
    results = Results(args.results)
    figure, panels = panels_of(args)
    for axes, name in zip(panels, args.networks, strict=True):
        benches = [Bench(name, run, data, results) for run in sorted(args.runs)]
        rows: dict[tuple[str, str], Callable[[Bench, int], Measurement]] = {}
        rows["uncalibrated", READOUTS[0]] = lambda bench, _: bench.uncalibrated()
        if args.authors_repo and trained.description(name)["model"]["activation"] == "qcfs":
            rows[AUTHORS, READOUTS[0]] = lambda bench, draw: bench.of_authors(args.authors_repo, draw)
        streaming = [key for key in args.rules if RULES[key].schedule == "stream"]
        others = [key for key in args.rules if key not in streaming]  # one output, so one readout
        for readout, key in (*product(args.readouts, streaming), *product(READOUTS[:1], others)):
            if (readout, key) != (READOUTS[0], "none"):
                rows[RULES[key].title, readout] = partial(
                    lambda bench, draw, **given: bench.calibrated(draw=draw, **given), rule=RULES[key], readout=readout
                )
        steps = table_steps(max(args.num_steps))
        anns = [(100 * bench.of_ann().accuracy[0], bench) for bench in benches]
        said = ", ".join(f"{ann:.2f} % on {b.count:,} images (T ≤ {b.num_steps})" for ann, b in anns)
        print(f"\n{name}: ANN {said}\n\n{head('rule', 'readout', *at(steps), 'cost of one calibration')}", flush=True)
        axes.axhline(anns[-1][0], color="#333333", linestyle="--", label="ANN")
        for (title, readout), measure in rows.items():
            print(_row(title, readout, measure, benches, steps, axes), flush=True)
        axes.set(title=name, xlabel="timestep T", ylabel="accuracy in %", xscale="log")
        axes.set_xticks(steps, labels=map(str, steps))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    save(figure, args)


def _row(
    title: str,
    readout: str,
    measure: Callable[[Bench, int], Measurement],
    benches: Sequence[Bench],
    steps: Sequence[int],
    axes: Axes,
) -> str:
    points: dict[int, list[float]] = {}
    for bench in benches:
        for step in (step for step in steps if step <= bench.num_steps and step not in points):
            # Measured thresholds and `balanced` are for one T; all else serves every t of one simulation.
            accumulates = any(rule.title == title and rule.schedule == "accumulate" for rule in RULES.values())
            for_one = accumulates or bench.measures_thresholds or "for this T" in title
            source = bench.at(step, "accumulate" if accumulates else "stream") if for_one else bench
            # Nothing is drawn without a calibration.
            measured = [measure(source, draw) for draw in range(1 if title == "uncalibrated" else bench.draws)]
            points[step] = [one.accuracy[-1 if for_one else step - 1] for one in measured]
    if (title, readout) in DRAWN:
        means = [100 * sum(values) / len(values) for values in points.values()]
        style = ".--" if readout == READOUTS[0] else ".-"
        colour = [drawn for drawn, _ in DRAWN].index(title)
        axes.plot(list(points), means, style, color=f"C{colour}", label=f"{title}; {readout}")
    forwards = measured[0].forwards
    cost = f"{forwards} forward{'' if forwards == 1 else 's'}" if forwards else ""
    cells = [percent(points[step]) for step in steps]
    return row(title, readout, *cells, cost)


def sweep(args: argparse.Namespace, data: trained.Cifar10, axis: str, lines: dict[str, dict[float, Rule]]) -> None:
    """Accuracy at T against what a rule is given: a table and a figure of all networks."""
    run, results = args.runs[0], Results(args.results)
    figure, panels = panels_of(args)
    for axes, name in zip(panels, args.networks, strict=True):
        bench = Bench(name, run, data, results)
        print(f"\n{name}: accuracy at T = {run.num_steps}\n\n{head(axis, *lines)}", flush=True)
        points: dict[str, list[float]] = {title: [] for title in lines}
        xs = list(next(iter(lines.values())))
        for x in xs:
            cells = []
            for title, rules in lines.items():
                draws = [bench.calibrated(rules[x], draw, args.readouts[-1]) for draw in range(run.draws)]
                values = [one.accuracy[-1] for one in draws]
                cells.append(percent(values))
                points[title].append(100 * sum(values) / len(values))
            print(row(f"{x:g}", *cells), flush=True)
        for title, means in points.items():
            axes.plot(xs, means, "o-", label=title)
        axes.set(title=name, xlabel=axis, ylabel=f"accuracy at T = {run.num_steps} in %", xscale="log")
        axes.grid(alpha=0.3)
    save(figure, args)


def images(args: argparse.Namespace, data: trained.Cifar10) -> None:
    """Accuracy against the number of calibration images."""
    options: dict[str, dict[str, Any]] = {
        "balanced": {"solver": "balanced"},
        "exact": {"solver": "exact"},
        "heuristic, α = 0.5, 10 passes": {"solver": "heuristic", "alpha": 0.5, "passes": 10},
    }
    lines: dict[str, dict[float, Rule]] = {
        title: {n: solver(f"{title}, {n} images", min(n, 512), max(1, n // 512), **given) for n in SIZES}
        for title, given in options.items()
    }
    sweep(args, data, "calibration images", lines)


def _heuristic(alpha: float, passes: int) -> Rule:
    title = f"heuristic, α = {alpha:g}, {passes} passes over 128 images"
    return solver(title, 128, 1, solver="heuristic", alpha=alpha, passes=passes)


def passes(args: argparse.Namespace, data: trained.Cifar10) -> None:
    """Accuracy of the heuristic against its passes."""
    lines: dict[str, dict[float, Rule]] = {
        f"heuristic, α = {alpha:g}": {n: _heuristic(alpha, n) for n in PASSES} for alpha in (0.1, 0.5)
    }
    for name in ("exact", "balanced"):
        lines[f"{name}, one pass"] = dict.fromkeys(PASSES, solver(f"{name}, 128 images", 128, 1, solver=name))
    sweep(args, data, "passes over 128 images", lines)


def alpha(args: argparse.Namespace, data: trained.Cifar10) -> None:
    """Accuracy of the heuristic against its step size."""
    lines: dict[str, dict[float, Rule]] = {
        f"heuristic, {n} pass{'es' * (n > 1)}": {alpha: _heuristic(alpha, n) for alpha in ALPHAS} for n in (1, 5, 20)
    }
    sweep(args, data, "step size α", lines)


def robustness(args: argparse.Namespace, data: trained.Cifar10) -> None:
    """Accuracy on corrupted test images at T, calibrated on clean training images."""
    run, results = args.runs[0], Results(args.results)
    columns: dict[str, Callable[[Bench], Measurement]] = {
        "ANN": Bench.of_ann,
        "uncalibrated": Bench.uncalibrated,
        **{
            RULES[key].title: partial(Bench.calibrated, rule=RULES[key], draw=0, readout=args.readouts[-1])
            for key in ("paper", "exact", "balanced")
        },
    }
    figure, panels = panels_of(args)
    for axes, name in zip(panels, args.networks, strict=True):
        bench = Bench(name, run, data, results)
        print(f"\n{name}: T = {run.num_steps}\n\n{head('corruption', 'strength', *columns)}")
        points: dict[str, list[float]] = {title: [] for title in columns}
        cases = [(kind, strength) for kind, strengths in STRENGTHS.items() for strength in strengths]
        for kind, strength in cases:
            bench.corruption = (kind, strength)
            for title, measure in columns.items():
                points[title].append(100 * measure(bench).accuracy[-1])
            cells = [f"{values[-1]:.2f}" for values in points.values()]
            print(row(kind, f"{strength:g}", *cells), flush=True)
        for title, values in points.items():
            apart = F.pad(torch.tensor(values).view(len(STRENGTHS), -1), (0, 1), value=float("nan"))
            axes.plot(apart.flatten(), "o-", label=title)  # a gap where the kind of corruption changes
        axes.set(title=name, ylabel=f"accuracy at T = {run.num_steps} in %")
        ticks = [index + list(STRENGTHS).index(kind) for index, (kind, _) in enumerate(cases)]
        axes.set_xticks(ticks, [f"{kind} {strength:g}" for kind, strength in cases], rotation=60)
        axes.grid(alpha=0.3)
    save(figure, args)


COMMANDS: dict[str, Callable[[argparse.Namespace, trained.Cifar10], None]] = {
    "table": table,
    "select": select,
    "weights": weights,
    "thresholds": thresholds,
    "images": images,
    "passes": passes,
    "alpha": alpha,
    "robustness": robustness,
}


def main() -> None:
    args = arguments()
    # Exact float32 on a GPU too: by default it would round the inputs of convolutions to TF32.
    torch.backends.cudnn.allow_tf32 = False
    COMMANDS[args.what](args, trained.Cifar10(args.data, args.download, args.validation, args.device))


if __name__ == "__main__":
    main()
