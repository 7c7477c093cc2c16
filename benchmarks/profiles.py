"""How often Python calls torch, how many kernels a GPU is given, and how much of the time is Python's own."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from tables import head, row
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile, record_function

from ftbc_pl import calibrate_, convert
from ftbc_pl.layers import SpikingNeuron
from ftbc_pl.simulation.visitors import Simulation
from ftbc_pl.tracing.calls import Call

_WHOLE = "profiled"
Medians = Callable[[Mapping[str, Callable[[], Any]]], dict[str, float]]


class Profile(NamedTuple):
    """What torch's profiler saw of one call.

    Attributes:
        calls: Operators of torch that Python called, views among them, not those that they call in turn.
        python: Share of the time that was spent outside of these.
        kernels: Kernels and copies that a GPU was given.
    """

    calls: int
    python: float
    kernels: int


def profiled(call: Callable[[], Any]) -> Profile:
    """Profile a call that was made before."""
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as found, record_function(_WHOLE):
        call()
        if on_gpu:
            torch.cuda.synchronize()
    events = found.events()
    assert events is not None
    (whole,) = (event for event in events if event.name == _WHOLE and str(event.device_type) == "DeviceType.CPU")
    called = [event for event in events if event.cpu_parent is whole]
    kernels = [event for event in events if str(event.device_type) == "DeviceType.CUDA" and event.name != _WHOLE]
    inside = sum(event.cpu_time_total for event in called)
    return Profile(len(called), 1 - inside / whole.cpu_time_total, len(kernels))


@torch.no_grad()
def profiles(ann: nn.Module, num_steps: int, batch_size: int) -> None:
    """Print rows for T forwards of a ResNet-20, T steps, and a calibration; with normalisation apart and folded."""
    images = torch.randn(batch_size, 3, 32, 32)
    case = f"ResNet-20, images: {batch_size}, T = {num_steps}"
    print(head(case, "operators", "per site and step", "share of Python", "GPU kernels"))
    for title, sites, call in _calls(ann, images, num_steps):
        for _ in range(4):  # compiles kernels, and records graphs
            call()
        found = profiled(call)
        each = found.calls / (sites * num_steps)
        kernels = found.kernels or ""
        print(row(title, f"{found.calls:,}", f"{each:.1f}", f"{100 * found.python:.0f} %", kernels), flush=True)


def _calls(ann: nn.Module, images: Tensor, num_steps: int) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """Title, number of sites, and call of each row."""
    snns = {
        name: convert(ann, num_steps, example=images[:2], check=False, fold_bn=fold)
        for name, fold in (("apart", False), ("folded", True))
    }
    sites = len(list(snns["folded"].neurons()))
    yield "T forwards of the ANN", sites, lambda: [ann(images) for _ in range(num_steps)]
    for name, snn in snns.items():
        yield f"T steps, {name}", sites, partial(snn, images)
    for name, snn in snns.items():
        yield f"calibration by exact, {name}", sites, partial(calibrate_, snn, [images], progress=False)


class _Nothing(TorchFunctionMode):
    """What every function mode of torch costs."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


class _Activations(Simulation):
    """Does at the sites what the ANN does."""

    def neuron(self, call: Call, site: SpikingNeuron, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        return activation(x)


@torch.no_grad()
def dispatch(ann: nn.Module, medians: Medians) -> None:
    """Print what it costs to hand each call of a forward to Python, for an image so small that it shows."""
    image = torch.randn(1, 3, 8, 8)
    snn = convert(ann, 1, example=image.expand(2, -1, -1, -1), check=False)

    def under_a_mode() -> None:
        with _Nothing():
            snn.network(image)

    seconds = medians(
        {
            "as it is": lambda: snn.network(image),
            "under a function mode that does nothing": under_a_mode,
            "sites redirected": lambda: snn.simulate(image, _Activations),
            "one timestep": lambda: snn(image),
        }
    )
    print(f"\n{head('forward of one image of 8×8', 'time')}")
    for title, value in seconds.items():
        print(row(title, f"{value / seconds['as it is']:.2f}"))
