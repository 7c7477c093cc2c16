"""The kernels of a GPU: whether they give the bits of the eager code, and what they cost.

    python benchmarks/kernels_gpu.py [--output FILE]

Takes about a minute and installs nothing. Each row is printed, and appended to FILE as a line of JSON, as soon as it is
measured; a section that fails says why, and the next one goes on.
"""

import argparse
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from torch import Tensor, nn

from ftbc_pl.functional import neuron
from ftbc_pl.functional.kernels import balanced, exact, exact_site, heuristic, selection
from ftbc_pl.functional.kernels import neuron as kernel
from ftbc_pl.functional.kernels import qcfs as kernel_qcfs
from ftbc_pl.layers import QCFS
from ftbc_pl.models.resnet import CifarResNet

Row = dict[str, Any]
STEPS, LEVELS = 8, 8
# Sites of a ResNet-20 and of a ResNet-34 at 224×224, (B, C, H, W).
SHAPES = [(200, 16, 32, 32), (200, 64, 8, 8), (32, 64, 56, 56)]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="file to append rows to, a line of JSON each")
    output = parser.parse_args().output
    machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
    print(machine, flush=True)
    for section in (check_neuron, check_solvers, check_balanced, check_qcfs, time_neuron, time_steps, time_training):
        try:
            for row in section():
                report({"section": section.__name__} | row | machine, output)
        except Exception as error:
            print(traceback.format_exc(), flush=True)
            report({"section": section.__name__, "error": f"{type(error).__name__}: {error}"[:500]} | machine, output)


def report(row: Row, output: Path | None) -> None:
    line = json.dumps(row)
    print(line, flush=True)
    if output:
        with output.open("a") as file:
            file.write(line + "\n")


def milliseconds(call: Callable[[], Any]) -> float:
    return float(triton.testing.do_bench(call, warmup=5, rep=40, return_mode="median"))


def site(shape: tuple[int, ...], layout: str, dtype: torch.dtype = torch.float32) -> SimpleNamespace:
    """Currents of all steps, a membrane, thresholds, biases, and what the ANN puts out, of one site."""
    torch.manual_seed(0)
    rows = torch.randn(STEPS * shape[0], *shape[1:], device="cuda", dtype=dtype)
    current = rows.contiguous(memory_format=LAYOUTS[layout]).unflatten(0, (STEPS, shape[0]))
    membrane = torch.rand_like(current[0], dtype=torch.float32)
    threshold = torch.rand(shape[1], device="cuda") + 0.5
    bias = 0.1 * torch.randn(STEPS, shape[1], device="cuda")
    activation = current[0].float().clamp(0, 1)
    return SimpleNamespace(current=current, membrane=membrane, threshold=threshold, bias=bias, activation=activation)


def cases(*dtypes: torch.dtype) -> Iterator[tuple[Row, SimpleNamespace]]:
    for shape in SHAPES:
        for layout in LAYOUTS:
            for dtype in dtypes or (torch.float32,):
                yield {"shape": shape, "layout": layout, "dtype": str(dtype)}, site(shape, layout, dtype)


def check_neuron() -> Iterator[Row]:
    for row, s in cases(torch.float32, torch.bfloat16, torch.float16):
        v, expected_v = s.membrane.clone(), s.membrane.clone()
        theta, b = (neuron.per_channel(values, 4, 1) for values in (s.threshold.to(s.current.dtype), s.bias))
        expected = neuron.integrate_and_fire_(s.current, expected_v, theta, b, torch.empty_like(s.current))
        counts = torch.zeros(STEPS, dtype=torch.int64, device="cuda")
        kernel.integrate_and_fire_(s.current, v, s.threshold, s.bias, s.current, 1, counts)
        same = torch.equal(s.current, expected) and torch.equal(v, expected_v)
        yield row | {"same bits": same, "same counts": torch.equal(counts, (expected > 0).flatten(1).sum(1))}


def cut_of(s: SimpleNamespace) -> SimpleNamespace:
    """Where `exact` cuts, with no neuron to fire in the first channel and all in the second."""
    count = s.membrane.numel() // len(s.threshold)
    fraction = (s.activation.mean((0, 2, 3)) / s.threshold).clamp(0, 1)
    fraction[0], fraction[1] = 0, 1
    firing = (fraction * count).round().long()
    none, every = firing == 0, firing == count
    infinite = torch.full_like(s.threshold, torch.inf)
    margin = (every.float() - none.float()) * (4 * torch.finfo(torch.float32).eps)
    lowest, highest = (-infinite).masked_fill(every, 0), infinite.masked_fill(none, 0)
    return SimpleNamespace(
        rank=firing.clamp(max=count - 1), edge=none | every, margin=margin, lowest=lowest, highest=highest
    )


