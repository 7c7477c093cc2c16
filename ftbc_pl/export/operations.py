"""What each operation of a network becomes in the graph: one function per operation, in one table."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ftbc_pl.export.errors import InexpressibleError
from ftbc_pl.export.graph import Graph, Node, Stream


@dataclass(frozen=True)
class Operation:
    """One call of a torch function, after it ran.

    Attributes:
        function: The torch function.
        name: Its name without underscores.
        path: Path of the module that called it.
        args: Its arguments, streams in the place of tensors that depend on the input.
        kwargs: Its keyword arguments.
        out: Its result, a tensor (B, ...).
    """

    function: Callable[..., Any]
    name: str
    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result, without the batch."""
        return tuple(self.out.shape[1:])

    def get(self, position: int, key: str, default: Any = None) -> Any:
        """An argument, by keyword or by position."""
        return self.kwargs[key] if key in self.kwargs else self.args[position] if len(self.args) > position else default

    @property
    def stream(self) -> Stream:
        """The first argument."""
        first = self.get(0, "input")
        if not isinstance(first, Stream):
            raise InexpressibleError("its first argument does not depend on the input of the network")
        return first


def _convolution(graph: Graph, op: Operation) -> Stream:
    sources, scale = graph.shared(op.stream)
    weight = _constant(op, 1, "weight")
    kernel, dilation = tuple(weight.shape[2:]), _pair(op.get(5, "dilation", 1))
    if kernel[0] != kernel[1]:
        raise InexpressibleError("readers of NIR take every kernel for a square one: use a square kernel")
    weight = _dense(weight, op.get(6, "groups", 1)) * scale.view(-1, 1, 1)
    node = Node("convolution", sources, op.shape, weight, _bias(op, len(weight)))
    node.stride, node.dilation = _pair(op.get(3, "stride", 1)), dilation
    node.padding = _padding(op.get(4, "padding", 0), kernel, dilation)
    return graph.add(op.path, node)


def _dense(weight: Tensor, groups: int) -> Tensor:
    """Weights of a grouped convolution as those of a plain one: NIR 1.0.8 can't read grouped ones back."""
    if groups == 1:
        return weight
    outputs, inputs = len(weight) // groups, weight.shape[1]
    dense = weight.new_zeros(len(weight), inputs * groups, *weight.shape[2:])
    for group in range(groups):
        rows, columns = slice(group * outputs, (group + 1) * outputs), slice(group * inputs, (group + 1) * inputs)
        dense[rows, columns] = weight[rows]
    return dense


def _padding(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, int]) -> tuple[int, int]:
    if padding == "valid":
        return 0, 0
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        if any(size % 2 for size in total):
            raise InexpressibleError("padding='same' with an even kernel pads one side more: use an odd kernel")
        return total[0] // 2, total[1] // 2
    return _pair(padding)


def _linear(graph: Graph, op: Operation) -> Stream:
    sources, scale = graph.shared(op.stream)
    if len(op.shape) != 1:
        raise InexpressibleError("NIR's linear layers take vectors: flatten each image before it")
    weight = _constant(op, 1, "weight") * scale
    return graph.add(op.path, Node("linear", sources, op.shape, weight, _bias(op, len(weight))))


def _batch_norm(graph: Graph, op: Operation) -> Stream:
    if op.function is not F.batch_norm:
        raise InexpressibleError("call torch.nn.functional.batch_norm instead")
    mean, variance = _constant(op, 1, "running_mean"), _constant(op, 2, "running_var")
    weight, bias = op.get(3, "weight"), op.get(4, "bias")
    scale = torch.rsqrt(variance + op.get(7, "eps", 1e-5))
    scale = scale if weight is None else scale * weight.detach().double()
    shift = -mean * scale if bias is None else bias.detach().double() - mean * scale
    return _affine(graph, op, op.stream, scale, shift)


