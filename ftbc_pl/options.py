"""Every option of a conversion, a calibration, an evaluation and a run: declared, explained and checked once.

The command line, the callback, `ftbc_pl.convert`, `ftbc_pl.calibrate_`, `snn.json` and the table of
options in docs/ are made of these classes. The sentences of `--help` are those of their docstrings.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral
from types import MappingProxyType
from typing import Any, Final, Literal, Self, TypeVar

from ftbc_pl.registry import SOLVERS

Granularity = Literal["channel", "layer"]
Schedule = Literal["stream", "accumulate"]
Readout = Literal["least_squares", "mean"]
Precision = Literal["fp32", "bf16"]
Smooth = Literal["error", "rate"]
Weights = Literal["keep", "ridge"]
MOST_STEPS = 4096  # a readout of 4096² weights takes 64 MiB

PAPER: Final[Mapping[str, Any]] = MappingProxyType(
    {"solver": "heuristic", "alpha": 0.4, "num_batches": 3, "readout": "mean"}
)
"""The paper's rule for `calibrate_(snn, loader, **PAPER)`, with batches of 200 images: what configs/paper.yaml says."""

_Part = TypeVar("_Part", bound="Options")


class Options:
    """What all classes of options share."""

    @classmethod
    def of(cls, given: Mapping[str, Any], caller: str) -> Self:
        """Make options of keyword arguments.

        Raises:
            TypeError: An argument is no option; names it, a similar one, and all options.
            ValueError: A value is out of range.
        """
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        wrong = [name for name in given if name not in known]
        if wrong:
            similar = difflib.get_close_matches(wrong[0], known, n=1)
            hint = f" Did you mean {similar[0]}?" if similar else ""
            raise TypeError(
                f"{caller} has no option {', '.join(map(repr, wrong))}.{hint} Its options are {', '.join(known)}."
            )
        return cls(**given)

    def part(self, cls: type[_Part]) -> _Part:
        """Those of these options that `cls` has."""
        return cls(**{field.name: getattr(self, field.name) for field in fields(cls)})  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and YAML."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    def _at_least_one(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
                raise TypeError(f"{name} must be a whole number, got {value!r}.")
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")

    def _one_of(self, name: str, choices: Any) -> None:
        allowed = choices.__args__
        if getattr(self, name) not in allowed:
            raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {getattr(self, name)!r}.")


