"""Accuracy of calibrated networks of ImageNet on real images: the tables of docs/imagenet.md.

    python benchmarks/imagenet.py --data FOLDER                              # three networks, all rules, T = 4 … 64
    python benchmarks/imagenet.py --data FOLDER --networks squeezenet1_1 --num_steps 8 --every 10
    python benchmarks/imagenet.py --data FOLDER --sites mobilenetv2_100      # which layers lose the accuracy
    python benchmarks/imagenet.py --kept                                     # all that was measured, without measuring

FOLDER holds train.tar and val.tar (or folders train/ and val/) with a folder for each of the 1,000 classes, and the
networks' weights in weights/. Calibration images are training images. Errors are standard errors of the difference
between the spiking network and its ANN on the same images. What is in the file of --results is not measured again.
"""

import argparse
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from bench import READOUTS
from imagenet_data import NETWORKS, ImageNet
from results import Measurement, Results
from rules import Rule, accumulated, no_bias, ridge, solver
from tables import at, head, row
from torch import Tensor
from tqdm import tqdm

from ftbc_pl import SpikingNetwork, convert, diagnose
from ftbc_pl.functional.readout import mean_readout, weigh


def rules(images: int, largest: int) -> dict[str, Rule]:
    """The rules of the tables; `largest` is how many images weights can be fitted to in the memory there is."""
    third = max(1, images // 3)
    fit = min(images, largest)
    streaming = {
        "none": Rule(f"no bias, {images} images", images, 1, no_bias),
        "paper": solver(f"heuristic, α = 0.4, 3 × {third} images", third, 3, solver="heuristic", alpha=0.4),
        "exact": solver(f"exact, {images} images", images, 1, solver="exact"),
        "balanced": solver(f"balanced, {images} images", images, 1, solver="balanced"),
        "ridge": solver(f"ridge and exact, {fit} images", fit, 1, solver="exact", weights="ridge"),
        "ridge_balanced": solver(f"ridge and balanced, {fit} images", fit, 1, solver="balanced", weights="ridge"),
        "ridge_balanced_0.3": solver(
            f"ridge and balanced, λ = 0.3, {fit} images", fit, 1, solver="balanced", weights="ridge", mean_weight=0.3
        ),
        "ridge_balanced_3": solver(
            f"ridge and balanced, λ = 3, {fit} images", fit, 1, solver="balanced", weights="ridge", mean_weight=3.0
        ),
        "ridge_last": replace(ridge(fit, "balanced", last=True), title=f"ridge at T alone and balanced, {fit} images"),
    }
    return streaming | {f"{key}_accumulate": accumulated(streaming[key]) for key in ("none", "exact", "balanced")}


class Bench:
    """One network and the images it is measured on."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name, self.args = name, args
        self.source = ImageNet(name, args.data, args.device, args.every, args.batch_size, args.workers)
        self.results = Results(args.results)
        self._snn: SpikingNetwork | None = None

    def convert(self, num_steps: int, schedule: str = "stream") -> SpikingNetwork:
        """The spiking network; thresholds are measured on 64 training images for this T."""
        if self._snn is None or (self._snn.num_steps, self._snn.options.schedule) != (num_steps, schedule):
            self._snn = None  # its memory goes before the next one is made
            images = self.source.calibration(64, 1, 0)
            self._snn = convert(self.source.ann, num_steps, batches=images, fold_bn=True, schedule=schedule)
            self._snn.time_chunk = max(1, self.args.rows // self.args.batch_size)
        return self._snn

    def of_ann(self) -> Measurement:
        """Accuracy of the ANN."""

        @torch.no_grad()
        def measure() -> Measurement:
            hits = [self.source.ann(images).argmax(1) == labels for images, labels in self.source.batches]
            return measured(torch.cat(hits).unsqueeze(0))

        return self._kept("ANN", 1, 0, READOUTS[0], measure)

    def uncalibrated(self, num_steps: int) -> dict[str, Measurement]:
        """Accuracy without calibration."""
        return self._simulated("uncalibrated", num_steps, 0, None)

    def calibrated(self, rule: Rule, num_steps: int, draw: int) -> dict[str, Measurement]:
        """Accuracy after a rule, with each readout."""
        return self._simulated(rule.title, num_steps, draw, rule)

    def _simulated(self, title: str, num_steps: int, draw: int, rule: Rule | None) -> dict[str, Measurement]:
        found: dict[str, Measurement] = {}

        def measure(readout: str) -> Measurement:
            if not found:
                found.update(self._simulate(num_steps, draw, rule))
            return found[readout]

        names = READOUTS if rule else READOUTS[:1]
        return {name: self._kept(title, num_steps, draw, name, partial(measure, name)) for name in names}

    def _simulate(self, num_steps: int, draw: int, rule: Rule | None) -> dict[str, Measurement]:
        snn = self.convert(num_steps, rule.schedule if rule else "stream")
        if rule is None:
            with snn.uncalibrated():
                return self._measure(snn, (0, 0.0))
        return self._measure(snn, rule(snn, self.source.calibration(rule.batch_size, rule.num_batches, draw)))

    def _measure(self, snn: SpikingNetwork, cost: tuple[int, float]) -> dict[str, Measurement]:
        weights = dict(zip(READOUTS, (mean_readout(len(snn.readout_weights)), snn.readout_weights), strict=True))
        hits: dict[str, list[Tensor]] = {name: [] for name in READOUTS}
        for images, labels in tqdm(self.source.batches, desc=f"{self.name}, T = {snn.num_steps}"):
            outputs = snn(images)
            for name, values in hits.items():
                values.append(weigh(outputs, weights[name]).argmax(2) == labels)
        return {name: measured(torch.cat(values, 1), *cost) for name, values in hits.items()}

    def _kept(
        self, title: str, num_steps: int, draw: int, readout: str, measure: Callable[[], Measurement]
    ) -> Measurement:
        of = {"network": self.name, "every": self.args.every, "rule": title, "num_steps": num_steps}
        return self.results.get(of | {"draw": draw, "readout": readout}, measure)


def measured(hits: Tensor, forwards: int = 0, seconds: float = 0.0) -> Measurement:
    """A measurement of `hits` (T, images): accuracy at each t, and which images are right at T."""
    accuracy = tuple(hits.double().mean(1).tolist())
    return Measurement(accuracy, forwards, seconds, "".join(map(str, hits[-1].int().tolist())))


def difference(hits: str, others: str) -> tuple[float, float]:
    """Difference of two accuracies on the same images, and its standard error, in percent."""
    pairs = [int(one) - int(other) for one, other in zip(hits, others, strict=True)]
    values = torch.tensor(pairs, dtype=torch.float64)
    return 100 * values.mean().item(), 100 * values.std().item() / math.sqrt(len(values))


def table(args: argparse.Namespace) -> None:
    """Rules side by side for each network; each T is converted and calibrated by itself."""
    for name in args.networks:
        bench = Bench(name, args)
        ann = bench.of_ann()
        cells: dict[tuple[str, str], list[str]] = {}
        for steps, key in product(args.num_steps, ("uncalibrated", *args.rules)):
            rule = rules(args.calibration, args.fit_rows // (steps + 1)).get(key)
            found = [
                bench.calibrated(rule, steps, draw) if rule else bench.uncalibrated(steps)
                for draw in range(args.draws if rule else 1)
            ]
            for readout in found[0]:
                mean = sum(100 * one[readout].accuracy[-1] for one in found) / len(found)
                _, error = difference(found[0][readout].hits, ann.hits)
                cells.setdefault((key, readout), []).append(f"{mean:.2f} ± {error:.2f}")
        print(f"\n{name}: ANN {100 * ann.accuracy[0]:.2f} % on {len(ann.hits):,} images\n")
        print(head("rule", "readout", *at(args.num_steps)))
        for (key, readout), values in cells.items():
            print(row(key, readout, *values), flush=True)


def kept(path: Path) -> None:
    """Print the measurements of a file, a table for each network and set of images; errors beside its ANN."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for name, every in dict.fromkeys((one["network"], one["every"]) for one in rows):
        here = [one for one in rows if (one["network"], one["every"]) == (name, every)]
        (ann,) = (one["result"] for one in here if one["rule"] == "ANN")
        steps = sorted({one["num_steps"] for one in here if one["rule"] != "ANN"})
        which = "all validation images" if every == 1 else f"every {every}. validation image"
        print(f"\n{name}: ANN {100 * ann['accuracy'][0]:.2f} % on {len(ann['hits']):,} images ({which})\n")
        print(head("rule", "readout", *at(steps)))
        cells: dict[tuple[str, str], dict[int, str]] = {}
        for one in here:
            if one["rule"] != "ANN" and not (one["readout"] == READOUTS[1] and "accumulate" in one["rule"]):
                _, error = difference(one["result"]["hits"], ann["hits"])
                cell = f"{100 * one['result']['accuracy'][-1]:.1f} ± {error:.1f}"
                # Fewer images may have fitted into memory where T is large.
                rule = re.sub(r", (\d+) images", "", one["rule"]) if "ridge" in one["rule"] else one["rule"]
                cells.setdefault((rule, one["readout"]), {})[one["num_steps"]] = cell
        for (rule, readout), found in cells.items():
            print(row(rule, readout, *(found.get(t, "") for t in steps)))


def sites(args: argparse.Namespace) -> None:
    """The sites that lose the most, after each rule of --rules."""
    for name in args.sites:
        bench, steps = Bench(name, args), args.num_steps[0]
        for key in args.rules:
            rule = rules(args.calibration, args.fit_rows // (steps + 1))[key]
            snn = bench.convert(steps, rule.schedule)
            rule(snn, bench.source.calibration(rule.batch_size, rule.num_batches, 0))
            print(f"\n{name}, {key}, T = {steps}\n\n{diagnose(snn, bench.source.batches[:2])}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the images and weights")
    parser.add_argument("--kept", action="store_true", help="print what was measured before, and measure nothing")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--sites", nargs="+", choices=NETWORKS, help="say which sites of these lose the accuracy")
    parser.add_argument("--rules", nargs="+", choices=list(rules(1, 1)), default=list(rules(1, 1)))
    parser.add_argument("--num_steps", nargs="+", type=int, default=[4, 8, 16, 32, 64])
    parser.add_argument("--every", type=int, default=1, help="take every so many of the validation images")
    parser.add_argument("--calibration", type=int, default=192, help="training images to calibrate with")
    parser.add_argument("--draws", type=int, default=1, help="draws of calibration images")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode images")
    parser.add_argument("--device", default="cpu", help="where to run, such as cuda")
    parser.add_argument("--batch_size", type=int, default=20, help="images to evaluate at once")
    parser.add_argument("--rows", type=int, default=40, help="images times timesteps to simulate at once")
    parser.add_argument(
        "--fit_rows", type=int, default=600, help="images times timesteps that weights can be fitted to in memory"
    )
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "imagenet.jsonl")
    args = parser.parse_args()
    if not (args.data or args.kept):
        parser.error("expected --data FOLDER, or --kept")
    return args


def main() -> None:
    args = arguments()
    torch.backends.cudnn.allow_tf32 = False  # exact float32 on a GPU too
    if args.kept:
        kept(args.results)
    elif args.sites:
        sites(args)
    else:
        table(args)


if __name__ == "__main__":
    main()