def _affine(graph: Graph, op: Operation, stream: Stream, scale: Tensor, shift: Tensor) -> Stream:
    """Channels times `scale` plus `shift`, (C,) each."""
    if not bool(shift.any()):
        return stream.scaled(scale)
    sources, common = graph.shared(stream)
    return graph.mix(op.path, sources, torch.diag(scale * common), shift, stream.shape)


def _average_pool(graph: Graph, op: Operation) -> Stream:
    kernel = _pair(op.get(1, "kernel_size"))
    stride = op.get(2, "stride")
    padding = _pair(op.get(3, "padding", 0))
    if any(padding) and not op.get(5, "count_include_pad", True):
        raise InexpressibleError("NIR counts the zeros at the border: set count_include_pad=True or padding=0")
    if op.get(6, "divisor_override") is not None:
        raise InexpressibleError("NIR has no other divisor than the size of the kernel: leave out divisor_override")
    return _pooled(graph, op, kernel, _pair(stride) if stride else kernel, padding, op.shape)


def _pooled(
    graph: Graph,
    op: Operation,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    shape: tuple[int, ...],
) -> Stream:
    stream = op.stream
    _image(stream)
    floor = tuple(
        (size + 2 * p - k) // s + 1 for size, k, s, p in zip(stream.shape[1:], kernel, stride, padding, strict=True)
    )
    if floor != shape[1:]:
        raise InexpressibleError("NIR leaves out what does not fill a kernel: set ceil_mode=False")
    sources, scale = graph.shared(stream)
    node = Node("average", sources, shape, kernel=kernel, stride=stride, padding=padding)
    return graph.add(op.path, node).scaled(scale)


