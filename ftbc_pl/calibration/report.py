"""What a calibration did, as plain values."""

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class SiteReport:
    """One calibrated site.

    Attributes:
        name: Name of the site.
        threshold: Smallest, mean and largest θ of its channels, in activation units.
        firing_rate: Spikes a neuron and step after correction, on the calibration images.
        temporal_bias_rms: Root mean square of b[t]/θ over the channels, one number a step.
        dead_channels: Channels that never fire in the ANN.
        saturated_channels: Channels whose mean in the ANN is at or above θ, in every batch.
    """

    name: str
    threshold: tuple[float, float, float]
    firing_rate: float
    temporal_bias_rms: tuple[float, ...]
    dead_channels: int
    saturated_channels: int

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SiteReport":
        """Read what ``dataclasses.asdict`` and JSON made of a report."""
        low, mean, high = values["threshold"]
        rms = tuple(values["temporal_bias_rms"])
        return cls(**(values | {"threshold": (low, mean, high), "temporal_bias_rms": rms}))


@dataclass(frozen=True)
class CalibrationReport:
    """What a calibration did and cost.

    Attributes:
        solver: Rule that chose the bias.
        granularity: ``channel`` or ``layer``.
        images: Different images used, over all processes.
        forward_passes: Forwards of the network that were counted, one for all T timesteps of one batch.
        seconds: Wall-clock time.
        sites: One report a spiking site, in forward order.
        readout_weights: How much the output of each step counts in the prediction at T.
    """

    solver: str
    granularity: str
    images: int
    forward_passes: int
    seconds: float
    sites: tuple[SiteReport, ...]
    readout_weights: tuple[float, ...]

    @property
    def dead_channels(self) -> int:
        """Channels of all sites that never fire in the ANN."""
        return sum(site.dead_channels for site in self.sites)

    @property
    def saturated_channels(self) -> int:
        """Channels of all sites that are at or above θ throughout in the ANN."""
        return sum(site.saturated_channels for site in self.sites)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        totals = {"dead_channels": self.dead_channels, "saturated_channels": self.saturated_channels}
        return asdict(self) | totals

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "CalibrationReport":
        """The inverse of :meth:`to_dict`."""
        names = {field.name for field in fields(cls)}
        sites = tuple(SiteReport.from_dict(site) for site in values["sites"])
        plain = {k: v for k, v in values.items() if k in names - {"sites", "readout_weights"}}
        return cls(**plain, sites=sites, readout_weights=tuple(values["readout_weights"]))

    def __str__(self) -> str:
        """One line."""
        passes = "forward pass" if self.forward_passes == 1 else "forward passes"
        return (
            f"Calibrated {len(self.sites)} sites ({self.solver}, {self.granularity}) on {self.images} images in "
            f"{self.forward_passes} {passes}, {self.seconds:.1f} s; {self.dead_channels} dead and "
            f"{self.saturated_channels} saturated channels."
        )
