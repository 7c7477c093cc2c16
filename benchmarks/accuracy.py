"""Accuracy on CIFAR-10 test images before and after calibration, at T = 1, 2, 4, …: the table of the README.

    python benchmarks/accuracy.py --checkpoint runs/.../best.ckpt --data FOLDER --figure docs/accuracy.png

FOLDER holds train.tar and test.tar (or folders train/ and test/) with a folder for each class; `--download` gets
CIFAR-10 through torchvision instead. Calibration images are training images, the same ones for both solvers.
"""

import argparse
import time
from itertools import islice
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Subset

from ftbc_pl import calibrate_, convert, evaluate
from ftbc_pl.data import ImageData
from ftbc_pl.evaluation import Accuracies
from ftbc_pl.models import load_weights
from ftbc_pl.reports import accuracy_figure
from ftbc_pl.reports.collect import collect_results
from ftbc_pl.reports.terminal import table_steps
from ftbc_pl.task import ImageClassifier

SOLVERS = {
    "exact, 1 × 200 images": {"solver": "exact", "num_batches": 1},
    "heuristic, α = 0.4, 3 × 200 images": {"solver": "heuristic", "alpha": 0.4, "num_batches": 3},
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="checkpoint of `ftbc-pl fit`")
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--download", action="store_true", help="download CIFAR-10 to that folder")
    parser.add_argument("--num_steps", type=int, default=32, help="timesteps T")
    parser.add_argument("--images", type=int, default=10_000, help="test images, spread evenly over the test set")
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--time_chunk", type=int, default=4, help="timesteps at once; small is fast on a CPU's caches")
    parser.add_argument("--figure", type=Path, help="where to draw the curves of the first solver")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    saved = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    known = saved["hyper_parameters"]
    names = ("network", "activation", "levels", "threshold", "pooling")
    task = ImageClassifier(**{name: known[name] for name in names if name in known})
    ann = load_weights(task.network, args.checkpoint).eval()
    data = ImageData(args.data, "torch/cifar10" if args.download else "folder", num_classes=10, download=args.download)
    data.val_split = 5000
    data.resolve_from(ann)
    test = data.images("test")
    subset = Subset(test, range(0, len(test), len(test) // args.images))
    loader = DataLoader(subset, batch_size=args.batch_size, collate_fn=lambda batch: batch)
    calibration = list(data.calibration_dataloader(200, 3))
    correct = total = 0
    with torch.no_grad():
        for images, labels in loader:
            correct += int((ann(images).argmax(1) == labels).sum())
            total += len(labels)
    snn = convert(ann, args.num_steps, batches=calibration)
    snn.time_chunk = args.time_chunk
    with snn.uncalibrated():
        rows = {"uncalibrated": (evaluate(snn, loader), "")}
    for index, (name, options) in enumerate(SOLVERS.items()):
        began = time.perf_counter()
        report = calibrate_(snn, islice(calibration, 3), **options)  # type: ignore[arg-type]
        cost = f"{report.forward_passes} passes, {time.perf_counter() - began:.1f} s"
        rows[name] = (evaluate(snn, loader), cost)
        if index == 0 and args.figure is not None:
            uncalibrated, calibrated = (rows[key][0].tolist() for key in ("uncalibrated", name))
            measured = Accuracies(correct / total, uncalibrated, calibrated, total)
            accuracy_figure(collect_results(snn, measured, report, "test", {})).savefig(args.figure, dpi=150)
    steps = table_steps(args.num_steps)
    print(f"\n{total} test images, ANN {100 * correct / total:.2f} %\n")
    print("| rule | " + " | ".join(f"T = {t}" for t in steps) + " | cost |")
    print("|---|" + "---|" * (len(steps) + 1))
    for name, (accuracy, cost) in rows.items():
        print(f"| {name} | " + " | ".join(f"{100 * accuracy[t - 1]:.1f}" for t in steps) + f" | {cost} |")


if __name__ == "__main__":
    main()
