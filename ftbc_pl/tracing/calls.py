"""What a trace of a network finds, as plain values."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import Any

from torch import Tensor

from ftbc_pl.sites import SiteRecord
from ftbc_pl.tracing.operations import Kind


class Origin(Enum):
    """What called an operation."""

    MODULE = "module"
    SHARED = "shared module"
    FUNCTION = "function"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of an operation that becomes a site of the spiking network.

    Attributes:
        record: What a reader of the report wants to know: name, operation, shape …
        kind: Spiking or rate-exact.
        function: The torch function that is called.
        ordinal: How many calls of the same function precede it in a forward.
        streams: Positions, among the flattened arguments, of the tensors that depend on the input.
        static: For each of them, whether it is the same at every timestep.
        inplace: Whether the call overwrites its first argument.
        channel_dim: Dimension of the channels in (B, C, ...).
        layers: Paths of the modules whose weights were applied since the site before.
        threshold: θ where the activation has a learned one (QCFS).
    """

    record: SiteRecord
    kind: Kind
    function: Callable[..., Any]
    ordinal: int
    streams: tuple[int, ...]
    static: tuple[bool, ...]
    inplace: bool
    channel_dim: int
    layers: tuple[str, ...] = ()
    threshold: Tensor | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Unique name of the site."""
        return self.record.name

    @property
    def channels(self) -> int:
        """Size of the dimension of the channels."""
        return self.record.shape[self.channel_dim - 1]

    @property
    def place(self) -> str:
        """Name and source line, for messages."""
        return f"{self.record.name} ({self.record.source})"


@dataclass(frozen=True)
class Trace:
    """All sites of a network in forward order.

    Attributes:
        calls: The sites.
        counts: How often each function of a site is called in a forward, sites or not.
        static_prefix: Whether everything before the first sites may be computed once for all timesteps.
        static_outputs: For each tensor of the output, whether it is the same at every timestep.
        constant_outputs: For each of them, whether it does not even depend on the input.
        problems: What can't be converted, one sentence per site.
        sizes_read: Whether the network asks for the size of a batch before the first sites, where it holds one timestep
            only if `static_prefix`.
        probability: Whether the only output is one number for each image, made by a sigmoid.
    """

    calls: tuple[Call, ...]
    counts: dict[Callable[..., Any], int]
    static_prefix: bool
    static_outputs: tuple[bool, ...]
    constant_outputs: tuple[bool, ...]
    problems: tuple[str, ...]
    sizes_read: bool = False
    probability: bool = False

    @cached_property
    def table(self) -> dict[Callable[..., Any], dict[int, int]]:
        """For each function of a site, which of its calls in a forward are which of the sites."""
        table: dict[Callable[..., Any], dict[int, int]] = {function: {} for function in self.counts}
        for index, call in enumerate(self.calls):
            table[call.function][call.ordinal] = index
        return table

    def without_prefix(self) -> "Trace":
        """The same trace, with everything computed for each timestep."""
        calls = tuple(replace(call, static=(False,) * len(call.static)) for call in self.calls)
        return replace(self, calls=calls, static_prefix=False, static_outputs=self.constant_outputs)