@dataclass(frozen=True, kw_only=True)
class ConversionOptions(Options):
    """How an ANN becomes a spiking network.

    Attributes:
        num_steps: Timesteps T to convert and calibrate for; accuracy is reported at every t up to T.
        threshold: mse, max or a percentile in (1, 100]: how the thresholds of ReLU and clipped ReLU are measured; QCFS
            has its own.
        v0: Membrane at the start as a fraction of the threshold, in [0, 1].
        smooth: rate runs GELU and the like without spikes, by the rate-exact replacement; error refuses them.
        fold_bn: Whether batch normalisation is folded into the layers before it: faster, same outputs to rounding.
            It stays apart, with a warning, where the network would be another.
        schedule: stream lets every site fire at every step: the answer is there after T steps, and at every t before.
            accumulate lets each site wait for the currents of all T steps before it fires: more accurate, but the
            answer takes depth × T steps, depth being the longest chain of spiking sites, and there is none before.
    """

    num_steps: int = 8
    threshold: str | float = "mse"
    v0: float = 0.5
    smooth: Smooth = "error"
    fold_bn: bool = True
    schedule: Schedule = "stream"

    @property
    def prediction_steps(self) -> tuple[int, ...]:
        """Timesteps that there is a prediction for: 1 … T, or T alone where the schedule gives no other."""
        return (self.num_steps,) if self.schedule == "accumulate" else tuple(range(1, self.num_steps + 1))

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: One is out of range.
        """
        self._at_least_one("num_steps")
        if self.num_steps > MOST_STEPS:
            raise ValueError(
                f"num_steps must be at most {MOST_STEPS:,}, got {self.num_steps:,}: memory grows with it, with the "
                "square for the readout, and the accuracy reaches that of the ANN long before."
            )
        self._one_of("smooth", Smooth)
        self._one_of("schedule", Schedule)
        if not 0 <= self.v0 <= 1:
            raise ValueError(f"v0 must lie in [0, 1], got {self.v0}: it is a fraction of the threshold.")
        object.__setattr__(self, "threshold", _check_threshold(self.threshold))


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions(Options):
    """How the temporal bias and the readout are solved for.

    Attributes:
        solver: exact makes every channel fire as often as the ANN demands: good at every step. balanced keeps the
            output of single neurons close to the ANN's as well: better at its horizon on networks that were not
            trained for few steps, at the cost of the steps before it. heuristic is the paper's rule. One of your own
            is named as module:name.
        granularity: One bias per channel, or one for the whole layer.
        alpha: Step size of heuristic, in (0, 1].
        mean_weight: How much more an error of a channel's mean counts in balanced than one of a neuron, 0 or more;
            left out: by horizon.
        horizon: Timestep whose accuracy matters to balanced and ridge; left out: num_steps for balanced, all alike for
            ridge.
        passes: How often heuristic goes over the batches.
        num_batches: Batches of training images to calibrate with. heuristic goes on from one to the next, the others
            average their biases; weights that are fitted are fitted to all, and the last batch decides on the biases.
        readout: What the prediction at t is made of. least_squares weighs the outputs of the steps up to t so that
            they come closest to the ANN's output, or to all of its outputs; mean is their plain mean, as in the papers.
        weights: ridge fits the weights of the layers as well, in closed form, in the same forward, for the timesteps
            only: the most accurate where T is small. It takes 200 images or more, best in one batch; 500 are better at
            T = 1 and 2. keep leaves them.
    """

    solver: str = "exact"
    granularity: Granularity = "channel"
    alpha: float = 0.5
    mean_weight: float | None = None
    horizon: int | None = None
    passes: int = 1
    num_batches: int = 1
    readout: Readout = "least_squares"
    weights: Weights = "keep"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: One is out of range, or the solver does not take it.
        """
        taken = SOLVERS[self.solver].options
        self._one_of("granularity", Granularity)
        self._one_of("readout", Readout)
        self._one_of("weights", Weights)
        self._at_least_one("passes", "num_batches", "horizon")
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must lie in (0, 1], got {self.alpha}.")
        if self.mean_weight is not None and not 0 <= self.mean_weight < math.inf:
            raise ValueError(
                f"mean_weight must be finite and 0 or more, got {self.mean_weight}; solver 'exact' is the limit."
            )
        if self.mean_weight is not None and "mean_weight" not in taken:
            raise ValueError(f"mean_weight is an option of solver 'balanced'; {self.solver!r} has none.")
        if self.horizon is not None and self.weights != "ridge":
            if "horizon" not in taken:
                raise ValueError(
                    f"horizon is an option of solver 'balanced' and of weights 'ridge'; {self.solver!r} has none."
                )
            if self.mean_weight is not None:
                raise ValueError("horizon chooses mean_weight: give one of the two.")
        if self.alpha != CalibrationOptions.alpha and "alpha" not in taken:
            raise ValueError(f"alpha is an option of solver 'heuristic'; {self.solver!r} has none.")
        if self.passes > 1 and "passes" not in taken:
            raise ValueError(f"solver {self.solver!r} needs one pass: set passes to 1, or take more num_batches.")
        if self.weights == "ridge" and self.passes > 1:
            raise ValueError("weights='ridge' takes one pass: set passes to 1, and raise batch_size or num_batches.")

    def check_horizon(self, steps: Sequence[int]) -> None:
        """Check that the horizon is one of the timesteps that there is a prediction for.

        Raises:
            ValueError: It is not.
        """
        if self.horizon is not None and self.horizon not in steps:
            known = f"{steps[0]}, the only prediction" if len(steps) == 1 else f"one of {steps[0]} to {steps[-1]}"
            raise ValueError(f"horizon must be a timestep of the predictions, {known}, got {self.horizon}.")