def _adaptive_pool(graph: Graph, op: Operation) -> Stream:
    _image(op.stream)
    before, after = op.stream.shape[1:], op.shape[1:]
    if any(size % count for size, count in zip(before, after, strict=True)):
        raise InexpressibleError(f"{before} places don't divide into {after} equal ones: pool to (1, 1)")
    kernel = (before[0] // after[0], before[1] // after[1])
    return _pooled(graph, op, kernel, kernel, (0, 0), op.shape)


def _mean(graph: Graph, op: Operation) -> Stream:
    dims = op.get(1, "dim")
    dims = {dims} if isinstance(dims, int) else set(dims or ())
    rank = len(op.stream.shape) + 1
    if rank != 4 or {dim % rank for dim in dims} != {2, 3}:
        raise InexpressibleError("NIR averages over the places of an image: use mean((2, 3))")
    height, width = op.stream.shape[1:]
    pooled = _pooled(graph, op, (height, width), (height, width), (0, 0), (op.stream.shape[0], 1, 1))
    return pooled if len(op.shape) == 3 else _flattened(graph, op, pooled)


def _reshape(graph: Graph, op: Operation) -> Stream:
    before, after = op.stream.shape, op.shape
    if before == after:
        return op.stream
    if len(before) == 3 and after == (math.prod(before),):
        return _flattened(graph, op, op.stream)
    raise InexpressibleError(f"NIR can't reshape {before} into {after}: only flattening an image into a vector")


def _flattened(graph: Graph, op: Operation, stream: Stream) -> Stream:
    channels, height, width = stream.shape
    sources, scale = graph.shared(stream)
    flat = graph.add(op.path, Node("flatten", sources, (channels * height * width,)))
    return flat.scaled(scale.repeat_interleave(height * width))


def _add(graph: Graph, op: Operation) -> Stream:
    return _sum(graph, op, 1.0)


def _subtract(graph: Graph, op: Operation) -> Stream:
    return _sum(graph, op, -1.0)


def _sum(graph: Graph, op: Operation, sign: float) -> Stream:
    """Sum or difference of two streams, or of a stream and a constant per channel."""
    first, second = op.get(0, "input"), op.get(1, "other")
    if op.kwargs.get("alpha", 1) != 1:
        raise InexpressibleError("multiply before adding instead of alpha=")
    if op.name == "rsub":
        first, second = second, first
    minus = torch.tensor(sign, dtype=torch.float64)
    if isinstance(first, Stream) and isinstance(second, Stream):
        if first.shape != second.shape:
            raise InexpressibleError(f"NIR adds equal shapes only, got {first.shape} and {second.shape}")
        return first.plus(second.scaled(minus))
    stream, constant = (first, second) if isinstance(first, Stream) else (second.scaled(minus), first)
    shift = _per_channel(constant, stream) * (minus if stream is first else 1.0)
    return _affine(graph, op, stream, torch.ones(stream.shape[0], dtype=torch.float64), shift)


def _multiply(graph: Graph, op: Operation) -> Stream:
    first, second = op.get(0, "input"), op.get(1, "other")
    stream, constant = (first, second) if isinstance(first, Stream) else (second, first)
    factor = _per_channel(constant, stream)
    return stream.scaled(1 / factor if "div" in op.name else factor)


def _negative(graph: Graph, op: Operation) -> Stream:
    return op.stream.scaled(-torch.ones((), dtype=torch.float64))


def _concatenate(graph: Graph, op: Operation) -> Stream:
    """Each part is mapped to its place among the channels; the maps add up."""
    parts, dim = op.get(0, "tensors"), op.get(1, "dim", 0)
    rank = len(op.shape) + 1
    if dim % rank != 1 or not all(isinstance(part, Stream) for part in parts):
        raise InexpressibleError("NIR joins channels of images or vectors only: use torch.cat(..., dim=1)")
    total, start, joined = op.shape[0], 0, Stream((), op.shape)
    for part in parts:
        channels = part.shape[0]
        sources, scale = graph.shared(part)
        place = torch.zeros(total, channels, dtype=torch.float64)
        place[start : start + channels] = torch.diag(scale)
        zeros = torch.zeros(total, dtype=torch.float64)
        joined = joined.plus(graph.mix(f"{op.path}.cat", sources, place, zeros, op.shape))
        start += channels
    return joined


def _same(graph: Graph, op: Operation) -> Stream:
    return op.stream


def _constant(op: Operation, position: int, key: str) -> Tensor:
    value = op.get(position, key)
    if not isinstance(value, Tensor):
        raise InexpressibleError(f"its {key} depends on the input, or is missing")
    return value.detach().double()


def _bias(op: Operation, size: int) -> Tensor:
    bias = op.get(2, "bias")
    return torch.zeros(size, dtype=torch.float64) if bias is None else bias.detach().double()


def _per_channel(value: Any, stream: Stream) -> Tensor:
    """A number, or a tensor with one number per channel, as (C,) float64."""
    channels = stream.shape[0]
    if not isinstance(value, Tensor):
        return torch.full((channels,), float(value), dtype=torch.float64)
    value = value.detach().double()
    if value.numel() == 1:
        return value.reshape(1).expand(channels)
    aligned = value.reshape([1] * (len(stream.shape) + 1 - value.ndim) + list(value.shape))
    if aligned.shape[1] != channels or aligned.numel() != channels:
        raise InexpressibleError("NIR has constants per channel only: make this tensor one number per channel")
    return aligned.reshape(channels)


def _image(stream: Stream) -> None:
    if len(stream.shape) != 3:
        raise InexpressibleError(f"NIR pools images (C, H, W), got {stream.shape}")


def _pair(value: Any) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return (int(values[0]), int(values[-1]))


OPERATIONS: dict[str, Callable[[Graph, Operation], Stream]] = {
    "conv2d": _convolution,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool2d": _adaptive_pool,
    "mean": _mean,
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze", "contiguous", "clone", "to", "alias"), _reshape),
    **dict.fromkeys(("add", "radd", "iadd"), _add),
    **dict.fromkeys(("sub", "isub", "rsub", "subtract"), _subtract),
    **dict.fromkeys(("mul", "rmul", "imul", "multiply", "div", "truediv", "itruediv", "divide"), _multiply),
    "neg": _negative,
    **dict.fromkeys(("cat", "concat", "concatenate"), _concatenate),
    **dict.fromkeys(("dropout", "dropout2d", "alpha_dropout", "feature_alpha_dropout"), _same),
}