def by_sorting(values: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """The value of each channel that has a rank, and the next larger one."""
    channels = values.movedim(1, 0).flatten(1).sort(1, descending=True).values
    value, larger = channels.gather(1, torch.stack([ranks, (ranks - 1).clamp(min=0)], 1)).unbind(1)
    return value, larger.masked_fill(ranks == 0, torch.inf)


def sorted_exact(s: SimpleNamespace, cut: SimpleNamespace, membrane: Tensor) -> Tensor:
    below, above = by_sorting(membrane - neuron.per_channel(s.threshold, 4, 1), cut.rank)
    edge = ((below.abs() + 1) * cut.margin - below).clamp(cut.lowest, cut.highest)
    return torch.where(cut.edge, edge, -(below + (above - below) / 2))


def fires_as_expected(s: SimpleNamespace, membrane: Tensor, bias: Tensor, v: Tensor, out: Tensor) -> bool:
    theta, b = (neuron.per_channel(values, 4, 1) for values in (s.threshold, bias))
    u = membrane + b
    return torch.equal(out, neuron.fire_(u, theta, torch.empty_like(out))) and torch.equal(v, u)


def check_solvers() -> Iterator[Row]:
    for row, s in cases():
        x, out, cut = s.current[0], torch.empty_like(s.current[0]), cut_of(s)
        u = s.membrane + x
        pair, expected = selection.largest(u, cut.rank, 1), by_sorting(u, cut.rank)
        same = all(torch.equal(a, b) for a, b in zip(pair, expected, strict=True))
        yield row | {"kernel": "order statistic", "same bits": same}
        v, bias = s.membrane.clone(), torch.empty_like(s.threshold)
        exact.exact_step_(x, v, s.threshold, cut, bias, out, 1)
        same = torch.equal(bias, sorted_exact(s, cut, u)) and fires_as_expected(s, u, bias, v, out)
        yield row | {"kernel": "exact", "same bits": same}
        yield row | {"kernel": "exact, all steps", "same bits": all_steps_are_single_steps(s, cut)}
        v, bias, mean = s.membrane.clone(), s.bias[0].clone(), s.activation.double().mean((0, 2, 3))
        count = u.numel() // len(bias)
        fired = (u + neuron.per_channel(bias, 4, 1) >= neuron.per_channel(s.threshold, 4, 1)).sum((0, 2, 3))
        wanted = (bias - 0.4 * (fired.double() / count * s.threshold - mean)).float()
        heuristic.heuristic_step_(x, v, s.threshold, mean, count, 0.4, bias, out, 1)
        same = torch.equal(bias, wanted) and fires_as_expected(s, u, bias, v, out)
        yield row | {"kernel": "heuristic", "same bits": same}


def all_steps_are_single_steps(s: SimpleNamespace, cut: SimpleNamespace) -> bool:
    """Whether one launch for all steps of a site gives the bits of one step after the other."""
    results = []
    for at_once in (True, False):
        v, bias, out = s.membrane.clone(), torch.empty_like(s.bias), torch.empty_like(s.current)
        counts = torch.zeros(STEPS, dtype=torch.int64, device="cuda")
        if at_once:
            exact_site.exact_site_(s.current, v, s.threshold, cut, bias, out, 1, counts)
        else:
            for t in range(STEPS):
                exact.exact_step_(s.current[t], v, s.threshold, cut, bias[t], out[t], 1, counts[t : t + 1])
        results.append((v, bias, out, counts))
    return all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def check_balanced() -> Iterator[Row]:
    from ftbc_pl.calibration.solvers.balanced import balanced_bias, balanced_sums

    for row, s in cases():
        x, out = s.current[0], torch.empty_like(s.current[0])
        u = s.membrane + x
        v, bias, error = s.membrane.clone(), torch.empty_like(s.threshold), torch.zeros_like(s.membrane)
        scale = balanced.Scale.of(s.threshold)
        balanced.balanced_step_(x, v, s.threshold, error, s.activation, scale, 3.0, bias, out, 1)
        same = torch.equal(bias, balanced_bias(balanced_sums(u, s.activation, s.threshold, 1), s.threshold, 3.0))
        same = same and fires_as_expected(s, u, bias, v, out) and torch.equal(error, s.activation - out)
        yield row | {"kernel": "balanced", "same bits": same}


def check_qcfs() -> Iterator[Row]:
    from ftbc_pl.functional.qcfs import _QCFS

    for row, s in cases(torch.float32, torch.bfloat16):
        results = []
        for function, dtype in ((kernel_qcfs.QCFS, s.current.dtype), (_QCFS, torch.float32)):
            x = s.current[0].detach().to(dtype).requires_grad_()
            threshold = torch.tensor(0.9, device="cuda", requires_grad=True)
            y = function.apply(x, threshold, LEVELS)
            results.append((y.detach(), *torch.autograd.grad(y, (x, threshold), s.current[1].to(dtype))))
        (y, grad, to_threshold), (expected_y, expected_grad, expected_to_threshold) = results
        same = torch.equal(y, expected_y.to(y.dtype)) and torch.equal(grad, expected_grad.to(y.dtype))
        gap = ((to_threshold - expected_to_threshold) / expected_to_threshold).abs().item()
        yield row | {"same bits": same, "relative difference of the gradient to θ": gap}


def time_neuron() -> Iterator[Row]:
    for row, s in cases(torch.float32, torch.bfloat16):
        out = torch.empty_like(s.current)
        run = partial(kernel.integrate_and_fire_, s.current, s.membrane, s.threshold, s.bias, out, 1)
        kernel_ms, copy_ms = milliseconds(run), milliseconds(partial(out.copy_, s.current))
        yield row | {"kernel ms": kernel_ms, "copy ms": copy_ms, "ratio": kernel_ms / copy_ms}


def time_steps() -> Iterator[Row]:
    """Kernels of a site and step, and as many launches, against a sort and a copy of the membrane."""
    for row, s in cases():
        # No current, so that the membrane stays what it is through hundreds of steps.
        x, v, bias, cut = torch.zeros_like(s.membrane), s.membrane + s.current[0], s.bias[0], cut_of(s)
        out, error, mean = torch.empty_like(x), torch.zeros_like(v), s.activation.double().mean((0, 2, 3))
        count, theta = v.numel() // len(bias), s.threshold
        things: dict[str, Callable[[], Any]] = {
            "copy": partial(out.copy_, v),
            "selection": partial(selection.largest, v, cut.rank, 1),
            "sort": partial(by_sorting, v, cut.rank),
            "exact": partial(exact.exact_step_, x, v, theta, cut, bias, out, 1),
            "heuristic": partial(heuristic.heuristic_step_, x, v, theta, mean, count, 0.4, bias, out, 1),
            "balanced": partial(
                balanced.balanced_step_, x, v, theta, error, s.activation, balanced.Scale.of(theta), 3.0, bias, out, 1
            ),
        }
        found = {f"{name} ms": milliseconds(thing) for name, thing in things.items()}
        outs, counts = torch.empty_like(s.current), torch.zeros(STEPS, dtype=torch.int64, device="cuda")
        site = partial(exact_site.exact_site_, s.current, v, theta, cut, s.bias, outs, 1, counts)
        yield row | found | {"exact, a step of all at once ms": milliseconds(site) / STEPS}


def time_training() -> Iterator[Row]:
    """A training step of ResNet-20 with QCFS against the same with ReLU, run in turn."""
    for precision in ("bf16", "fp32"):
        for batch in (128, 1024):
            steps = {
                "ReLU": step_of(CifarResNet(3), precision, batch),
                "QCFS": step_of(with_qcfs(CifarResNet(3)), precision, batch),
            }
            relu, qcfs = medians_in_turn(steps).values()
            row: Row = {"precision": precision, "batch": batch, "ReLU ms": 1000 * relu, "QCFS ms": 1000 * qcfs}
            yield row | {"ratio": qcfs / relu}


def with_qcfs(network: nn.Module) -> nn.Module:
    """Exchange all ReLUs."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, QCFS(LEVELS))
    return network


def step_of(network: nn.Module, precision: str, batch: int) -> Callable[[], None]:
    """One training step on images of noise."""
    network = network.cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    x = torch.randn(batch, 3, 32, 32, device="cuda").contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device="cuda")

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            loss = nn.functional.cross_entropy(network(x), labels)
        loss.backward()
        optimizer.step()

    return step


def medians_in_turn(steps: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median seconds of each, run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for run in range(25):
        for name, step in steps.items():
            torch.cuda.synchronize()
            began = time.perf_counter()
            step()
            torch.cuda.synchronize()
            if run >= 5:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


if __name__ == "__main__":
    main()
