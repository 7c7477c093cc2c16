"""What a GPU takes for calibration, simulation and data, against the ANN itself on the same images.

    python benchmarks/gpu_rows.py [SECTION …] [--output FILE] [--small]

Each row is printed, and appended to FILE as a line of JSON, as soon as it is measured. `--small` runs everything on a
few small images, on any device, to see that it runs.
"""

import argparse
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cost import network
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from ftbc_pl import SpikingNetwork, calibrate_, convert
from ftbc_pl.simulation.replay import Replay

Row = dict[str, Any]
STEPS = 8
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Network, side of an image, images; the first two as in the other tables.
CASES = [("cifar_resnet20", 32, 200), ("resnet18", 64, 200), ("resnet34", 64, 200), ("mobilenetv2_100", 224, 32)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="left out: all")
    parser.add_argument("--output", type=Path, help="file to append rows to, a line of JSON each")
    parser.add_argument("--small", action="store_true", help="a few small images")
    args = parser.parse_args()
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU"
    for section in args.sections or SECTIONS:
        try:
            for row in SECTIONS[section](args.small):
                _report({"section": section} | row | {"device": name, "torch": torch.__version__}, args.output)
        except Exception as error:
            print(traceback.format_exc(), flush=True)
            _report({"section": section, "error": f"{type(error).__name__}: {error}"[:500]}, args.output)


def _report(row: Row, output: Path | None) -> None:
    line = json.dumps({key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()})
    print(line, flush=True)
    if output:
        with output.open("a") as file:
            file.write(line + "\n")


def _seconds(call: Callable[[], Any]) -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _medians(things: Mapping[str, Callable[[], Any]], runs: int = 5) -> dict[str, float]:
    """Median seconds of each, run in turn, after three runs that compile and record."""
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for run in range(-3, runs):
        for name, thing in things.items():
            value = _seconds(thing)
            if run >= 0:
                seconds[name].append(value)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _cases(small: bool, more: Sequence[tuple[str, int, int]] = ()) -> Iterator[tuple[Row, nn.Module, Tensor]]:
    for name, size, batch in CASES[:1] if small else [*CASES, *more]:
        size, batch = (16, 2) if small else (size, batch)
        images = torch.randn(batch, 3, size, size, device=DEVICE)
        yield {"network": name, "size": size, "images": batch}, network(name, size).to(DEVICE), images


def _launches(call: Callable[[], Any]) -> Row:
    """Kernels of a call, and how long the GPU was busy with them."""
    if DEVICE.type != "cuda":
        return {}
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        call()
        torch.cuda.synchronize()
    kernels = [event for event in profiled.events() if str(event.device_type) == "DeviceType.CUDA"]
    largest: dict[str, float] = {}
    for event in kernels:
        largest[event.name[:40]] = largest.get(event.name[:40], 0) + event.device_time / 1e3
    top = dict(sorted(largest.items(), key=lambda item: -item[1])[:5])
    busy = sum(event.device_time for event in kernels) / 1e6
    return {"kernels": len(kernels), "busy s": busy, "top ms": {name: round(ms, 2) for name, ms in top.items()}}


@torch.no_grad()
def calibration(small: bool) -> Iterator[Row]:
    """A calibration against the ANN's forward of as many rows, one for the ANN and T for the timesteps."""
    for row, ann, images in _cases(small):
        snn, rows = convert(ann, STEPS, example=images[:2], check=False), images.repeat(STEPS + 1, 1, 1, 1)
        sites, row["folded"] = len(list(snn.neurons())), snn.report.folded_layers
        first = _seconds(partial(_calibrate, snn, images, "exact"))
        things: dict[str, Callable[[], Any]] = {"ANN": partial(ann, rows)}
        things |= {solver: partial(_calibrate, snn, images, solver) for solver in ("exact", "heuristic", "balanced")}
        seconds = _medians(things)
        of_ann = seconds.pop("ANN")
        for solver, value in seconds.items():
            found = row | {"solver": solver, "sites": sites, "s": value, "ANN s": of_ann, "ratio": value / of_ann}
            yield found | ({"first s": first} | _launches(things[solver]) if solver == "exact" else {})


def _calibrate(snn: SpikingNetwork, images: Tensor, solver: str) -> None:
    calibrate_(snn, [images], solver=solver, progress=False)


@torch.no_grad()
def inference(small: bool) -> Iterator[Row]:
    """T steps of the spiking network against T forwards of the ANN: eager, compiled, and as one CUDA graph."""
    for row, ann, images in _cases(small, [("cifar_vgg16", 32, 200)]):
        ann = ann.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.contiguous(memory_format=torch.channels_last)
        snn = convert(ann, STEPS, example=images[:2], check=False)
        replay, modules = Replay(), list(ann.modules())
        things: dict[str, Callable[[], Any]] = {
            "SNN": partial(snn, images),
            "ANN": partial(_forwards, ann, images),
            "ANN, one graph": partial(replay.run, partial(_forwards, ann), images, modules),
        }
        if row["network"] == "cifar_resnet20" and not small:
            things["ANN, compiled"] = partial(_forwards, torch.compile(ann), images)
        seconds = _medians(things)
        ratios = {f"SNN / {name}": seconds["SNN"] / value for name, value in seconds.items() if name != "SNN"}
        row["folded"] = snn.report.folded_layers
        yield row | {f"{name} s": value for name, value in seconds.items()} | ratios | _launches(things["SNN"])


