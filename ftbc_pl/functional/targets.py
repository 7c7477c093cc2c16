"""What the ANN does at a site: the expectation that the spikes of every step should meet.

Wu et al., "FTBC: Forward Temporal Bias Correction for optimizing ANN-SNN conversion" (ECCV 2024), proposition 1: with a
continuous membrane density there is exactly one bias with which the expected output of a step equals the expected
activation of the ANN. Expectations are over the batch, the space and all processes.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ftbc_pl.functional.merge import ALONE, Merge


@dataclass(frozen=True)
class Cut:
    """Where `exact` cuts the membranes of a site, the same at every step; (C,), or (1,) for the whole layer.

    Attributes:
        rank: Rank of the largest membrane that should not fire, int64; of the smallest one where all should.
        edge: Whether no neuron should fire, or all.
        margin: Distance to keep there, for a membrane of size 1: negative where none should fire, 0 inside.
        lowest: Least bias: 0 where all should fire.
        highest: Largest bias: 0 where none should.
    """

    rank: Tensor
    edge: Tensor
    margin: Tensor
    lowest: Tensor
    highest: Tensor

    @classmethod
    def of(cls, fraction: Tensor, count: int, dtype: torch.dtype) -> "Cut":
        """Cut so that a fraction (C,) of `count` membranes of `dtype` fires."""
        firing = (fraction * count).round().to(torch.int64)
        none, every = firing == 0, firing == count
        infinite = fraction.new_full(fraction.shape, torch.inf, dtype=dtype)
        # A distance that survives rounding when it is added.
        margin = (every.to(dtype) - none.to(dtype)) * (4 * torch.finfo(dtype).eps)
        lowest, highest = (-infinite).masked_fill(every, 0), infinite.masked_fill(none, 0)
        # NaN in a fraction makes no rank that is out of range, and is found later.
        return cls(firing.clamp(0, count - 1), none | every, margin, lowest, highest)


@dataclass(frozen=True)
class Target:
    """What the ANN does at a site.

    Attributes:
        activation: E[a], (C,) float64, in activation units.
        fraction: E[a]/θ clipped to [0, 1], (C,) float64: the fraction of neurons that should fire.
        count: Number of values per channel, over all parts.
        levels: Membranes of each value: T for neurons that fire whole trains, which are T decisions.
    """

    activation: Tensor
    fraction: Tensor
    count: int
    levels: int = 1
    _cuts: dict[tuple[str, torch.dtype], Cut] = field(default_factory=dict, repr=False, compare=False)

    def cut(self, granularity: str, dtype: torch.dtype) -> Cut:
        """Where to cut membranes of `dtype` for each `channel` or for the whole `layer`, worked out once."""
        if (granularity, dtype) not in self._cuts:
            fraction, count = self.fraction, self.count * self.levels
            if granularity == "layer":
                fraction, count = fraction.mean().unsqueeze(0), count * len(fraction)
            self._cuts[granularity, dtype] = Cut.of(fraction, count, dtype)
        return self._cuts[granularity, dtype]

    @classmethod
    def of(
        cls, activation: Tensor, threshold: Tensor, channel_dim: int, merge: Merge = ALONE, levels: int = 1
    ) -> "Target":
        """Measure the target.

        Args:
            activation: a, (B, C, ...).
            threshold: θ, (C,).
            channel_dim: Dimension of C in `activation`.
            merge: Adds up the sums of all parts.
            levels: Membranes of each value.
        """
        others = [dim for dim in range(activation.ndim) if dim != channel_dim]
        sums, count = activation.sum(others, dtype=torch.float64), activation.numel() // activation.shape[channel_dim]
        size = sums.new_full((1,), count)  # on the device: division by a number would be a product there, and round
        if merge is not ALONE:
            totals = merge.add(torch.cat([sums, size]))
            sums, size, count = totals[:-1], totals[-1:], int(totals[-1].item())
        mean = sums / size
        return cls(mean, (mean / threshold.double()).clamp(0, 1), count, levels)
