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
    """Apply the rate-exact replacement of `function` to K timesteps.

    Args:
        function: f, called once with the running means of all inputs, each (K·B, ...).
        inputs: One or several tensors (K, B, ...).
        sums: Sum of each input over the steps before these, (B, ...), or None at the start.
        total: step·f(x̄[step]), (B, ...), or None at the start.
        step: Number of timesteps already done.

    Returns:
        Outputs (K, B, ...), the new sums (those given, changed in place), the new total.
    """
    num_steps, batch = inputs[0].shape[:2]
    counts = torch.arange(step + 1, step + num_steps + 1, device=inputs[0].device, dtype=inputs[0].dtype)
    if sums is None:
        sums = tuple(torch.zeros_like(x[0]) for x in inputs)
    means = [_running_mean_(x, running, counts) for x, running in zip(inputs, sums, strict=True)]
    value = function(*(mean.flatten(0, 1) for mean in means)).unflatten(0, (num_steps, batch))
    outputs = torch.empty_like(value)
    for count, rows, output in zip(counts, value, outputs, strict=True):
        before, total = total, rows * count
        output.copy_(total) if before is None else torch.sub(total, before, out=output)
    assert total is not None
    return outputs, sums, total


def _running_mean_(x: Tensor, running: Tensor, counts: Tensor) -> Tensor:
    # One step after the other, so that rounding does not depend on how the steps are cut into chunks; in the memory
    # format of x, which a cumulative sum would lose.
    means = torch.empty_like(x)
    for count, rows, mean in zip(counts, x, means, strict=True):
        torch.div(running.add_(rows), count, out=mean)
    return means
