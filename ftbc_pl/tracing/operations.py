"""What every torch operation means for a stream of spikes: affine, an activation, rate-exact or unknown.

An affine operation commutes with the mean over time and is run as it is. An activation becomes a spiking neuron. Other
stateless operations get the rate-exact replacement. What is in none of the tables is an error, never passed over.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from torch import Tensor

from ftbc_pl.layers import activation_called


class Kind(Enum):
    """How an operation on a stream of spikes is treated."""

    METADATA = "metadata"
    AFFINE = "affine"
    SPIKING = "spiking"
    RATE_EXACT = "rate-exact"
    SMOOTH = "smooth"
    UNSUPPORTED = "unsupported"


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_METADATA = names(
    "shape size dim ndim ndimension dtype device is_cuda is_cpu is_mps is_xpu requires_grad numel nelement stride len "
    "is_contiguous layout is_floating_point is_complex is_quantized is_mkldnn is_sparse is_nested is_meta element_size "
    "type get_device is_leaf grad_fn storage_offset itemsize nbytes names is_inference is_same_size hash "
    "zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty new_full new_tensor"
)
# Affine in all tensors together.
_AFFINE = names(
    "add radd iadd sub rsub isub subtract neg positive cat concat concatenate stack hstack vstack dstack sum mean "
    "flatten unflatten reshape view view_as reshape_as permute transpose swapaxes swapdims moveaxis movedim t T mT H "
    "mH squeeze unsqueeze expand expand_as repeat repeat_interleave tile contiguous clone to type_as float double half "
    "bfloat16 cpu cuda split split_with_sizes chunk tensor_split unbind getitem select narrow index_select roll flip "
    "rot90 cumsum pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle unfold fold alias "
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample "
    "pad constant_pad_nd dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout batch_norm "
    "broadcast_to diagonal tril triu gather take_along_dim affine_grid"
)
# Linear in one of several tensors; a product of two streams is not.
_MULTILINEAR = names(
    "mul rmul imul multiply matmul rmatmul bmm mm mv addmm baddbmm addbmm einsum linear conv1d conv2d conv3d "
    "conv_transpose1d conv_transpose2d conv_transpose3d convolution bilinear inner outer tensordot"
)
_DIVISION = names("div truediv itruediv idiv divide true_divide")
_MASKED = names("where masked_fill")
_RATE_EXACT = names(
    "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d amax amin maximum "
    "minimum sigmoid hardsigmoid softmax layer_norm group_norm instance_norm rms_norm normalize local_response_norm "
    "scaled_dot_product_attention lp_pool2d norm std var rsqrt sqrt exp pow square reciprocal abs log log1p "
    "log_softmax logsumexp erf sin cos cosine_similarity grid_sample"
)
_SMOOTH = names(
    "gelu silu hardswish leaky_relu elu selu celu mish softplus prelu tanh tanhshrink hardshrink softshrink softsign "
    "logsigmoid rrelu glu"
)
_SPIKING = names("relu relu6")
_INDICES = names("argmax argmin argsort")


def operation_name(function: Callable[..., Any]) -> str:
    """Name of a torch function without the underscores that mark in-place and operator variants."""
    name: str = getattr(function, "__name__", type(function).__name__)
    if name == "__get__":
        name = function.__self__.__name__  # type: ignore[attr-defined]
    return name.strip("_")


def is_inplace(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call overwrites its first argument."""
    name: str = getattr(function, "__name__", "")
    if name.startswith("__"):
        return name.startswith("__i") and operation_name(function) in _AFFINE | _MULTILINEAR | _DIVISION
    positional = {"relu": 1, "relu6": 1, "hardtanh": 3}.get(name)
    if positional is not None and len(args) > positional:
        return bool(args[positional])
    return name.endswith("_") or bool(kwargs.get("inplace", False))


def is_metadata(name: str) -> bool:
    """Whether an operation looks at a tensor's shape or type only."""
    return name in _METADATA


def is_index(name: str) -> bool:
    """Whether the result of an operation says where something is, not what."""
    return name in _INDICES