@dataclass(frozen=True, kw_only=True)
class SimulationOptions(Options):
    """How a spiking network is run; the results are the same, but for `precision`.

    Attributes:
        time_chunk: Timesteps simulated at once; less needs less memory. Left out: all on a GPU, few on a CPU, where
            that is faster, and fewer where memory is short.
        memory_limit: Bytes that the timesteps simulated at once may take where time_chunk is left out; left out: half
            of those that are free.
        compile: Whether torch.compile makes a kernel of the neurons for the evaluation.
        precision: bf16 evaluates with layers in 16 bits and membranes in 32: for hardware that is faster so. Some
            spikes come earlier or later, and the accuracy is another one. It calibrates in fp32 all the same.
    """

    time_chunk: int | None = None
    memory_limit: int | None = None
    compile: bool = False
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: One is out of range.
        """
        self._at_least_one("time_chunk", "memory_limit")
        self._one_of("precision", Precision)


@dataclass(frozen=True, kw_only=True)
class RunOptions(SimulationOptions, CalibrationOptions, ConversionOptions):
    """What follows a training: conversion, calibration, evaluation, and where the results go.

    Attributes:
        enabled: Switch off to train the ANN only.
        batch_size: Images in each calibration batch, counted over all processes.
        output_dir: Folder for the results; left out: a new one below runs/.
        overwrite: Whether output_dir may hold the results of an earlier run.
        network: Attribute of the LightningModule that holds the network, with dots to lead further inside; self for the
            module itself; left out: network, model, backbone or net, or its only module with weights.
        trial: Whether the conversion is tried on two images before the training, which takes seconds.
        exit_loss: Lets each image stop at the first step that is sure of its class, in predict and in the results; at
            most this share of the decisions may differ from those at num_steps, 0.005 say. It is set after the
            calibration on up to 20 / exit_loss validation images, without their labels. Left out: all images take all
            steps.
        analysis: Whether the evaluation also counts synaptic operations (energy) and finds which sites lose the
            accuracy, on some 1,000 and 128 of its images.
    """

    enabled: bool = True
    batch_size: int = 128
    output_dir: str | None = None
    overwrite: bool = False
    network: str | None = None
    trial: bool = True
    exit_loss: float | None = None
    analysis: bool = True

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: One is out of range.
        """
        ConversionOptions.__post_init__(self)
        CalibrationOptions.__post_init__(self)
        SimulationOptions.__post_init__(self)
        self._at_least_one("batch_size")
        if self.exit_loss is not None and self.schedule == "accumulate":
            raise ValueError("exit_loss needs the schedule 'stream': by 'accumulate' there is one answer, at the end.")
        if self.exit_loss is not None and not 0 < self.exit_loss < 1:
            raise ValueError(
                f"exit_loss must lie in (0, 1), got {self.exit_loss}: 0.005 is half a percent of the decisions."
            )
        self.check_horizon(self.prediction_steps)


def _check_threshold(threshold: str | float) -> str | float:
    """Return `threshold` if it names a method, a percentile as a number.

    Raises:
        ValueError: It does not.
    """
    if isinstance(threshold, str) and threshold not in ("mse", "max"):
        try:
            threshold = float(threshold)
        except ValueError:
            raise ValueError(f"threshold must be 'mse', 'max' or a percentile, got {threshold!r}.") from None
    if isinstance(threshold, str):
        return threshold
    if 0 < threshold <= 1:
        raise ValueError(
            f"threshold is a percentile in (1, 100], got {threshold}: for the largest {100 * (1 - threshold):g} % to "
            f"be cut off, write {100 * threshold:g}."
        )
    if not 1 < threshold <= 100:
        raise ValueError(f"A percentile threshold must lie in (1, 100], got {threshold}.")
    return threshold
