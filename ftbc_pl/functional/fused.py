"""The neuron's time loop as one kernel made by ``torch.compile``: one read of the current, one write of the spikes.

The same operations in the same order as in :mod:`ftbc_pl.functional.neuron`, with the same result to the bit.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ftbc_pl.functional.neuron import integrate_and_fire_, per_channel

_CPU_STEPS = 1  # at once: a processor goes through memory once a step in any case, and best in one run


def fused_integrate_and_fire_(
    current: Tensor, membrane: Tensor, threshold: Tensor, bias: Tensor, out: Tensor, channel_dim: int
) -> Tensor:
    """Run the neuron over K timesteps in compiled code.

    Args:
        current: x, (K, B, C, ...), in activation units.
        membrane: v before the first of these steps, (B, C, ...); becomes v after the last one.
        threshold: θ, (C,).
        bias: b, (K, C).
        out: (K, B, C, ...), becomes θ·s. May be the memory of ``current``, which it then overwrites.
        channel_dim: Dimension of C in ``membrane``.

    Returns:
        ``out``.
    """
    view = _order_of_memory(membrane, channel_dim)
    if view is None or not current[0].stride() == membrane.stride() == out[0].stride():
        theta, biases = (per_channel(values, membrane.ndim, channel_dim) for values in (threshold, bias))
        return integrate_and_fire_(current, membrane, theta, biases, out)
    currents, membranes = view(current), view(membrane.unsqueeze(0))[0]
    outs = view(out)
    inplace = out.data_ptr() == current.data_ptr()
    steps = _CPU_STEPS if current.device.type == "cpu" else len(current)
    for start in range(0, len(current), steps):
        chunk = slice(start, start + steps)
        # `data` is no view: torch.compile would make a kernel for each shape of what a view was taken from.
        x = currents[chunk].data
        spikes = x if inplace else outs[chunk].data
        _compiled()(x, membranes.data, threshold.unsqueeze(-1).data, bias[chunk].unsqueeze(-1).data, spikes)
    return out


def check_compiler(device: torch.device) -> None:
    """Compile the kernel for a tiny input, to find out before a training whether that works.

    Raises:
        RuntimeError: It does not.
    """
    current = torch.zeros(1, 2, 2, 2, device=device)
    try:
        fused_integrate_and_fire_(current, current[0].clone(), current[0, 0, 0], current[0, 0], current.clone(), 1)
    except RuntimeError as error:
        raise RuntimeError(
            "torch.compile failed for the neurons: install what it needs (a C++ compiler such as g++ for a CPU, Triton "
            f"for a GPU), or don't compile them. It said: {str(error).splitlines()[0]}"
        ) from error


def _order_of_memory(membrane: Tensor, channel_dim: int) -> Callable[[Tensor], Tensor] | None:
    """How to view (K, B, C, ...) as (K, P, C, S) without a copy, or None where channels are neither first nor last."""
    channels = membrane.shape[channel_dim]
    before = membrane.shape[:channel_dim].numel()
    if membrane.is_contiguous():
        after = membrane.shape[channel_dim + 1 :].numel()
        return lambda x: x.view(len(x), before, channels, after)
    if membrane.movedim(channel_dim, -1).is_contiguous():
        return lambda x: x.movedim(channel_dim + 1, -1).view(len(x), membrane.numel() // channels, channels, 1)
    return None


def _loop(current: Tensor, membrane: Tensor, threshold: Tensor, bias: Tensor, out: Tensor) -> None:
    v = membrane
    for step in range(len(current)):
        u = v + current[step] + bias[step]
        spikes = torch.where(u >= threshold, threshold, 0.0)
        out[step].copy_(spikes)
        v = u - spikes
    membrane.copy_(v)


@cache
def _compiled() -> Callable[..., None]:
    # Rounded to 16 bits after each operation, as without compilation, so that chunks of time don't change the result.
    # A handful of kernels for each dtype: with and without neurons in space, for one image, one channel, in place.
    options: dict[str, Any] = {"emulate_precision_casts": True}
    return torch.compile(_loop, dynamic=True, options=options, recompile_limit=64)  # type: ignore[call-overload]
