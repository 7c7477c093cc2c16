"""What a trace of a network finds, as plain values."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from torch import Tensor

from ftbc_pl.conversion.operations import Kind


class Origin(Enum):
    """What called an operation."""

    MODULE = "module"
    SHARED = "shared module"
    FUNCTION = "function"


@dataclass(frozen=True)
class Call:
    """One call of an operation that becomes a site of the spiking network.

    Attributes:
        name: Unique name: the module path, with #2, #3 … for further calls inside the same module.
        operation: Name of the operation, such as ``relu``.
        kind: Spiking or rate-exact.
        source: ``file:line`` of the call.
        function: The torch function that is called.
        ordinal: How many calls of the same function precede it in a forward.
        streams: Positions, among the flattened arguments, of the tensors that depend on the input.
        static: For each of them, whether it is the same at every timestep.
        inplace: Whether the call overwrites its first argument.
        shape: Shape of the first stream without the batch dimension.
        channel_dim: Dimension of the channels in (B, C, ...).
        origin: A module, a module that is called several times, or a function called by a module's forward.
        layers: Paths of the modules whose weights were applied since the site before.
        threshold: θ where the activation has one of its own (QCFS).
        upper: Largest value of the activation, where that is a number (clipped ReLU, ReLU6, Hardtanh, clamp).
    """

    name: str
    operation: str
    kind: Kind
    source: str
    function: Callable[..., Any]
    ordinal: int
    streams: tuple[int, ...]
    static: tuple[bool, ...]
    inplace: bool
    shape: tuple[int, ...]
    channel_dim: int
    origin: Origin
    layers: tuple[str, ...] = ()
    threshold: Tensor | None = field(default=None, repr=False)
    upper: float | None = None


@dataclass(frozen=True)
class Trace:
    """All sites of a network in forward order.

    Attributes:
        calls: The sites.
        counts: How often each function of a site is called in a forward, sites or not.
        static_prefix: Whether everything before the first sites may be computed once for all timesteps.
        static_outputs: For each tensor of the output, whether it is the same at every timestep.
        problems: What can't be converted, one sentence a site.
    """

    calls: tuple[Call, ...]
    counts: dict[Callable[..., Any], int]
    static_prefix: bool
    static_outputs: tuple[bool, ...]
    problems: tuple[str, ...]
