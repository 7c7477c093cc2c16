"""The one record of a site, filled in from the trace to the report, and what a conversion reports of all sites."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from torch import Tensor

from ftbc_pl.tables import text_table

SPIKING, RATE_EXACT = "spiking", "rate-exact"


def waiting(latency: int) -> str:
    """What the schedule `accumulate` costs, in words."""
    return f"schedule accumulate: the answer takes {latency:,} timesteps"


@dataclass(frozen=True)
class Spread:
    """Smallest, mean and largest of some values, such as the thresholds of a site's channels."""

    min: float
    mean: float
    max: float

    @classmethod
    def of(cls, values: Tensor) -> Self:
        """Sum up a tensor."""
        return cls(values.min().item(), values.mean().item(), values.max().item())


@dataclass(frozen=True, kw_only=True)
class SiteRecord:
    """One site, as plain values: what the trace found, what the conversion made of it, what the calibration did there.

    Attributes:
        name: Unique name: the module path, with #2, #3 … for further calls inside the same module.
        kind: `spiking` or `rate-exact`.
        operation: The ANN's operation, such as `relu`.
        origin: What called it: `module`, `shared module` (one that is called several times) or `function`.
        source: `file:line` of the call.
        shape: Shape of its first input at one step, without the batch.
        rows: How many of these an image takes: 1, or the number of its tokens where the network makes rows of them.
        channels: Entries of the temporal bias per step; 0 if the site does not spike.
        upper: Upper bound of the ANN's activation, which θ never exceeds; None if it has none.
        threshold_from: Where θ comes from: learned, mse, max or a percentile; empty if the site does not spike.
        folded: Numbers (scale, shift, mean, variance) of normalisation layers folded into the layers before the site.
        threshold: Smallest, mean and largest θ of its channels, in activation units; None if the site does not spike.
        firing_rate: Spikes per neuron and step after correction, on the calibration images; None if not calibrated.
        temporal_bias_rms: Root mean square of b[t]/θ over the channels, one number per step; empty if not calibrated.
        dead_channels: Channels that never fire in the ANN.
        saturated_channels: Channels whose mean in the ANN is at or above θ, in every batch.
    """

    name: str
    kind: str = SPIKING
    shape: tuple[int, ...] = ()
    rows: int = 1
    operation: str = ""
    origin: str = ""
    source: str = ""
    channels: int = 0
    upper: float | None = None
    threshold_from: str = ""
    folded: int = 0
    threshold: Spread | None = None
    firing_rate: float | None = None
    temporal_bias_rms: tuple[float, ...] = ()
    dead_channels: int = 0
    saturated_channels: int = 0

    @property
    def size(self) -> int:
        """Numbers per image: the neurons of a spiking site."""
        return self.rows * math.prod(self.shape)

    def calibrated_as(self, other: "SiteRecord | None") -> "SiteRecord":
        """This record with what a calibration found, as `other` tells it; as it is where that is None."""
        if other is None:
            return self
        return replace(
            self,
            firing_rate=other.firing_rate,
            temporal_bias_rms=other.temporal_bias_rms,
            dead_channels=other.dead_channels,
            saturated_channels=other.saturated_channels,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` and JSON made of a record."""
        given = values.get("threshold")
        threshold = None if given is None else Spread(**given) if isinstance(given, Mapping) else Spread(*given)
        sequences = {
            "shape": tuple(values.get("shape", ())),
            "temporal_bias_rms": tuple(values.get("temporal_bias_rms", ())),
        }
        return cls(**(dict(values) | sequences | {"threshold": threshold}))


@dataclass(frozen=True)
class ConversionReport:
    """All sites of a spiking network in forward order, and totals.

    Attributes:
        sites: One record per site.
        folded_layers: Normalisation layers that were folded.
        folded: Numbers in them.
        latency: Timesteps until the answer, where the schedule is `accumulate`; None: T, as by `stream`.
    """

    sites: tuple[SiteRecord, ...]
    folded_layers: int = 0
    folded: int = 0
    latency: int | None = None

    @property
    def spiking(self) -> int:
        """Sites that spike."""
        return sum(site.kind == SPIKING for site in self.sites)

    @property
    def rate_exact(self) -> int:
        """Sites that run without spikes."""
        return len(self.sites) - self.spiking

    @property
    def neurons(self) -> int:
        """Neurons per image."""
        return sum(site.size for site in self.sites if site.kind == SPIKING)

    def totals(self) -> dict[str, Any]:
        """Plain values for JSON: counts of sites, neurons and folded layers, and sites by operation."""
        return {
            "spiking": self.spiking,
            "rate_exact": self.rate_exact,
            "neurons": self.neurons,
            "folded_layers": self.folded_layers,
            "folded": self.folded,
            "operations": {kind: self._operations(kind) for kind in (SPIKING, RATE_EXACT)},
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"totals": self.totals(), "sites": [asdict(site) for site in self.sites]}

    def __str__(self) -> str:
        """A table of the sites, and one line of totals."""
        titles = ("site", "kind", "operation", "input", "threshold", "origin", "folded")
        rows = []
        for site in self.sites:
            bound = "" if site.upper is None else f" ≤ {site.upper:g}"
            shape = "×".join(map(str, site.shape))
            folded = f"{site.folded:,}" if site.folded else ""
            rows.append((site.name, site.kind, site.operation, shape, site.threshold_from + bound, site.origin, folded))
        return text_table(titles, rows, left=titles, last=self.summary())

    def summary(self) -> str:
        """One line of totals."""
        parts = []
        for kind, count in ((SPIKING, self.spiking), (RATE_EXACT, self.rate_exact)):
            operations = ", ".join(f"{name} {number}" for name, number in self._operations(kind).items())
            parts.append(f"{count} {kind}" + (f" ({operations})" if operations else ""))
        layers = "layer" if self.folded_layers == 1 else "layers"
        folded = (
            f"; {self.folded_layers} normalisation {layers} folded ({self.folded:,} numbers)" if self.folded else ""
        )
        waits = "" if self.latency is None else f"; {waiting(self.latency)}"
        return f"{len(self.sites)} sites: {', '.join(parts)}; {self.neurons:,} neurons per image{folded}{waits}."

    def _operations(self, kind: str) -> dict[str, int]:
        return dict(Counter(site.operation for site in self.sites if site.kind == kind))
