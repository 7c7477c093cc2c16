"""Modules: the trainable activations and the two kinds of site of a spiking network. State and buffers only; the
dynamics are in :mod:`ftbc_pl.functional`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ftbc_pl.functional import kernels
from ftbc_pl.functional.fused import fused_integrate_and_fire_
from ftbc_pl.functional.neuron import fire_, integrate_and_fire_, per_channel
from ftbc_pl.functional.qcfs import qcfs
from ftbc_pl.functional.relu import clipped_relu
from ftbc_pl.functional.temporal_difference import temporal_difference


class QCFS(nn.Module):
    """Quantisation-clip-floor-shift activation with one learnable threshold (Bu et al., ICLR 2022, eq. 15)."""

    def __init__(self, levels: int, threshold: float = 8.0) -> None:
        """Create the activation.

        Args:
            levels: Quantisation levels L.
            threshold: Initial θ, in activation units.

        Raises:
            ValueError: ``levels`` < 1 or ``threshold`` ≤ 0.
        """
        super().__init__()
        if levels < 1:
            raise ValueError(f"QCFS needs levels ≥ 1, got {levels}.")
        self.levels = levels
        self.threshold = nn.Parameter(torch.tensor(_positive(threshold)))

    def forward(self, x: Tensor) -> Tensor:
        """Quantise ``x`` of any shape."""
        return qcfs(x, self.threshold, self.levels)

    def extra_repr(self) -> str:
        """Show levels and threshold."""
        return f"levels={self.levels}, threshold={self.threshold.item():.4g}"


class ClippedReLU(nn.Module):
    """ReLU clipped at a fixed threshold, the training activation of RTS (Deng & Gu, ICLR 2021)."""

    threshold: Tensor

    def __init__(self, threshold: float = 1.0) -> None:
        """Create the activation.

        Args:
            threshold: θ, in activation units; kept in the state dict, not trained.

        Raises:
            ValueError: ``threshold`` ≤ 0.
        """
        super().__init__()
        self.register_buffer("threshold", torch.tensor(_positive(threshold)))

    def forward(self, x: Tensor) -> Tensor:
        """Clip ``x`` of any shape to [0, θ]."""
        return clipped_relu(x, self.threshold)

    def extra_repr(self) -> str:
        """Show the threshold."""
        return f"threshold={self.threshold.item():.4g}"


class SpikingNeuron(nn.Module):
    """Integrate-and-fire neurons of one site, with a temporal bias a step and channel.

    The membrane is kept between calls, so that T timesteps may be run in several chunks.

    Attributes:
        use_bias: Whether the temporal bias is added.
        fused: Whether :meth:`forward` runs compiled code where there is no kernel of its own; the result is the same.
    """

    threshold: Tensor
    temporal_bias: Tensor

    def __init__(self, num_steps: int, threshold: Tensor, v0: float = 0.5, channel_dim: int = 1) -> None:
        """Create the neurons.

        Args:
            num_steps: Number of timesteps T.
            threshold: θ, (C,), in activation units.
            v0: Membrane at the start as a fraction of θ.
            channel_dim: Dimension of C in the tensors (B, C, ...) of one step.
        """
        super().__init__()
        self.v0 = v0
        self.channel_dim = channel_dim
        self.use_bias = True
        self.fused = False
        self.register_buffer("threshold", threshold)
        self.register_buffer("temporal_bias", threshold.new_zeros(num_steps, threshold.numel()))
        self.reset()

    def reset(self) -> None:
        """Go back to the start of the simulation."""
        self.step = 0
        self.membrane: Tensor | None = None

    def theta(self, ndim: int, dtype: torch.dtype) -> Tensor:
        """θ, broadcastable to a tensor of one step with ``ndim`` dimensions."""
        return per_channel(self.threshold.to(dtype), ndim, self.channel_dim)

    def membrane_like(self, current: Tensor) -> Tensor:
        """Membrane before the next step, (B, C, ...); ``current`` is the current of one step."""
        if self.membrane is None or self.membrane.shape != current.shape:
            theta = self.theta(current.ndim, current.dtype)
            # At least 32 bits: what is rounded at the end of a chunk of time would depend on where it ends.
            dtype = torch.promote_types(current.dtype, torch.float32)
            self.membrane = torch.empty_like(current, dtype=dtype).copy_(theta * self.v0)
        return self.membrane

    def forward(self, current: Tensor, out: Tensor) -> Tensor:
        """Simulate the next K timesteps.

        Args:
            current: x, (K, B, C, ...), in activation units.
            out: (K, B, C, ...), becomes θ·s; may be ``current`` itself.

        Returns:
            ``out``.
        """
        membrane = self.membrane_like(current[0])
        steps = self.temporal_bias[self.step : self.step + len(current)].to(membrane.dtype)
        self.step += len(current)
        if kernels.available(current.device):
            from ftbc_pl.functional.kernels.neuron import integrate_and_fire_ as one_kernel  # imports Triton

            one_kernel(current, membrane, self.threshold, steps if self.use_bias else None, out, self.channel_dim)
            return out
        if self.fused:
            steps = steps if self.use_bias else torch.zeros_like(steps)
            theta = self.threshold.to(current.dtype)
            return fused_integrate_and_fire_(current, membrane, theta, steps, out, self.channel_dim)
        bias = per_channel(steps, membrane.ndim, self.channel_dim) if self.use_bias else None
        return integrate_and_fire_(current, membrane, self.theta(membrane.ndim, current.dtype), bias, out)

    def add_bias_(self, step: int) -> None:
        """Add b[step] to the present membrane."""
        assert self.membrane is not None, "membrane_like() comes first"
        bias = self.temporal_bias[step].to(self.membrane.dtype)
        self.membrane.add_(per_channel(bias, self.membrane.ndim, self.channel_dim))

    def fire_(self, out: Tensor) -> Tensor:
        """Fire one step from the present membrane, to which current and bias have been added; ``out`` becomes θ·s."""
        assert self.membrane is not None, "membrane_like() comes first"
        self.step += 1
        return fire_(self.membrane, self.theta(out.ndim, out.dtype), out)

    def extra_repr(self) -> str:
        """Show the shape of the site."""
        steps, channels = self.temporal_bias.shape
        return f"num_steps={steps}, channels={channels}, v0={self.v0:g}"


class TemporalDifference(nn.Module):
    """Rate-exact replacement of a stateless operation at one site; see :mod:`.functional.temporal_difference`."""

    def __init__(self) -> None:
        """Create the site; it has no parameters."""
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Go back to the start of the simulation."""
        self.step = 0
        self.sums: tuple[Tensor, ...] | None = None
        self.total: Tensor | None = None

    def forward(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Simulate the next K timesteps of ``function``, called with tensors (K·B, ...).

        Args:
            function: The stateless operation.
            inputs: Its inputs, (K, B, ...) each.

        Returns:
            (K, B, ...), whose running mean is the function of the running means of the inputs.
        """
        outputs, self.sums, self.total = temporal_difference(function, inputs, self.sums, self.total, self.step)
        self.step += len(inputs[0])
        return outputs


def _positive(threshold: float) -> float:
    if not threshold > 0:
        raise ValueError(f"The threshold must be a positive number in activation units, got {threshold}.")
    return float(threshold)
