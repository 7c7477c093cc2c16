"""Choices on validation images: λ of `balanced`, ways to fit weights, the search for thresholds."""

import argparse
from itertools import product

import trained
from bench import Bench, Run
from results import Results
from rules import RULES, WEIGHT_RULES, solver
from tables import at, head, percent, row

from ftbc_pl.reports.terminal import table_steps

MEAN_WEIGHTS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, float("inf"))
SEARCH_STEPS = (1, 2, 4, 8, 32)


def select(args: argparse.Namespace, data: trained.Cifar10) -> None:
    """Accuracy against λ on validation images."""
    results = Results(args.results)
    for name in args.networks:
        for run in args.runs:
            bench, steps = Bench(name, run, data, results, role="val"), table_steps(run.num_steps)
            print(f"\n{name}, T = {run.num_steps}: {run.images} validation images\n\n{head('λ', *at(steps))}")
            for weight in MEAN_WEIGHTS:
                title = "exact" if weight == float("inf") else f"balanced, λ = {weight:g}"
                given = {"solver": "exact"} if title == "exact" else {"solver": "balanced", "mean_weight": weight}
                rule = solver(title, 200, 1, **given)
                measured = [bench.calibrated(rule, draw, args.readouts[-1]).accuracy for draw in range(run.draws)]
                cells = [percent([accuracy[step - 1] for accuracy in measured]) for step in steps]
                print(row(f"{weight:g}", *cells), flush=True)


def weights(args: argparse.Namespace, data: trained.Cifar10) -> None:
    """Ways to fit weights on validation images, each T by itself; beside them `exact` and `balanced` without."""
    results = Results(args.results)
    fits = {key: WEIGHT_RULES[key] for key in args.fits}
    rules = {"exact alone": RULES["exact"], "balanced alone": RULES["balanced"], **fits}
    for name in args.networks:
        benches = [Bench(name, run, data, results, role="val") for run in args.runs]
        print(f"\n{name}: {args.images[0]} validation images\n\n{head('fit', *at(args.num_steps))}")
        for key, rule in rules.items():
            cells = []
            for bench in benches:
                draws = [bench.calibrated(rule, draw, args.readouts[-1]) for draw in range(bench.draws)]
                cells.append(" / ".join(percent([one.accuracy[t - 1] for one in draws]) for t in _up_to(bench)))
            print(row(key, *cells), flush=True)


def _up_to(bench: Bench) -> list[int]:
    return [t for t in table_steps(bench.num_steps) if 2 * t >= bench.num_steps]


def thresholds(args: argparse.Namespace, data: trained.Cifar10) -> None:
    """Accuracy at each T by itself against the timesteps that the search for thresholds assumes, validation images."""
    run, results = args.runs[0], Results(args.results)
    steps = table_steps(run.num_steps)
    for name, key in product(args.networks, ("exact", "balanced")):
        print(f"\n{name}, {key}: {run.images} validation images\n\n{head('steps of the search', *at(steps))}")
        for assumed in SEARCH_STEPS:
            cells = []
            for step in steps:
                bench = Bench(name, Run(step, run.draws, run.images), data, results, role="val")
                bench.search_steps = assumed
                draws = [bench.calibrated(RULES[key], draw, args.readouts[-1]) for draw in range(run.draws)]
                cells.append(percent([one.accuracy[-1] for one in draws]))
            print(row(assumed, *cells), flush=True)
