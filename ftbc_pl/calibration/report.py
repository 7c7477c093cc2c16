"""What a calibration did, as plain values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ftbc_pl.sites import SiteRecord


@dataclass(frozen=True)
class CalibrationReport:
    """What a calibration did and cost.

    Attributes:
        solver: Rule that chose the bias.
        granularity: ``channel`` or ``layer``.
        images: Different images used, over all processes.
        forward_passes: Forwards of the network that were counted, one for all T timesteps of one batch.
        seconds: Wall-clock time.
        sites: The records of the spiking sites, in forward order, with what the calibration found there.
        readout_weights: How much the output of each step counts in the prediction at T.
    """

    solver: str
    granularity: str
    images: int
    forward_passes: int
    seconds: float
    sites: tuple[SiteRecord, ...]
    readout_weights: tuple[float, ...]

    @property
    def dead_channels(self) -> int:
        """Channels of all sites that never fire in the ANN."""
        return sum(site.dead_channels for site in self.sites)

    @property
    def saturated_channels(self) -> int:
        """Channels of all sites that are at or above θ throughout in the ANN."""
        return sum(site.saturated_channels for site in self.sites)

    def cost(self) -> dict[str, Any]:
        """Plain values for JSON: everything but the sites."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "sites"}
        return own | {
            "readout_weights": list(self.readout_weights),
            "dead_channels": self.dead_channels,
            "saturated_channels": self.saturated_channels,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self.cost() | {"sites": [asdict(site) for site in self.sites]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        own = {field.name: values[field.name] for field in fields(cls)}
        sites = tuple(SiteRecord.from_dict(site) for site in values["sites"])
        return cls(**(own | {"sites": sites, "readout_weights": tuple(values["readout_weights"])}))

    def __str__(self) -> str:
        """One line."""
        passes = "forward pass" if self.forward_passes == 1 else "forward passes"
        return (
            f"Calibrated {len(self.sites)} sites ({self.solver}, {self.granularity}) on {self.images} images in "
            f"{self.forward_passes} {passes}, {self.seconds:.1f} s; {self.dead_channels} dead and "
            f"{self.saturated_channels} saturated channels."
        )
