"""Integrate-and-fire neuron with reset by subtraction and a bias that depends on the timestep.

u[t] = v[t−1] + x[t] + b[t],  s[t] = 1 if u[t] ≥ θ else 0,  v[t] = u[t] − θ·s[t],  output θ·s[t]
(Wu et al., "FTBC: Forward Temporal Bias Correction for optimizing ANN-SNN conversion", ECCV 2024, eq. 1-3 with the
bias of section 4 added to the current).
"""

import torch
from torch import Tensor

_SLICE = 2**17  # elements for each thread


def per_channel(values: Tensor, ndim: int, channel_dim: int) -> Tensor:
    """View `values` (..., C) so that C broadcasts along `channel_dim` of a tensor with `ndim` dimensions.

    Leading dimensions of `values` stay in front: (T, C) becomes (T, 1, C, 1, 1) for (B, C, H, W) and channel_dim 1.
    """
    shape = [1] * ndim
    shape[channel_dim] = values.shape[-1]
    return values.reshape(*values.shape[:-1], *shape)


def fire_(membrane: Tensor, threshold: Tensor, out: Tensor) -> Tensor:
    """Fire and reset by subtraction, in place.

    Args:
        membrane: u[t], (B, C, ...), in activation units; becomes v[t].
        threshold: θ, broadcastable to `membrane`.
        out: (B, C, ...), becomes θ·s[t].

    Returns:
        `out`.
    """
    # The comparison writes 0 and 1 in the dtype of `out`: multiplying a mask of booleans took five times as long.
    torch.ge(membrane, threshold, out=out)
    membrane.sub_(out.mul_(threshold))
    return out


def integrate_and_fire_(
    current: Tensor, membrane: Tensor, threshold: Tensor, bias: Tensor | None, out: Tensor
) -> Tensor:
    """Run the neuron over K timesteps.

    Args:
        current: x, (K, B, C, ...), in activation units.
        membrane: v before the first of these steps, (B, C, ...); becomes v after the last one.
        threshold: θ, broadcastable to (B, C, ...).
        bias: b, (K, 1, C, 1, ...), or None for no bias.
        out: (K, B, C, ...), becomes θ·s. May be `current` itself, which it then overwrites.

    Returns:
        `out`.
    """
    for rows in batch_slices(membrane):
        potential = membrane[rows]
        for step in range(current.shape[0]):
            potential.add_(current[step, rows])
            if bias is not None:
                potential.add_(bias[step])
            fire_(potential, threshold, out[step, rows])
    return out


def batch_slices(values: Tensor) -> list[slice]:
    """Cut the batch of `values` (B, ...) into slices that stay in a processor's cache through several operations."""
    rows = len(values)
    if values.device.type == "cpu":
        rows = max(1, _SLICE * torch.get_num_threads() * rows // max(1, values.numel()))
    return [slice(start, start + rows) for start in range(0, len(values), max(1, rows))]
