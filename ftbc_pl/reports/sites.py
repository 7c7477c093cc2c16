"""What tables and figures show of the sites: the only place of the reports that reads a site's attributes."""

from collections.abc import Sequence

from ftbc_pl.reports.results import RunResults
from ftbc_pl.sites import SiteRecord

# Blanks that do not break a line: a shape in two lines is hard to read.
NOTHING, TIMES = "–", "\u00a0×\u00a0"


def site_cells(site: SiteRecord) -> dict[str, str]:
    """One row of the table of sites: text by title of the column."""
    threshold, bias = site.threshold, site.temporal_bias_rms
    spread = NOTHING
    if threshold is not None:
        values = [f"{value:.3g}" for value in (threshold.min, threshold.mean, threshold.max)]
        spread = values[0] if len(set(values)) == 1 else " / ".join(values)
    bound = "" if site.upper is None else f" ≤ {site.upper:g}"
    return {
        "site": site.name,
        "kind": site.kind,
        "operation": site.operation or NOTHING,
        "origin": (f"{site.origin}, {site.source}" if site.source else site.origin) or NOTHING,
        "shape": TIMES.join(map(str, site.shape)),
        "threshold": spread,
        "from": site.threshold_from + bound or NOTHING,
        "folded": f"{site.folded:,}" if site.folded else NOTHING,
        "firing rate": NOTHING if site.firing_rate is None else f"{site.firing_rate:.3f}",
        "bias at t\u00a0=\u00a01": f"{bias[0]:.3f}" if bias else NOTHING,
        "bias at t\u00a0=\u00a0T": f"{bias[-1]:.3f}" if bias else NOTHING,
    }


def bias_by_site(results: RunResults) -> list[tuple[str, Sequence[float]]]:
    """Name and RMS of b[t] / threshold at t = 1..T of each calibrated site, in forward order."""
    return [(site.name, site.temporal_bias_rms) for site in results.sites if site.temporal_bias_rms]


def rate_by_site(results: RunResults) -> list[tuple[str, float]]:
    """Name and spikes per neuron and step of each site that has a firing rate, in forward order."""
    return [(site.name, site.firing_rate) for site in results.sites if site.firing_rate is not None]
