"""What a calibration did, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from statistics import median
from typing import Any, Self

from ftbc_pl.sites import SiteRecord, waiting

# What a layer was fitted to, where that is no site.
OWN_OUTPUT = "own output"
SEES_IMAGE = "nothing: its input is the image"
NO_LAYER = "nothing: a product that is no layer"
_PARTS = ("sites", "weights", "latency", "early_exit")
BATCH_INSIDE = "nothing: the batch is not its first dimension"


@dataclass(frozen=True, kw_only=True)
class WeightChange:
    """What the fit of the weights did to one layer, or to a shortcut, which has a gain for each channel.

    Attributes:
        layer: Module that calls it.
        target: Site whose input it was fitted to, or that it was fitted to its own output or to nothing.
        change: Norm of the change over the norm of the weights; 0: as they were; None: they were 0.
        penalty: λ of the fit; None: no λ was better than no change.
        left: Part of the squared error of the running means of the input that is left, on the images fitted to.
        left_held_out: The same by a fit to four fifths of the images, on the last one.
    """

    layer: str
    target: str
    change: float | None = 0.0
    penalty: float | None = None
    left: float = 1.0
    left_held_out: float = 1.0


@dataclass(frozen=True)
class CalibrationReport:
    """What a calibration did and cost.

    Attributes:
        solver: Rule that chose the bias.
        granularity: `channel` or `layer`.
        images: Different images used, over all processes.
        forward_passes: Forwards of the network that were counted, one for all T timesteps of one batch.
        seconds: Wall-clock time.
        sites: The records of the spiking sites, in forward order, with what the calibration found there.
        readout_weights: How much the output of each step counts in the prediction at T.
        weights: What the fit of the weights did to each layer; empty where they were kept.
        latency: Timesteps until the answer, where the schedule is `accumulate`; None: T.
        early_exit: How early exit was set afterwards, as plain values; None where it was not.
    """

    solver: str
    granularity: str
    images: int
    forward_passes: int
    seconds: float
    sites: tuple[SiteRecord, ...]
    readout_weights: tuple[float, ...]
    weights: tuple[WeightChange, ...] = ()
    latency: int | None = None
    early_exit: dict[str, Any] | None = None

    @property
    def dead_channels(self) -> int:
        """Channels of all sites that never fire in the ANN."""
        return sum(site.dead_channels for site in self.sites)

    @property
    def saturated_channels(self) -> int:
        """Channels of all sites that are at or above θ throughout in the ANN."""
        return sum(site.saturated_channels for site in self.sites)

    def first_steps(self, num_steps: int, readout_weights: Sequence[float]) -> Self:
        """This report for the network's first timesteps.

        Args:
            num_steps: How many.
            readout_weights: How much the output of each of these counts in the prediction at the last of them.
        """
        sites = tuple(replace(one, temporal_bias_rms=one.temporal_bias_rms[:num_steps]) for one in self.sites)
        return replace(self, sites=sites, readout_weights=tuple(readout_weights))

    def cost(self) -> dict[str, Any]:
        """Plain values for JSON: everything but the sites, the layers, early exit and what the schedule costs."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _PARTS}
        return own | {
            "readout_weights": list(self.readout_weights),
            "dead_channels": self.dead_channels,
            "saturated_channels": self.saturated_channels,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        lists = {"sites": [asdict(site) for site in self.sites], "weights": [asdict(one) for one in self.weights]}
        known = {name: found for name, found in lists.items() if found or name == "sites"}
        alone = {"latency": self.latency, "early_exit": self.early_exit}
        return self.cost() | known | {name: value for name, value in alone.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        own = {field.name: values[field.name] for field in fields(cls) if field.name not in _PARTS}
        own["latency"] = values.get("latency")
        sites = tuple(SiteRecord.from_dict(site) for site in values["sites"])
        weights = tuple(WeightChange(**one) for one in values.get("weights", ()))
        exits = values.get("early_exit")
        early_exit = None if exits is None else dict(exits)
        own |= {"sites": sites, "readout_weights": tuple(values["readout_weights"])}
        return cls(**own, weights=weights, early_exit=early_exit)

    def __str__(self) -> str:
        """One line."""
        passes = "forward pass" if self.forward_passes == 1 else "forward passes"
        return (
            f"Calibrated {len(self.sites)} sites ({self.solver}, {self.granularity}) on {self.images} images in "
            f"{self.forward_passes} {passes}, {self.seconds:.1f} s; {self.dead_channels} dead and "
            f"{self.saturated_channels} saturated channels.{self._weights()}{self._latency()}"
        )

    def _latency(self) -> str:
        """A sentence on what the schedule costs."""
        return "" if self.latency is None else f" {waiting(self.latency).capitalize()}."

    def _weights(self) -> str:
        """A sentence on the weights."""
        if not self.weights:
            return ""
        changed = [one for one in self.weights if one.change != 0]
        sizes = [one.change for one in changed if one.change is not None]
        # Not the mean: the change of a layer whose weights are almost 0 is any number.
        size = f", by {100 * median(sizes):.2g} % (median)" if sizes else ""
        own = sum(one.target == OWN_OUTPUT for one in self.weights)
        return (
            f" Weights of {len(changed)} of {len(self.weights)} layers and shortcuts changed{size}; fitted to "
            f"their own output: {own}."
        )
