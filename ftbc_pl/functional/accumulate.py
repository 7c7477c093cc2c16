"""The neuron of the schedule `accumulate`: it takes the currents of all T steps, then fires its whole train.

n = clip(⌊Σ_t (x[t] + b)/θ + v0⌋, 0, T) spikes, spread evenly over the T steps: at step t it fires if
⌊t·n/T⌋ > ⌊(t − 1)·n/T⌋. Its mean output θ·n/T depends on the mean current alone, and all that follows depends on that
mean, so one value does for T steps. With T = L, v0 = ½ and b = 0 it is QCFS (Bu et al., ICLR 2022, eq. 15), to the bit.
"""

import torch
from torch import Tensor


def fire_trains_(
    current: Tensor, threshold: Tensor, bias: Tensor | None, v0: float, num_steps: int, out: Tensor
) -> Tensor:
    """Fire whole trains.

    Args:
        current: Mean of x over the T steps, (..., B, C, ...), in activation units.
        threshold: θ, broadcastable to `current`.
        bias: b, added at every step, broadcastable to `current`; None for no bias.
        v0: Membrane at the start as a fraction of θ.
        num_steps: T.
        out: Becomes the mean of θ·s over the T steps; may be `current` itself.

    Returns:
        `out`.
    """
    # The operations of QCFS in their order, so that the two round alike.
    per_theta = num_steps / threshold
    start = v0 if bias is None else v0 + bias * per_theta
    torch.mul(current, per_theta, out=out)
    return out.add_(start).floor_().clamp_(0, num_steps).mul_(threshold / num_steps)


def descending(values: Tensor, difference: Tensor, count: int) -> Tensor:
    """Copies of `values` (B, ...), each less than the one before by `difference`: (count·B, ...).

    A train of up to T spikes is T decisions: the k-th spike is fired if the sum reaches k·θ. So a neuron that fires
    trains is to a solver T neurons that fire once, whose membranes are these.
    """
    return torch.cat([values - difference * number for number in range(count)])
