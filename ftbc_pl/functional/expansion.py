"""Scale of each channel with which mean currents have the range of the ANN's.

Ridge regression shrinks what it predicts; this gives it back.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_CONSTANT = 1e-10  # values with less variance than that part of their squares are constant, but for rounding
_LARGEST = 4.0


@dataclass(frozen=True)
class Moments:
    """Sums of values of each channel and of their squares; parts add up.

    Attributes:
        count: Number of values of a channel, () float64.
        sums: (C,) float64.
        squares: (C,) float64.
    """

    count: Tensor
    sums: Tensor
    squares: Tensor

    @classmethod
    def of(cls, values: Tensor, channel_dim: int = 1) -> "Moments":
        """Sum up `values` (B, C, ...)."""
        rows = values.movedim(channel_dim, 0).flatten(1).double()
        return cls(rows.new_tensor(float(rows.shape[1])), rows.sum(1), rows.square().sum(1))

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.sums + other.sums, self.squares + other.squares)

    @property
    def mean(self) -> Tensor:
        """Mean of each channel, (C,)."""
        return self.sums / self.count

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of each channel, (C,)."""
        return (self.squares / self.count - self.mean.square()).clamp(min=0).sqrt()


def expansion(target: Moments, current: Moments) -> tuple[Tensor, Tensor]:
    """Scale and shift that give mean currents the range that ridge regression has taken from them.

    γ_c = min(4, σ(z_c)/σ(x̄_c)), and the mean of γ·x̄ + shift is that of z.

    Args:
        target: Of z, the ANN's input of the site.
        current: Of x̄, the mean current with the fitted weights.

    Returns:
        γ (C,), 1 where either is constant, and the shift (C,).
    """
    constant = current.deviation.square() * current.count <= _CONSTANT * current.squares
    constant |= target.deviation.square() * target.count <= _CONSTANT * target.squares
    ratio = target.deviation / torch.where(constant, 1, current.deviation)
    scale = torch.where(constant, 1, ratio.clamp(max=_LARGEST))
    return scale, target.mean - scale * current.mean
