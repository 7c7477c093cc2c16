"""What a conversion made of each site of a network."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ftbc_pl.conversion.calls import Call
from ftbc_pl.conversion.operations import Kind


@dataclass(frozen=True)
class ConvertedSite:
    """One site.

    Attributes:
        name: Name of the site: the module path, with #2, #3 … for further calls inside the same module.
        kind: ``spiking`` or ``rate-exact``.
        operation: The ANN's operation, such as ``relu``.
        origin: ``module``, ``shared module`` (called several times) or ``function``.
        source: ``file:line`` of the call.
        shape: Shape of the input of one step, without the batch.
        channels: Entries of the temporal bias a step; 0 if the site does not spike.
        threshold: Where θ comes from: learned, mse, max or a percentile; empty if the site does not spike.
        upper: Upper bound of the ANN's activation, which θ never exceeds; None if it has none.
        folded: Numbers (scale, shift, mean, variance) of normalisation layers folded into the layers before the site.
    """

    name: str
    kind: str
    operation: str
    origin: str
    source: str
    shape: tuple[int, ...]
    channels: int
    threshold: str
    upper: float | None
    folded: int


@dataclass(frozen=True)
class ConversionReport:
    """All sites of a spiking network in forward order, and totals.

    Attributes:
        sites: One entry a site.
        folded_layers: Normalisation layers that were folded.
        folded: Numbers in them.
    """

    sites: tuple[ConvertedSite, ...]
    folded_layers: int
    folded: int

    @classmethod
    def of(cls, calls: Sequence[Call], options: Mapping[str, Any], folded: Mapping[str, int]) -> "ConversionReport":
        """Describe a conversion.

        Args:
            calls: The sites.
            options: The arguments of the conversion.
            folded: Numbers folded, by path of the layer.
        """
        sites = tuple(_describe(call, options["threshold"], folded) for call in calls)
        return cls(sites, len(folded), sum(folded.values()))

    @property
    def spiking(self) -> int:
        """Sites that spike."""
        return sum(site.kind == Kind.SPIKING.value for site in self.sites)

    @property
    def rate_exact(self) -> int:
        """Sites that run without spikes."""
        return len(self.sites) - self.spiking

    @property
    def neurons(self) -> int:
        """Neurons an image."""
        return sum(math.prod(site.shape) for site in self.sites if site.kind == Kind.SPIKING.value)

    def totals(self) -> dict[str, Any]:
        """Plain values for JSON: counts of sites, neurons and folded layers, and sites by operation."""
        return {
            "spiking": self.spiking,
            "rate_exact": self.rate_exact,
            "neurons": self.neurons,
            "folded_layers": self.folded_layers,
            "folded": self.folded,
            "operations": {kind.value: self._operations(kind) for kind in (Kind.SPIKING, Kind.RATE_EXACT)},
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"totals": self.totals(), "sites": [asdict(site) for site in self.sites]}

    def __str__(self) -> str:
        """A table of the sites, and one line of totals."""
        rows = [("site", "kind", "operation", "input", "threshold", "origin", "folded")]
        for site in self.sites:
            bound = "" if site.upper is None else f" ≤ {site.upper:g}"
            shape = "×".join(map(str, site.shape))
            folded = f"{site.folded:,}" if site.folded else ""
            rows.append((site.name, site.kind, site.operation, shape, site.threshold + bound, site.origin, folded))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        rows.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, self.summary()])

    def summary(self) -> str:
        """One line of totals."""
        parts = []
        for kind, count in ((Kind.SPIKING, self.spiking), (Kind.RATE_EXACT, self.rate_exact)):
            operations = ", ".join(f"{name} {number}" for name, number in self._operations(kind).items())
            parts.append(f"{count} {kind.value}" + (f" ({operations})" if operations else ""))
        layers = "layer" if self.folded_layers == 1 else "layers"
        folded = (
            f"; {self.folded_layers} normalisation {layers} folded ({self.folded:,} numbers)" if self.folded else ""
        )
        return f"{len(self.sites)} sites: {', '.join(parts)}; {self.neurons:,} neurons an image{folded}."

    def _operations(self, kind: Kind) -> dict[str, int]:
        return dict(Counter(site.operation for site in self.sites if site.kind == kind.value))


def _describe(call: Call, threshold: str | float, folded: Mapping[str, int]) -> ConvertedSite:
    spiking = call.kind is Kind.SPIKING
    measured = threshold if isinstance(threshold, str) else f"percentile {threshold:g}"
    return ConvertedSite(
        name=call.name,
        kind=call.kind.value,
        operation=call.operation,
        origin=call.origin.value,
        source=call.source,
        shape=call.shape,
        channels=call.shape[call.channel_dim - 1] if spiking else 0,
        threshold=("learned" if call.threshold is not None else measured) if spiking else "",
        upper=call.upper,
        folded=sum(folded.get(path, 0) for path in call.layers),
    )
