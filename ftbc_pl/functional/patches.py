"""What each weight of an affine layer is multiplied with: the patches of its input, at sampled positions of its output.

A layer is a linear map of patches: output channel c at position p is Σ_n W[c, n]·P[p, n] over the inputs of its group
and the taps of the kernel. Linear layers have one tap, a transposed convolution is a convolution with the flipped
kernel over its input with zeros in between, and an identity is a convolution with one tap and a group a channel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_GOLDEN = 2654435769  # 2³² over the golden ratio: multiples of it modulo 2³² are spread evenly


def _numbers(values: int | Sequence[int], count: int) -> tuple[int, ...]:
    return (values,) * count if isinstance(values, int) else tuple(values)


@dataclass(frozen=True)
class Identity:
    """A stream that reaches a site as it is; what is fitted is one gain a channel.

    Attributes:
        channels: Number of channels.
    """

    channels: int

    @property
    def groups(self) -> int:
        """Groups of channels that are fitted by themselves."""
        return self.channels

    @property
    def columns(self) -> int:
        """Number of unknowns of an output channel."""
        return 1

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return self.channels

    def patches(self, x: Tensor, positions: Tensor, channel_dim: int = 1) -> Tensor:
        """Take the values at `positions` (B, P): (B·P, C, 1) of `x` (B, C, ...)."""
        return at_positions(x, positions, channel_dim).flatten(0, 1).unsqueeze(2)

    def shaped(self, solution: Tensor) -> Tensor:
        """View a solution (C, 1, 1) as gains (C,)."""
        return solution.flatten()

    def apply(self, x: Tensor, change: Tensor, channel_dim: int = 1) -> Tensor:
        """Multiply `x` (rows, C, ...) by gains (C,)."""
        shape = [1] * x.ndim
        shape[channel_dim] = -1
        return x * change.to(x).view(shape)


@dataclass(frozen=True)
class Affine:
    """Geometry of a linear layer or a (transposed) convolution; made by the class methods.

    Attributes:
        weight_shape: (C_out, C_in/groups, *kernel), transposed (C_in, C_out/groups, *kernel), linear (C_out, C_in).
        groups: Groups of channels.
        transposed: Whether it is a transposed convolution.
        stride: One number a dimension of the kernel, as all that follows.
        padding: Zeros (or what `mode` says) before and behind.
        dilation: Distance of the taps.
        output_padding: Additional positions at the end, for transposed convolutions.
        mode: What is padded, in the words of `torch.nn.functional.pad`.
    """

    weight_shape: tuple[int, ...]
    groups: int = 1
    transposed: bool = False
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = field(default=(), repr=False)
    mode: str = "constant"

    @classmethod
    def linear(cls, weight_shape: Sequence[int]) -> "Affine":
        """A linear layer; inputs are (B, ..., C_in)."""
        return cls(tuple(weight_shape))

    @classmethod
    def convolution(
        cls,
        weight_shape: Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        mode: str = "zeros",
    ) -> "Affine":
        """A convolution with the arguments of torch's functions, and the padding mode of its modules."""
        kernel = tuple(weight_shape[2:])
        steps = _numbers(dilation, len(kernel))
        if padding == "valid":
            padding = 0
        if isinstance(padding, str):
            reach = [step * (size - 1) for step, size in zip(steps, kernel, strict=True)]
            sides = tuple((total // 2, total - total // 2) for total in reach)
        else:
            sides = tuple((side, side) for side in _numbers(padding, len(kernel)))
        mode = "constant" if mode == "zeros" else mode
        return cls(tuple(weight_shape), groups, False, _numbers(stride, len(kernel)), sides, steps, mode=mode)

    @classmethod
    def transposed_convolution(
        cls,
        weight_shape: Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        dilation: int | Sequence[int] = 1,
    ) -> "Affine":
        """A transposed convolution with the arguments of torch's functions."""
        count = len(weight_shape) - 2
        sides = tuple((side, side) for side in _numbers(padding, count))
        spacing, steps, more = (_numbers(values, count) for values in (stride, dilation, output_padding))
        return cls(tuple(weight_shape), groups, True, spacing, sides, steps, more)

    @property
    def kernel(self) -> tuple[int, ...]:
        """Size of the kernel; () for linear layers."""
        return self.weight_shape[2:]

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return self.weight_shape[1] * self.groups if self.transposed else self.weight_shape[0]

    @property
    def columns(self) -> int:
        """Number of unknowns of an output channel: inputs of its group times taps."""
        inputs = self.weight_shape[0] // self.groups if self.transposed else self.weight_shape[1]
        return inputs * math.prod(self.kernel)

    def patches(self, x: Tensor, positions: Tensor, channel_dim: int = 1) -> Tensor:
        """Gather what the weights are multiplied with.

        Args:
            x: Input (B, C_in, ...), of linear layers (B, ..., C_in).
            positions: Of each image, indices of the flattened positions of the output, (B, P).
            channel_dim: Unused, as the layer knows where its channels are.

        Returns:
            (B·P, groups, columns), input channels of a group before taps.
        """
        if not self.kernel:
            return at_positions(x, positions, x.ndim - 1).flatten(0, 1).unsqueeze(1)
        padded, starts, taps = self._padded(x), *self._indices(x)
        index = (starts.to(x.device)[positions].unsqueeze(2) + taps.to(x.device)).flatten(1).unsqueeze(1)
        values = padded.flatten(2).gather(2, index.expand(-1, x.shape[1], -1))
        values = values.unflatten(2, (positions.shape[1], -1)).transpose(1, 2)
        return values.reshape(positions.numel(), self.groups, -1)

    def shaped(self, solution: Tensor) -> Tensor:
        """Bring a solution (groups, columns, C_out/groups) into the shape of the layer's weights."""
        if not self.transposed:
            return solution.transpose(1, 2).reshape(self.weight_shape)
        by_input = solution.unflatten(1, (-1, math.prod(self.kernel)))
        return by_input.transpose(2, 3).reshape(self.weight_shape)

    def apply(self, x: Tensor, change: Tensor, channel_dim: int = 1) -> Tensor:
        """Run the layer with other weights, `change` (of their shape), and without its bias, on `x` (rows, ...)."""
        weight = change.to(x)
        if not self.kernel:
            return F.linear(x, weight)
        if self.transposed:
            sides = [before for before, _ in self.padding]
            return _TRANSPOSED[len(self.kernel)](
                x, weight, None, self.stride, sides, self.output_padding, self.groups, self.dilation
            )
        function = _CONVOLUTIONS[len(self.kernel)]
        if self.mode == "constant" and all(before == behind for before, behind in self.padding):
            sides = [before for before, _ in self.padding]
            return function(x, weight, None, self.stride, sides, self.dilation, self.groups)
        return function(self._padded(x), weight, None, self.stride, 0, self.dilation, self.groups)

    def _padded(self, x: Tensor) -> Tensor:
        """The input that a convolution without padding (transposed: and with stride 1) is to run over."""
        sides = self.padding
        if self.transposed:
            reach = [step * (size - 1) for step, size in zip(self.dilation, self.kernel, strict=True)]
            sides = tuple(
                (far - before, far - behind + more)
                for far, (before, behind), more in zip(reach, self.padding, self.output_padding, strict=True)
            )
            sizes = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], self.stride, strict=True)]
            spread = x.new_zeros(*x.shape[:2], *sizes)
            places: tuple[Any, ...] = (..., *(slice(None, None, step) for step in self.stride))
            spread[places] = x
            x = spread
        if not any(side for pair in sides for side in pair):
            return x
        return F.pad(x, [side for pair in reversed(sides) for side in pair], mode=self.mode)

    def _indices(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where, in the flattened padded input, each output position begins, and how far its taps are from there."""
        # Shapes are worked out by torch itself, on a tensor without memory.
        sizes = self._padded(torch.empty(1, 1, *x.shape[2:], device="meta")).shape[2:]
        rows = list(accumulate(reversed((*sizes[1:], 1)), lambda a, b: a * b))[::-1]
        stride = (1,) * len(sizes) if self.transposed else self.stride
        starts, taps = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        for size, kernel, step, distance, row in zip(sizes, self.kernel, stride, self.dilation, rows, strict=True):
            outputs = (size - distance * (kernel - 1) - 1) // step + 1
            along = torch.arange(kernel).flip(0) if self.transposed else torch.arange(kernel)
            starts = (starts.unsqueeze(1) + torch.arange(outputs) * step * row).flatten()
            taps = (taps.unsqueeze(1) + along * distance * row).flatten()
        return starts, taps


Term = Affine | Identity


def at_positions(x: Tensor, positions: Tensor, channel_dim: int) -> Tensor:
    """Values of `x` (B, C, ...) at flattened `positions` (B, P): (B, P, C)."""
    values = x.movedim(channel_dim, 1).reshape(len(x), x.shape[channel_dim], -1)
    return values.gather(2, positions.unsqueeze(1).expand(-1, values.shape[1], -1)).transpose(1, 2)


def sampled_positions(count: int, indices: Tensor, images: int, rows: int) -> Tensor:
    """Choose the positions of each image that are looked at: as many of each, evenly spread, other ones of others.

    They depend on an image's index alone, so that parts of the images together have the positions of the whole.

    Args:
        count: Number of positions there are.
        indices: Index of each image among all, (B,) int64.
        images: How many images there are in all.
        rows: Most positions of all images together; each image has one at least.

    Returns:
        (B, P) int64.
    """
    chosen = min(count, max(1, rows // max(1, images)))
    grid = torch.arange(chosen, device=indices.device) * count // chosen
    shift = ((indices * _GOLDEN) % 2**32 * count) >> 32
    return (grid + shift.unsqueeze(1)) % count


def sampled_rows(numbers: Tensor, each: int, images: int, rows: int) -> Tensor:
    """Choose the rows that are looked at where an image has several of them and there are more than `rows` in all.

    Args:
        numbers: Number of each row among those of all images, (B,) int64.
        each: Rows of an image.
        images: How many images there are in all.
        rows: About how many rows of all images together.

    Returns:
        Which ones, (B,) bool: every so many, other ones of the next image.
    """
    if each == 1:
        return torch.ones_like(numbers, dtype=torch.bool)
    return (numbers + numbers // each) % -(-each * images // rows) == 0
