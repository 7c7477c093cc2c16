"""The calibration rules that the tables compare. Each changes a spiking network in place and says what it cost."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ftbc_pl import SpikingNetwork, calibrate_
from ftbc_pl.calibration import weights as fitting
from ftbc_pl.functional.readout import error_products, least_squares_readout
from ftbc_pl.layers import SpikingNeuron
from ftbc_pl.simulation.visitors import Simulation
from ftbc_pl.tracing.calls import Call


@dataclass(frozen=True)
class Rule:
    """A rule and the calibration images it takes.

    Attributes:
        title: How the tables name it; kept measurements are found by it, so it says all that matters.
        batch_size: Images in a batch.
        num_batches: Number of batches.
        run: Calibrates a network with the batches and returns the number of forwards.
        schedule: Of the network: `stream`, or `accumulate`, whose rows stand apart since it is slower by its depth.
    """

    title: str
    batch_size: int
    num_batches: int
    run: Callable[[SpikingNetwork, list[Tensor]], int]
    schedule: str = "stream"

    def __call__(self, snn: SpikingNetwork, batches: list[Tensor]) -> tuple[int, float]:
        """Calibrate and return forwards and seconds."""
        began = time.perf_counter()
        return self.run(snn, batches), time.perf_counter() - began


def solver(title: str, batch_size: int, num_batches: int, **options: Any) -> Rule:
    """One of this package's solvers."""

    def run(snn: SpikingNetwork, batches: list[Tensor]) -> int:
        report = calibrate_(snn, batches, num_batches=num_batches, progress=False, **options)
        return report.forward_passes

    return Rule(title, batch_size, num_batches, run)


class _Constant(Simulation):
    """Gives each channel the difference of the mean outputs of ANN and neurons as a bias for all steps."""

    def simulate(self, call: Call, site: SpikingNeuron, current: Tensor, out: Tensor) -> None:
        others = [dim for dim in range(1, out.ndim) if dim != site.channel_dim + 1]
        spikes = site(current, torch.empty_like(out[1:]))
        site.temporal_bias.copy_(
            (out[:1].mean(others) - spikes.mean([0, *others]).unsqueeze(0)).expand(len(spikes), -1)
        )
        site.reset()
        site(current, out[1:])


@torch.no_grad()
def _once(snn: SpikingNetwork, batches: list[Tensor], visitor: type[Simulation]) -> int:
    """One forward of the first batch without biases, which the visitor may set; then the weights of the readout."""
    snn.corrections.replace_({})
    for _, site in snn.neurons():
        site.temporal_bias.zero_()
    snn.reset()
    outputs = snn.visit(batches[0], visitor(len(snn.prediction_steps), ann_rows=True))
    snn.reset()
    snn.readout_weights.copy_(least_squares_readout(error_products(outputs[1:], outputs[0])))
    return 1


def constant(snn: SpikingNetwork, batches: list[Tensor]) -> int:
    """A bias without a time axis, as in the light calibration of Li et al. (ICML 2021), in one forward."""
    return _once(snn, batches, _Constant)


def no_bias(snn: SpikingNetwork, batches: list[Tensor]) -> int:
    """Nothing but the weights of the readout, in one forward."""
    return _once(snn, batches, Simulation)


def accumulated(rule: Rule) -> Rule:
    """The same rule for networks whose sites fire whole trains."""
    return replace(rule, title=f"{rule.title}, accumulate (depth × T steps)", schedule="accumulate")


RULES = {
    "none": Rule("no bias, 1 × 200 images", 200, 1, no_bias),
    "constant": Rule("constant bias, 1 × 200 images", 200, 1, constant),
    "layer": solver(
        "heuristic by layer, α = 0.4, 3 × 200 images", 200, 3, solver="heuristic", alpha=0.4, granularity="layer"
    ),
    "paper": solver("heuristic, α = 0.4, 3 × 200 images", 200, 3, solver="heuristic", alpha=0.4),
    "paper50": solver("heuristic, α = 0.5, 50 × 128 images", 128, 50, solver="heuristic", alpha=0.5),
    "exact": solver("exact, 1 × 200 images", 200, 1, solver="exact"),
    "balanced": solver("balanced for this T, 1 × 200 images", 200, 1, solver="balanced"),
}
DEFAULT = list(RULES)
RULES |= {f"{key}_accumulate": accumulated(RULES[key]) for key in ("none", "paper", "exact", "balanced")}


def ridge(images: int, solver: str = "exact", last: bool = False, expand: bool = True) -> Rule:
    """Fitted weights, in the ways that were compared on validation images."""

    def run(snn: SpikingNetwork, batches: list[Tensor]) -> int:
        options: dict[str, Any] = {"horizon": snn.num_steps} if last else {}
        before, fitting.EXPAND = fitting.EXPAND, expand
        try:
            return calibrate_(snn, batches, solver=solver, weights="ridge", progress=False, **options).forward_passes
        finally:
            fitting.EXPAND = before

    said = (", fitted at T alone" if last else "") + ("" if expand else ", not expanded")
    return Rule(f"ridge and {solver} for this T{said}, 1 × {images} images", images, 1, run)


WEIGHT_RULES = {
    "ridge": ridge(200),
    "ridge, 500 images": ridge(500),
    "ridge, 1,000 images": ridge(1000),
    "ridge, horizon T": ridge(200, last=True),
    "ridge, horizon T, 1,000 images": ridge(1000, last=True),
    "ridge, no expansion": ridge(200, expand=False),
    "ridge, no expansion, 1,000 images": ridge(1000, expand=False),
    "ridge and balanced": ridge(200, "balanced"),
    "ridge and balanced, 1,000 images": ridge(1000, "balanced"),
    "ridge and balanced, horizon T, 500 images": ridge(500, "balanced", last=True),
    "ridge and balanced, horizon T, 1,000 images": ridge(1000, "balanced", last=True),
}
RULES |= {
    "ridge": WEIGHT_RULES["ridge, 500 images"],
    "ridge_balanced": WEIGHT_RULES["ridge and balanced, horizon T, 500 images"],
    "ridge_balanced_1000": WEIGHT_RULES["ridge and balanced, horizon T, 1,000 images"],
}
