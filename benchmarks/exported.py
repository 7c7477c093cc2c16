"""Compare an exported ResNet-20 with the simulation: the same spikes, and the latency of ONNX Runtime.

    python benchmarks/exported.py --network cifar10_r20_qcfs8 --data FOLDER

Calibrates on training images and compares on test images. Latencies are medians of runs in turn, on one thread.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnxruntime
import torch
import trained
from torch import Tensor

from ftbc_pl import SpikingNetwork, calibrate_, convert, export_nir, export_onnx
from ftbc_pl.layers import SpikingNeuron
from ftbc_pl.simulation.visitors import Simulation
from ftbc_pl.tracing import Call


class _Spikes(Simulation):
    """Visitor that keeps the spikes of every site."""

    def __init__(self, num_steps: int) -> None:
        super().__init__(num_steps)
        self.spikes: list[Tensor] = []

    def simulate(self, call: Call, site: SpikingNeuron, current: Tensor, out: Tensor) -> None:
        super().simulate(call, site, current, out)
        self.spikes.append(out != 0)


def compared(snn: SpikingNetwork, images: Tensor, path: Path) -> str:
    """One line: largest difference of the outputs, and the share of neurons and steps with the same spike."""
    theirs = [torch.from_numpy(value) for value in _session(path).run(None, {"images": images.numpy()})]
    visitor = _Spikes(snn.num_steps)
    snn.reset()
    with torch.no_grad():
        outputs = snn.visit(images, visitor)
    snn.reset()
    same = [((a != 0) == b).double().mean().item() for a, b in zip(theirs[2:], visitor.spikes, strict=True)]
    largest = (theirs[0] - outputs).abs().max()
    return (
        f"outputs differ by {largest:.1e} at most; same spikes at the worst site: {min(same):.4%} of neurons and steps"
    )


def milliseconds(runs: int, *calls: Callable[[], object]) -> list[float]:
    """Median time of each call, run in turn."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(runs + 1):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(taken[1:]) for taken in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="cifar10_r20_qcfs8", help="name below benchmarks/weights")
    parser.add_argument("--data", required=True, help="folder with train.tar and test.tar of CIFAR-10")
    parser.add_argument("--num_steps", type=int, default=8)
    parser.add_argument("--images", type=int, default=16, help="test images on which spikes are compared")
    parser.add_argument("--calibration", type=int, default=100, help="training images that calibrate")
    parser.add_argument("--validation", type=int, default=5000, help="images held out for validation")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = trained.Cifar10(args.data, validation=args.validation)
    calibration = data.calibration(args.calibration, 1, draw=0)
    images = torch.cat([batch for batch, _ in data.batches("test", args.images)])
    snn = convert(trained.load(args.network), args.num_steps, batches=calibration, fold_bn=True)
    calibrate_(snn, calibration)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snn.onnx"
        export_nir(snn, path.with_suffix(".nir"))
        start = time.perf_counter()
        export_onnx(snn, path, spikes=True)
        print(f"{args.network}, T = {args.num_steps}; ONNX written in {time.perf_counter() - start:.0f} s")
        print(compared(snn, images, path))
        export_onnx(snn, path)
        session = _session(path)
        print("| batch | ONNX Runtime, ms | this package, ms |\n|---|---|---|")
        for size in args.batch_sizes:
            batch = images[:1].repeat(size, 1, 1, 1)
            theirs, ours = milliseconds(
                args.runs, partial(session.run, None, {"images": batch.numpy()}), partial(snn, batch)
            )
            print(f"| {size} | {theirs:.0f} | {ours:.0f} |")


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
