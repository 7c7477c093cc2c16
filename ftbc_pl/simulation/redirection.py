"""One forward of the ANN's own code, in which the calls of its sites go to a visitor instead of torch."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from ftbc_pl.simulation.corrections import Layers, Place
from ftbc_pl.simulation.visitors import StreamFunction, Visitor
from ftbc_pl.tracing.calls import Call, Trace
from ftbc_pl.tracing.composite import expansion, may_expand
from ftbc_pl.tracing.operations import Kind

_OTHER_PATH = (
    "The network called other operations than when it was converted: its forward depends on the data or on the input "
    "size. Convert it again with an example of this size, or remove the dependence."
)


class Redirection(TorchFunctionMode):
    """While active, calls of the sites of a network go to a visitor."""

    def __init__(
        self,
        network: nn.Module,
        trace: Trace,
        sites: Iterable[nn.Module],
        visitor: Visitor,
        layers: Layers | None = None,
    ) -> None:
        """Prepare one forward.

        Args:
            network: The ANN.
            trace: Its sites.
            sites: One module per site.
            visitor: Where the calls go.
            layers: Where all other calls go; None: nowhere, they run as they are.
        """
        super().__init__()
        self.network = network
        self.visitor = visitor
        self.layers = layers
        self.named: Counter[str] = Counter()
        self.expected = trace.counts
        self.calls, self.table = trace.calls, trace.table
        self.sites = tuple(sites)
        self.counts = dict.fromkeys(trace.counts, 0)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Send a call to its site, if it is one."""
        kwargs = kwargs or {}
        ordinals = self.table.get(func)
        if ordinals is None and self.layers is None and not may_expand(func):  # as almost always: nothing to find out
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        parts = expansion(func, args, kwargs) if ordinals is None else None
        if parts is not None:
            with self:
                return parts(*args, **kwargs)
        run = func
        if self.layers is not None:
            run = self.layers.around(Place(name, self.named[name]), func)
            self.named[name] += 1
        if ordinals is None:
            return run(*args, **kwargs)
        ordinal = self.counts[func]
        self.counts[func] = ordinal + 1
        index = ordinals.get(ordinal)
        if index is None:
            return run(*args, **kwargs)
        call = self.calls[index]
        inputs, function = _streams(call, func, args, kwargs)
        if call.kind is Kind.SPIKING:
            if inputs[0].shape[call.channel_dim :][:1] != call.record.shape[call.channel_dim - 1 :][:1]:
                raise RuntimeError(_OTHER_PATH)
            return self.visitor.neuron(call, self.sites[index], inputs[0], function)  # type: ignore[arg-type]
        stateless = StreamFunction(function, lambda: not _others_have_rows(call, args, kwargs, max(map(len, inputs))))
        return self.visitor.rate_exact(call, self.sites[index], inputs, stateless)  # type: ignore[arg-type]

    def run(self, rows: Tensor) -> Any:
        """Run the ANN's code once.

        Raises:
            RuntimeError: The forward did not take the path that was converted.
        """
        with self:
            outputs = self.network(rows)
        if self.counts != self.expected or (self.layers is not None and not self.layers.are_all_in(self.named)):
            raise RuntimeError(_OTHER_PATH)
        return outputs


def _streams(
    call: Call, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Tensor], Callable[..., Tensor]]:
    """The tensors of a call that depend on the input, and the call as a function of them."""
    if call.streams == (0,) and args and isinstance(args[0], Tensor):
        # As almost always; taking apart and putting together all the arguments would cost more than the rest.
        rest = args[1:]
        return [args[0]], lambda stream: func(stream, *rest, **kwargs)
    leaves, structure = tree_flatten((args, kwargs))

    def function(*streams: Tensor) -> Tensor:
        replaced = list(leaves)
        for position, stream in zip(call.streams, streams, strict=True):
            replaced[position] = stream
        new_args, new_kwargs = tree_unflatten(replaced, structure)
        return func(*new_args, **new_kwargs)  # type: ignore[no-any-return]

    return [leaves[position] for position in call.streams], function


def _others_have_rows(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], rows: int) -> bool:
    """Whether a call takes a tensor that does not depend on the input and has as many rows as what does."""
    leaves, _ = tree_flatten((args, kwargs))
    others = (leaf for place, leaf in enumerate(leaves) if place not in call.streams and isinstance(leaf, Tensor))
    return any(len(leaf) == rows for leaf in others if leaf.ndim)