def classify(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], streams: Sequence[Tensor]
) -> Kind:
    """Say how a call is treated; `streams` are those of its arguments that depend on the network's input."""
    name = operation_name(function)
    if is_metadata(name):
        return Kind.METADATA
    if name in _SPIKING or _is_relu(name, args, kwargs) or activation_called(function) is not None:
        return Kind.SPIKING
    if name == "batch_norm" or "dropout" in name:
        return Kind.UNSUPPORTED if _is_training(name, args, kwargs) else Kind.AFFINE
    if name in _AFFINE:
        return Kind.AFFINE
    if name in _MULTILINEAR:
        return Kind.AFFINE if len(streams) == 1 else Kind.RATE_EXACT
    if name in _DIVISION:
        by_constant = len(streams) == 1 and args[0] is streams[0]
        return Kind.AFFINE if by_constant else Kind.RATE_EXACT
    if name in _MASKED:
        return Kind.AFFINE
    if name in _RATE_EXACT or name in {"hardtanh", "clamp", "clip", "clamp_min", "clamp_max"}:
        return Kind.RATE_EXACT if name in _RATE_EXACT else Kind.SMOOTH
    return Kind.SMOOTH if name in _SMOOTH else Kind.UNSUPPORTED


def _is_relu(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a clamp is a ReLU with or without an upper bound."""
    if name == "hardtanh":
        return bool(_given(args, kwargs, 1, "min_val") == 0)
    if name in {"clamp", "clip", "clamp_min"}:
        lower, upper = _given(args, kwargs, 1, "min"), _given(args, kwargs, 2, "max")
        if not isinstance(lower, int | float) or lower != 0:
            return False
        return upper is None or (isinstance(upper, int | float) and upper > 0)
    return name == "threshold" and all(_given(args, kwargs, i, key) == 0 for i, key in ((1, "threshold"), (2, "value")))


def own_threshold(function: Callable[..., Any], args: Sequence[Any]) -> Tensor | None:
    """θ of a trainable activation at which its neurons fire; None if there is none."""
    activation = activation_called(function)
    return args[1] if activation is not None and activation.learned else None


def upper_bound(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
    """Largest value of a spiking operation, where that is a number."""
    activation, name = activation_called(function), operation_name(function)
    if activation is not None:
        return None if activation.learned else float(args[1])
    if name == "relu6":
        return 6.0
    if name == "hardtanh":
        upper = _given(args, kwargs, 2, "max_val")
        return 1.0 if upper is None else float(upper)
    if name in {"clamp", "clip"}:
        upper = _given(args, kwargs, 2, "max")
        return None if upper is None else float(upper)
    return None


def _given(args: Sequence[Any], kwargs: Mapping[str, Any], position: int, key: str) -> Any:
    """An argument, by keyword or by position; None if it was left out."""
    return kwargs[key] if key in kwargs else args[position] if len(args) > position else None


def _is_training(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    if name == "batch_norm":
        # torch.batch_norm and F.batch_norm agree on the position.
        return bool(kwargs.get("training", args[5] if len(args) > 5 else False))
    # The functional forms drop by default.
    return bool(kwargs.get("training", args[2] if len(args) > 2 else True))


_ADVICE = {
    names("item tolist bool float int numpy"): (
        "its result depends on the data: a spiking network needs the same operations for every input"
    ),
    names("detach data"): "it hides the data flow: remove it from the forward used for inference",
    names("setitem"): (
        "it writes into a part of a tensor: put the parts together with torch.cat, torch.stack or torch.where"
    ),
    names("max min"): "it returns the extreme of the whole batch: use torch.a{name}(x, dim)",
    names("gt ge lt le eq ne"): (
        "it compares values of the input: write the rule as a ReLU, a clamp or a linear operation"
    ),
    names("lstm gru rnn_tanh rnn_relu"): "it has a state of its own: recurrent layers are not supported",
    _INDICES | names("sort msort topk kthvalue median nanmedian mode cummax cummin aminmax"): (
        "it orders values, and which one is where changes from step to step: use linear operations, amax or amin"
    ),
}


def advice(name: str, kind: Kind) -> str:
    """What a user can do about an operation that can't be converted."""
    if kind is Kind.SMOOTH:
        return "it is not a ReLU: train with ReLU or QCFS instead, or pass smooth='rate' to run it without spikes"
    if "batch_norm" in name:
        return "it uses the statistics of the batch: use running statistics (track_running_stats=True) and eval()"
    if "dropout" in name:
        return "it drops at random also in eval mode: use torch.nn.Dropout or pass training=self.training"
    if name.endswith("_with_indices"):
        return "it returns indices as well, which change from step to step: pool with return_indices=False"
    unknown = "it is not known to be linear: replace it by linear operations and ReLU"
    return next((text for known, text in _ADVICE.items() if name in known), unknown).format(name=name)