def memory(small: bool) -> Iterator[Row]:
    """Peak memory of a calibration of 32 steps by the limit in bytes, and how many steps ran at once."""
    ann, images = network("cifar_resnet20").to(DEVICE), torch.randn(4 if small else 200, 3, 32, 32, device=DEVICE)
    for mebibytes in (64, None) if small else (512, 2048, None):
        snn = convert(ann, 32, example=images[:2], check=False)
        snn.memory_limit = None if mebibytes is None else mebibytes * 2**20
        chunk = snn.chunk(len(images), images, more_rows=1, more_neurons=1)
        row: Row = {"limit MiB": mebibytes, "steps at once": chunk}
        if DEVICE.type == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        row["s"] = _seconds(partial(_calibrate, snn, images, "exact"))
        if DEVICE.type == "cuda":
            row["peak MiB"] = (torch.cuda.max_memory_allocated() - before) / 2**20
        yield row


@torch.no_grad()
def precision(small: bool) -> Iterator[Row]:
    """Layers in 16 bits against layers in 32."""
    for row, ann, images in _cases(small):
        both: dict[str, Callable[[], Any]] = {}
        for bits in ("fp32", "bf16"):
            snn = convert(ann, STEPS, example=images[:2], check=False)
            snn.precision = bits
            both[bits] = partial(snn, images)
        seconds = _medians(both)
        yield (
            row | {f"{name} s": value for name, value in seconds.items()} | {"ratio": seconds["bf16"] / seconds["fp32"]}
        )


def _forwards(ann: Callable[[Tensor], Tensor], images: Tensor) -> list[Tensor]:
    return [ann(images) for _ in range(STEPS)]


def data(small: bool) -> Iterator[Row]:
    """Images a second of noise of CIFAR-10's size, made by a CPU and by a GPU; an epoch of a ResNet-20 with QCFS."""
    # Here, since these import what a machine with a GPU may lack.
    from ftbc_pl.data.batches import TensorImages, random_shift
    from ftbc_pl.data.on_device import DeviceMemory

    count = 2_000 if small else 45_000
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    augment = partial(random_shift, padding=4, flip=0.5)
    on_cpu = TensorImages(pixels, torch.randint(10, (count,)), [0.5] * 3, [0.25] * 3, augment=augment)
    on_device = DeviceMemory().take(on_cpu, DEVICE, 4, 0.5, 0.0)
    for batch in (128,) if small else (128, 512, 1024):
        order = torch.randperm(count).split(batch)[:-1]
        rates = {}
        for name, images in (("CPU", on_cpu), ("device", on_device)):
            rates[f"{name} images/s"] = 20 * batch / _seconds(partial(_go_over, images, order[:20]))
        epoch = partial(_go_over, on_device, order, _training_step())
        epochs = [_seconds(epoch) for _ in range(2 if small or batch == 128 else 3)]
        yield {"batch": batch, **rates, "first epoch s": epochs[0], "epoch s": epochs[-1]}


def _go_over(images: Any, order: Any, step: Callable[[Any], None] | None = None) -> None:
    """Make the batches of an order, and do a step with each."""
    for part in order:
        batch = images.__getitems__(part)
        if step is not None:
            step(batch)


def _training_step() -> Callable[[tuple[Tensor, Tensor]], None]:
    """One step of a ResNet-20 with QCFS, bf16, channels last."""
    net = network("cifar_resnet20").train().to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9)

    def step(batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = nn.functional.cross_entropy(net(images.contiguous(memory_format=torch.channels_last)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


@torch.no_grad()
def convolutions(small: bool) -> Iterator[Row]:
    """Whether the ANN gives the same bits each time, as it must where results are compared to the bit."""
    for dtype in (torch.float32, torch.float64):
        for layout in (torch.contiguous_format, torch.channels_last):
            for deterministic in (False, True):
                torch.backends.cudnn.deterministic = deterministic
                ann = network("cifar_resnet20").to(DEVICE, dtype, memory_format=layout)  # type: ignore[call-overload]
                images = torch.randn(20, 3, 32, 32, device=DEVICE, dtype=dtype).contiguous(memory_format=layout)
                first = ann(images)
                same = [torch.equal(ann(images), first) for _ in range(5)]
                yield {"dtype": str(dtype), "layout": str(layout), "deterministic": deterministic, "same": same}
    torch.backends.cudnn.deterministic = False


SECTIONS = {
    "calibration": calibration,
    "data": data,
    "inference": inference,
    "memory": memory,
    "precision": precision,
    "convolutions": convolutions,
}


if __name__ == "__main__":
    main()
