"""What calibration, inference and training cost, as ratios measured side by side in one run.

    python benchmarks/cost.py WHAT [--device cuda] [--authors-repo FOLDER]  # see --help for WHAT

The things compared run in turn, A B A B …; a ratio is that of their medians. Seconds are shown for orientation only.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from authors import Authors
from choices import choices
from layer_by_layer import layer_by_layer
from matplotlib.figure import Figure
from peers import against_spikingjelly
from profiles import dispatch, profiles
from tables import at, head, row
from torch import Tensor, nn
from torch.nn import functional as F

from ftbc_pl import SpikingNetwork, calibrate_, convert, prepare
from ftbc_pl.layers import SpikingNeuron
from ftbc_pl.models import create_network

NUM_STEPS = 8


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*COMMANDS, "memory-of"])
    parser.add_argument("--runs", type=int, default=5, help="runs of each of the things compared")
    parser.add_argument("--batch_size", type=int, default=50)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="of training")
    parser.add_argument("--device", default="cpu", help="where to run, such as cuda")
    parser.add_argument(
        "--unfolded", action="store_true", help="leave batch normalisation apart in calibration, scaling and memory"
    )
    parser.add_argument("--authors-repo", help="checkout of the authors' code, to time it beside ours")
    parser.add_argument("--figure", type=Path, help="where to draw the figure of scaling")
    parser.add_argument("--case", help="for memory-of: what, T and time_chunk as JSON")
    return parser.parse_args()


def medians(things: Mapping[str, Callable[[], Any]], runs: int, warm: bool = False) -> dict[str, float]:
    """Median seconds of each of the things, run in turn, after a warm-up unless they are warm."""
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for run in range(warm, runs + 1):
        for name, thing in things.items():
            began = time.perf_counter()
            thing()
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            if run:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def network(name: str, size: int = 32) -> nn.Module:
    """An untrained network of QCFS activations whose normalisation does something."""
    torch.manual_seed(0)
    made = create_network(name, num_classes=10, input_size=size)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return prepare(made, "qcfs", levels=4, threshold=2.0).eval()


def calibration(args: argparse.Namespace) -> None:
    """One batch: every solver against the procedure layer by layer, and against the authors' own code."""
    print(head("network", "procedure", "forwards", "seconds", "layer by layer takes", "the authors' code takes"))
    for name, size in (("cifar_resnet20", 32), ("resnet34", 64)):
        ann = network(name, size)
        images = torch.randn(args.batch_size, 3, size, size)
        snn = convert(ann, NUM_STEPS, example=images[:2], fold_bn=not args.unfolded)
        sites = len(list(snn.neurons()))
        # Each returns the number of its forwards.
        things: dict[str, Callable[[], int]] = {"layer by layer": partial(layer_by_layer, snn, images)}
        for solver in ("heuristic", "exact", "balanced"):
            things[solver] = partial(_calibrate, snn, images, solver)
        if args.authors_repo and name == "cifar_resnet20":
            authors = Authors(args.authors_repo)
            pair = authors.networks(ann, 4, NUM_STEPS)
            things["authors' code"] = partial(_calibrate_theirs, authors, pair, images)
        forwards = {title: thing() for title, thing in things.items()}
        seconds = medians(things, args.runs, warm=True)
        for title, value in seconds.items():
            ratios = [
                f"{seconds[other] / value:.1f} ×" if other in seconds else "not run"
                for other in ("layer by layer", "authors' code")
            ]
            case = f"{name} at {size}×{size}, {sites} sites"
            print(row(case, title, forwards[title], f"{value:.2f}", *ratios), flush=True)


def _calibrate(snn: SpikingNetwork, images: Tensor, solver: str) -> int:
    return calibrate_(snn, [images], solver=solver, progress=False).forward_passes


def _calibrate_theirs(authors: Authors, pair: tuple[nn.Module, nn.Module], images: Tensor) -> int:
    return authors.calibrate(*pair, NUM_STEPS, [images], alpha=0.4)[0]


