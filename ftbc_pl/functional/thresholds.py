"""Firing thresholds of ReLU sites from histograms of their activations, one threshold per channel.

`mse` is the search of Li et al., "A free lunch from ANN: towards efficient, accurate spiking neural networks
calibration" (ICML 2021, section 3.2), except for less than four steps. Histograms add up over batches and processes.
"""

import torch
from torch import Tensor

BINS = 2048
_CANDIDATES = 100
FEWEST_STEPS = 4  # that the search assumes


def histogram(activation: Tensor, maximum: Tensor, channel_dim: int) -> Tensor:
    """Count activations of each channel in `BINS` equal bins of [0, max].

    Args:
        activation: a ≥ 0, (B, C, ...), in activation units.
        maximum: Largest activation of each channel, (C,); 0 for dead channels.
        channel_dim: Dimension of C in `activation`.

    Returns:
        Counts (C, BINS), int64.
    """
    channels = maximum.numel()
    values = activation.movedim(channel_dim, 0).reshape(channels, -1)
    scale = torch.where(maximum > 0, BINS / maximum, 0.0).unsqueeze(1)
    bins = (values * scale).to(torch.int64).clamp_(0, BINS - 1)
    bins += torch.arange(channels, device=bins.device).unsqueeze(1) * BINS
    return torch.bincount(bins.flatten(), minlength=channels * BINS).view(channels, BINS)


def percentile_threshold(counts: Tensor, maximum: Tensor, percentile: float) -> Tensor:
    """Smallest upper bin edge of each channel below which `percentile` % of its activations lie: (C,)."""
    cumulative = counts.cumsum(1).double()
    needed = cumulative[:, -1:] * (percentile / 100)
    index = torch.searchsorted(cumulative, needed).squeeze(1).clamp_(max=BINS - 1)
    return maximum * (index + 1) / BINS


def mse_threshold(
    counts: Tensor, maximum: Tensor, num_steps: int, v0: float, fewest_steps: int = FEWEST_STEPS
) -> Tensor:
    """Threshold of each channel with the least squared error of T-step firing on constant input.

    Minimises Σ (a − (θ/T)·clip(⌊a·T/θ + v0⌋, 0, T))² over 100 fractions of the largest activation, as if T were
    `fewest_steps` where it is less: the least error with one or two steps cuts off the large activations, which tell
    the most.

    Args:
        counts: Histogram of a, (C, BINS).
        maximum: Largest activation of each channel, (C,).
        num_steps: T.
        v0: Membrane at the start as a fraction of θ.
        fewest_steps: Least T that the search assumes.

    Returns:
        θ, (C,), in activation units.
    """
    # In units of the channel's maximum all channels share the same bin centres and candidates.
    centres = (torch.arange(BINS, device=counts.device, dtype=torch.float64) + 0.5) / BINS
    fractions = torch.arange(1, _CANDIDATES + 1, device=counts.device, dtype=torch.float64) / _CANDIDATES
    steps = max(num_steps, fewest_steps)
    scaled = centres * (steps / fractions).unsqueeze(1)
    fired = (scaled + v0).floor_().clamp_(0, steps) * (fractions / steps).unsqueeze(1)
    errors = counts.double() @ (centres - fired).square_().T
    return maximum * fractions[errors.argmin(1)].to(maximum.dtype)
