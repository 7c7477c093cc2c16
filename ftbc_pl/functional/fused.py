"""Several steps of a neuron as one kernel made by `torch.compile`: one read of the current, one write of the spikes.

The same operations in the same order as in `ftbc_pl.functional.neuron`, with the same result to the bit.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ftbc_pl.functional.neuron import integrate_and_fire_, per_channel

_CPU_STEPS, _GPU_STEPS = 4, 8  # in one kernel; more make it slower on a CPU


def fused_integrate_and_fire_(
    current: Tensor, membrane: Tensor, threshold: Tensor, bias: Tensor, out: Tensor, channel_dim: int
) -> Tensor:
    """Run the neuron over K timesteps in compiled code.

    Args:
        current: x, (K, B, C, ...), in activation units.
        membrane: v before the first of these steps, (B, C, ...); becomes v after the last one.
        threshold: θ, (C,).
        bias: b, (K, C).
        out: (K, B, C, ...), becomes θ·s. May be the memory of `current`, which it then overwrites.
        channel_dim: Dimension of C in `membrane`.

    Returns:
        `out`.
    """
    view = _order_of_memory(membrane, channel_dim)
    if view is None or not current[0].stride() == membrane.stride() == out[0].stride():
        theta, b = (per_channel(values, membrane.ndim, channel_dim) for values in (threshold, bias))
        return integrate_and_fire_(current, membrane, theta, b, out)
    # `data` is no view: torch.compile would make a kernel for each shape of what a view was taken from.
    theta, v = threshold.unsqueeze(-1).data, view(membrane.unsqueeze(0))[0].data
    currents, biases = [x.data for x in view(current)], [b.data for b in bias.unsqueeze(-1)]
    outs = currents if out.data_ptr() == current.data_ptr() else [spikes.data for spikes in view(out)]
    steps = _CPU_STEPS if current.device.type == "cpu" else _GPU_STEPS
    for start in range(0, len(currents), steps):
        chunk = slice(start, start + steps)
        _compiled()(currents[chunk], v, theta, biases[chunk], outs[chunk])
    return out


def check_compiler(device: torch.device) -> None:
    """Compile the kernel for a tiny input, to find out before a training whether that works.

    Raises:
        RuntimeError: It does not.
    """
    current, membrane = torch.zeros(1, 2, 2, 2, device=device), torch.zeros(2, 2, 2, device=device)
    threshold, bias = torch.ones(2, device=device), torch.zeros(1, 2, device=device)
    try:
        fused_integrate_and_fire_(current, membrane, threshold, bias, torch.empty_like(current), 1)
    except RuntimeError as error:
        said = str(getattr(error, "inner_exception", error)).strip()
        raise RuntimeError(
            "torch.compile failed for the neurons: install what it needs (a C++ compiler such as g++ for a CPU, Triton "
            f"for a GPU), or don't compile them. It said: {said}"
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


def _loop(
    currents: list[Tensor], membrane: Tensor, threshold: Tensor, biases: list[Tensor], outs: list[Tensor]
) -> None:
    v = membrane
    for current, bias, out in zip(currents, biases, outs, strict=True):
        u = v + current + bias
        spikes = torch.where(u >= threshold, threshold, 0.0)
        out.copy_(spikes)
        v = u - spikes
    membrane.copy_(v)


@cache
def _compiled() -> Callable[..., None]:
    # Rounded to 16 bits after each operation, as without compilation, so that chunks of time don't change the result.
    # A kernel for each dtype and number of steps, with and without neurons in space, one image, one channel, in place.
    settings: dict[str, Any] = {"dynamic": True, "options": {"emulate_precision_casts": True}}
    if "recompile_limit" in inspect.signature(torch.compile).parameters:  # not in PyTorch 2.11
        settings["recompile_limit"] = 64
    return torch.compile(_loop, **settings)  # type: ignore[no-any-return]
