"""Rate-exact replacement of a stateless function that is neither linear nor an activation.

y[t] = t·f(x̄[t]) − (t−1)·f(x̄[t−1]) with x̄[t] the mean of the inputs up to t: the running mean of y is then f of the
running mean of x.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def temporal_difference(
    function: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    sums: tuple[Tensor, ...] | None,
    total: Tensor | None,
    step: int,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Apply the rate-exact replacement of ``function`` to K timesteps.

    Args:
        function: f, called once with the running means of all inputs, each (K·B, ...).
        inputs: One or several tensors (K, B, ...).
        sums: Sum of each input over the steps before these, (B, ...), or None at the start.
        total: step·f(x̄[step]), (B, ...), or None at the start.
        step: Number of timesteps already done.

    Returns:
        Outputs (K, B, ...), the new sums, the new total.
    """
    num_steps, batch = inputs[0].shape[:2]
    steps = torch.arange(step + 1, step + num_steps + 1, device=inputs[0].device)
    running_sums = []
    for index, x in enumerate(inputs):
        running = x.cumsum(0)
        if sums is not None:
            running += sums[index]
        running_sums.append(running)
    means = [running / _along_time(steps, running) for running in running_sums]
    value = function(*(mean.flatten(0, 1) for mean in means)).unflatten(0, (num_steps, batch))
    totals = value * _along_time(steps, value)
    before = torch.zeros_like(totals[0]) if total is None else total
    outputs = torch.diff(totals, dim=0, prepend=before.unsqueeze(0))
    # Copies, so that the K-step tensors are freed.
    return outputs, tuple(running[-1].clone() for running in running_sums), totals[-1].clone()


def _along_time(steps: Tensor, like: Tensor) -> Tensor:
    return steps.to(like.dtype).view(-1, *[1] * (like.ndim - 1))