def scaling(args: argparse.Namespace) -> None:
    """Seconds of a calibration against depth, T and batch size."""
    axes_of: dict[str, dict[int, tuple[str, int, int]]] = {
        "sites": {19: ("20", 8, 25), 55: ("56", 8, 25), 109: ("110", 8, 25)},
        "T": {t: ("20", t, 25) for t in (2, 4, 8, 16, 32)},
        "batch size": {b: ("20", 8, b) for b in (12, 25, 50, 100)},
    }
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axes, (axis, cases) in zip(figure.subplots(1, 3), axes_of.items(), strict=True):
        things: dict[str, Callable[[], int]] = {}
        for x, (depth, steps, batch) in cases.items():
            images = torch.randn(batch, 3, 32, 32)
            ann = network(f"cifar_resnet{depth}")
            snn = convert(ann, steps, example=images[:2], check=False, fold_bn=not args.unfolded)
            things[str(x)] = partial(_calibrate, snn, images, "balanced")
        seconds = medians(things, args.runs)
        print(f"\n{head(axis, *seconds)}")
        print(row("seconds", *(f"{value:.2f}" for value in seconds.values())))
        print(row(f"seconds / {axis}", *(f"{value / int(x):.4f}" for x, value in seconds.items())))
        axes.plot([int(x) for x in seconds], list(seconds.values()), "o-")
        axes.set(xlabel=axis, ylabel="seconds", xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
    if args.figure:
        figure.savefig(args.figure, dpi=120)


@torch.no_grad()
def inference(args: argparse.Namespace) -> None:
    """T steps of the spiking network, as it is and in other ways, against T forwards of the ANN."""
    print(head("network", "T steps of the SNN", "T forwards of the ANN", "ratio"))
    on_cpu = args.device == "cpu"
    cases = [("cifar_resnet20", 32, args.batch_size), ("cifar_vgg16", 32, args.batch_size)]
    if not on_cpu:
        cases.append(("resnet34", 224, 32))
    for name, size, batch in cases:
        ann = network(name, size).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
        snn, folded, compiled = (
            convert(ann, NUM_STEPS, example=images[:2], check=False, fold_bn=fold) for fold in (False, True, False)
        )
        things: dict[str, Callable[[], Any]] = {"": partial(snn, images), ", folded": partial(folded, images)}
        if on_cpu:
            compiled.compile_neurons()
            things[", neurons compiled"] = partial(compiled, images)
        else:
            things[", launched one by one"] = partial(snn._simulate, snn.chunks(batch), images)
            for thing in list(things.values()) * 3:  # until graphs are recorded
                thing()
        seconds = medians(things | {"ann": partial(_repeat, ann, images)}, args.runs)
        of_ann = seconds.pop("ann")
        for title, value in seconds.items():
            case = f"{name} at {size}×{size}{title}"
            print(row(case, f"{value:.4f} s", f"{of_ann:.4f} s", f"{value / of_ann:.2f}"), flush=True)
    against_spikingjelly(NUM_STEPS, args.batch_size, partial(medians, runs=args.runs))


def _repeat(ann: nn.Module, images: Tensor) -> None:
    for _ in range(NUM_STEPS):
        ann(images)


@torch.no_grad()
def neuron(args: argparse.Namespace) -> None:
    """The time loop of neurons, as it is and compiled, against one read of the current and one write of spikes."""
    print(head("T × B × C × H × W", "neurons", "compiled", "copy of the current", "compiled / copy"))
    for channels, size in ((16, 32), (32, 16), (64, 8)):
        current = torch.randn(NUM_STEPS, args.batch_size, channels, size, size)
        out = torch.empty_like(current)
        site, compiled = (SpikingNeuron(NUM_STEPS, torch.ones(channels)) for _ in range(2))
        compiled.fused = True
        things: dict[str, Callable[[], Any]] = {
            "site": partial(_simulate, site, current, out),
            "compiled": partial(_simulate, compiled, current, out),
            "copy": partial(out.copy_, current),
        }
        seconds = medians(things, args.runs)
        cells = [f"{1e3 * seconds[title]:.2f} ms" for title in things]
        shape = " × ".join(map(str, current.shape))
        print(row(shape, *cells, f"{seconds['compiled'] / seconds['copy']:.2f}"), flush=True)


def _simulate(site: SpikingNeuron, current: Tensor, out: Tensor) -> None:
    site.reset()
    site(current, out)


def training(args: argparse.Namespace) -> None:
    """A training step with QCFS against one with ReLU, channels last, eager and compiled."""
    print(head("ResNet-20, batch of 128", "ReLU", "QCFS", "ratio"))
    for compiled in (False, True):
        things = {activation: _training_step(activation, compiled, args.precision) for activation in ("relu", "qcfs")}
        seconds = medians(things, 4 * args.runs)
        ratio = seconds["qcfs"] / seconds["relu"]
        title = "torch.compile" if compiled else "eager"
        milliseconds = [f"{1e3 * seconds[activation]:.0f} ms" for activation in ("relu", "qcfs")]
        print(row(title, *milliseconds, f"{ratio:.2f}"), flush=True)


def _training_step(activation: Any, compiled: bool, precision: str) -> Callable[[], None]:
    torch.manual_seed(0)
    made = prepare(create_network("cifar_resnet20"), activation, levels=4, threshold=2.0)
    made = made.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compiled:
        made.compile()
    optimizer = torch.optim.SGD(made.parameters(), 0.01, 0.9)
    images = torch.randn(128, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (128,))

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(made(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def memory(args: argparse.Namespace) -> None:
    """Peak memory above that of the loaded network, each case in a process of its own."""
    steps = (4, 8, 16, 32)
    print(head("MiB", "time_chunk", *at(steps)))
    for what in ("inference", "calibration"):
        for chunk in (1, 4, "T"):
            cells = [
                _memory_of(what, num_steps, num_steps if chunk == "T" else int(chunk), args) for num_steps in steps
            ]
            print(row(what, chunk, *(f"{cell:.0f}" for cell in cells)), flush=True)


def _memory_of(what: str, num_steps: int, chunk: int, args: argparse.Namespace) -> float:
    case = json.dumps({"what": what, "num_steps": num_steps, "chunk": chunk})
    command = [sys.executable, __file__, "memory-of", "--case", case]
    command += ["--batch_size", str(args.batch_size), "--device", args.device, *(["--unfolded"] * args.unfolded)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


@torch.no_grad()
def memory_of(args: argparse.Namespace) -> None:
    """Print the peak memory of one case, in MiB."""
    case = json.loads(args.case)
    images = torch.randn(args.batch_size, 3, 32, 32)
    ann, fold = network("cifar_resnet20"), not args.unfolded
    snn = convert(ann, case["num_steps"], example=images[:2], check=False, fold_bn=fold)
    snn.time_chunk = case["chunk"]
    before = _peak(images.device)
    if case["what"] == "inference":
        snn(images)
    else:
        _calibrate(snn, images, "balanced")
    print((_peak(images.device) - before) / 2**20)


def _peak(device: torch.device) -> int:
    """Bytes that the process has had at most, of the device's memory where that is not the CPU."""
    if device.type == "cpu":
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return torch.accelerator.max_memory_allocated(device)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "calibration": calibration,
    "scaling": scaling,
    "inference": inference,
    "neuron": neuron,
    "training": training,
    "memory": memory,
    "profile": lambda args: profiles(network("cifar_resnet20"), NUM_STEPS, args.batch_size),
    "dispatch": lambda args: dispatch(network("cifar_resnet20", 8), partial(medians, runs=20 * args.runs)),
    "choices": lambda args: choices(network, NUM_STEPS, args.batch_size, partial(medians, runs=args.runs)),
}


def main() -> None:
    args = arguments()
    command = memory_of if args.what == "memory-of" else COMMANDS[args.what]
    # A device context costs a little at every call, so there is none where it changes nothing.
    with torch.device(args.device) if args.device != "cpu" else nullcontext():
        command(args)


if __name__ == "__main__":
    main()
