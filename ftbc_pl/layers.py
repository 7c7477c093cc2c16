"""Modules: the trainable activations, in one table, and the two kinds of site of a spiking network. State and buffers
only; the dynamics are in `ftbc_pl.functional`.
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ftbc_pl.functional import kernels
from ftbc_pl.functional.fused import fused_integrate_and_fire_
from ftbc_pl.functional.neuron import integrate_and_fire_, per_channel
from ftbc_pl.functional.qcfs import qcfs
from ftbc_pl.functional.relu import clipped_relu
from ftbc_pl.functional.temporal_difference import temporal_difference
from ftbc_pl.registry import ACTIVATIONS

# What takes the place of a threshold at or below zero: θ/L and L/θ are still numbers of 32 bits.
_SMALLEST_THRESHOLD = 1e-5
MOST_BYTES = 2**30  # of an input that a rate-exact site takes at once: it holds several copies
_log = logging.getLogger(__name__)


class Activation(nn.Module):
    """A trainable activation with one threshold, which converts into neurons; the base of all of them.

    A subclass sets the class attributes, registers itself in the table of activations, and calls its function in
    `forward`. Preparation, tracing, conversion and the task ask the table.

    Attributes:
        function: What `forward` calls with `(x, threshold, ...)`, made visible to the trace by
            `ftbc_pl.functional.traceable.traceable`.
        start: θ of a new activation where none is given, in activation units.
        learned: Whether the neurons fire at θ itself; if not, their thresholds are measured and θ is the upper bound.
        threshold: θ, a scalar in activation units; a parameter where it is trained.
    """

    function: ClassVar[Callable[..., Tensor]]
    start: ClassVar[float]
    learned: ClassVar[bool]
    threshold: Tensor

    def __init__(self, levels: int, threshold: float) -> None:
        """Create the activation.

        Args:
            levels: Quantisation levels L; activations without levels ignore it.
            threshold: Initial θ, in activation units.

        Raises:
            ValueError: `levels` < 1 or `threshold` is no positive number.
        """
        super().__init__()
        if levels < 1:
            raise ValueError(f"{type(self).__name__} needs levels ≥ 1, got {levels}.")
        if not 0 < threshold < math.inf:
            raise ValueError(f"The threshold must be a positive number in activation units, got {threshold}.")

    def keep_positive_(self) -> None:
        """Set a threshold that an optimizer's step has driven to zero or below to a small positive number.

        In place, without a word to autograd and without waiting for a GPU: a projection onto the numbers that a
        threshold may have. Below zero the activation would turn round, and its gradient drive θ away for ever. Positive
        thresholds keep their bits, NaN stays NaN.
        """
        torch.threshold_(self.threshold.data, 0.0, _SMALLEST_THRESHOLD)

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation, with a threshold that is positive in both."""
        if not self.threshold.is_meta and bool((self.threshold <= 0).any()):
            _log.warning(
                "The threshold %.4g of an activation (%s) is set to %g, since it must be positive: its site hardly "
                "passes anything on. Train with a smaller learning rate, or from a larger threshold.",
                self.threshold.detach().min().item(), type(self).__name__, _SMALLEST_THRESHOLD,
            )  # fmt: skip
        self.keep_positive_()
        return super().train(mode)

    def extra_repr(self) -> str:
        """Show the threshold."""
        return f"threshold={self.threshold.item():.4g}"


@ACTIVATIONS.register("qcfs")
class QCFS(Activation):
    """Quantisation-clip-floor-shift activation with one learnable threshold (Bu et al., ICLR 2022, eq. 15)."""

    function = staticmethod(qcfs)
    start = 8.0
    learned = True

    def __init__(self, levels: int, threshold: float = start) -> None:
        """Create the activation; arguments and errors as in `Activation`."""
        super().__init__(levels, threshold)
        self.levels = levels
        self.threshold = nn.Parameter(torch.tensor(float(threshold)))

    def forward(self, x: Tensor) -> Tensor:
        """Quantise `x` of any shape."""
        if self.training:
            self.keep_positive_()
        return qcfs(x, self.threshold, self.levels)

    def extra_repr(self) -> str:
        """Show levels and threshold."""
        return f"levels={self.levels}, {super().extra_repr()}"


@ACTIVATIONS.register("rts")
class ClippedReLU(Activation):
    """ReLU clipped at a fixed threshold, the training activation of RTS (Deng & Gu, ICLR 2021)."""

    function = staticmethod(clipped_relu)
    start = 1.0
    learned = False

    def __init__(self, levels: int = 1, threshold: float = start) -> None:
        """Create the activation; θ is kept in the state dict, not trained."""
        super().__init__(levels, threshold)
        self.register_buffer("threshold", torch.tensor(float(threshold)))

    def forward(self, x: Tensor) -> Tensor:
        """Clip `x` of any shape to [0, θ]."""
        return clipped_relu(x, self.threshold)


def activation_called(function: Callable[..., Any]) -> type[Activation] | None:
    """The activation of the table whose function this is, or None."""
    table: tuple[Any, ...] = ACTIVATIONS.classes()
    return next((cls for cls in table if cls.function is function), None)


register_activation = ACTIVATIONS.register


class SpikingNeuron(nn.Module):
    """Integrate-and-fire neurons of one site, with a temporal bias per step and channel.

    The membrane is kept between calls, so that T timesteps may be run in several chunks.

    Attributes:
        use_bias: Whether the temporal bias is added.
        fused: Whether `forward` runs compiled code where there is no kernel of its own; the result is the same.
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
        """θ, broadcastable to a tensor of one step with `ndim` dimensions."""
        return per_channel(self.threshold.to(dtype), ndim, self.channel_dim)

    @property
    def quantum(self) -> Tensor:
        """What one spike adds to the output of a block of rows, (C,)."""
        return self.threshold

    def membrane_like(self, current: Tensor) -> Tensor:
        """Membrane before the next step, (B, C, ...); `current` is the current of one step."""
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
            out: (K, B, C, ...), becomes θ·s; may be `current` itself.

        Returns:
            `out`.
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

    def extra_repr(self) -> str:
        """Show the shape of the site."""
        steps, channels = self.temporal_bias.shape
        return f"num_steps={steps}, channels={channels}, v0={self.v0:g}"


class TemporalDifference(nn.Module):
    """Rate-exact replacement of a stateless operation at one site; see `functional.temporal_difference`."""

    def __init__(self) -> None:
        """Create the site; it has no parameters."""
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Go back to the start of the simulation."""
        self.step = 0
        self.sums: tuple[Tensor, ...] | None = None
        self.total: Tensor | None = None

    def forward(
        self, function: Callable[..., Tensor], *inputs: Tensor, in_parts: Callable[[], bool] = lambda: True
    ) -> Tensor:
        """Simulate the next K timesteps of `function`, called with tensors (K·B, ...).

        Args:
            function: The stateless operation.
            inputs: Its inputs, (K, B, ...) each.
            in_parts: Whether it may be called several times, each with some of the K.

        Returns:
            (K, B, ...), whose running mean is the function of the running means of the inputs.
        """
        steps = len(inputs[0])
        block = max(1, MOST_BYTES // max(1, inputs[0].nbytes // steps))
        block = block if block >= steps or in_parts() else steps
        parts = [self._block(function, [x[first : first + block] for x in inputs]) for first in range(0, steps, block)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _block(self, function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Tensor:
        outputs, self.sums, self.total = temporal_difference(function, tuple(inputs), self.sums, self.total, self.step)
        self.step += len(inputs[0])
        return outputs
