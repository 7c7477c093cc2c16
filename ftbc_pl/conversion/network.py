"""The spiking network: the ANN as it is, with the calls of its sites redirected to neurons while it is simulated.

T timesteps of a batch run as T·B rows through the ANN's own forward. Convolutions and other affine operations treat
rows alike; at each site the rows are seen as (T, B, ...) again.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from ftbc_pl.conversion.calls import Call, Trace
from ftbc_pl.conversion.composite import COMPOSITE, expanded
from ftbc_pl.conversion.operations import Kind
from ftbc_pl.conversion.report import ConversionReport
from ftbc_pl.conversion.simulation import Simulation, Visitor
from ftbc_pl.functional.fused import check_compiler
from ftbc_pl.functional.readout import mean_readout, weigh
from ftbc_pl.layers import SpikingNeuron

_OTHER_PATH = (
    "The network called other operations than when it was converted: its forward depends on the data or on the input "
    "size. Convert it again with an example of this size, or remove the dependence."
)
_CPU_ROWS = 128


class SpikingNetwork(nn.Module):
    """A converted network; made by :func:`ftbc_pl.convert`.

    Attributes:
        network: The ANN: ``snn.network(images)`` gives its logits (B, num_classes).
        sites: One module a site, in forward order.
        calls: What each site replaces.
        num_steps: Number of timesteps T.
        time_chunk: Timesteps run at once; memory grows with it, the result does not depend on it. None: all on a GPU,
            on a CPU as many as make about 128 rows, which its caches hold.
        options: The arguments of the conversion, as plain values.
        folded: Numbers of normalisation layers folded into each layer, by path of the layer.
        readout_weights: How much the output of each step counts in the prediction at each t, (T, T); calibration sets
            them, before they are those of the plain mean.
    """

    readout_weights: Tensor

    def __init__(
        self,
        network: nn.Module,
        trace: Trace,
        sites: list[nn.Module],
        num_steps: int,
        options: dict[str, Any],
        folded: dict[str, int],
    ) -> None:
        """Put a traced network and its sites together."""
        super().__init__()
        self.network = network
        self.sites = nn.ModuleList(sites)
        self.calls = trace.calls
        self.num_steps = num_steps
        self.time_chunk: int | None = None
        self.static_prefix = trace.static_prefix
        self.options = options
        self.folded = folded
        self.register_buffer("readout_weights", mean_readout(num_steps).float())
        self._use_readout = True
        self._trace = trace
        self.eval()

    def train(self, mode: bool = True) -> "SpikingNetwork":
        """Stay in eval mode: batch statistics and dropout have no place in a converted network."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the network is, and so where images must go."""
        tensors = [site.threshold for _, site in self.neurons()][:1] or [*self.parameters(), *self.buffers()][:1]
        return tensors[0].device if tensors else torch.device("cpu")

    @property
    def report(self) -> ConversionReport:
        """What the conversion made of each site."""
        return ConversionReport.of(self.calls, self.options, self.folded)

    def neurons(self) -> Iterator[tuple[Call, SpikingNeuron]]:
        """All spiking sites with the calls they replace, in forward order."""
        for call, site in zip(self.calls, self.sites, strict=True):
            if isinstance(site, SpikingNeuron):
                yield call, site

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Run several steps of each neuron as one kernel made by ``torch.compile``; the result is the same.

        Layers run as before. Calibration looks into the neurons at each step and does not use the kernels. Takes no
        arguments; a compilation takes some seconds, and needs a C++ compiler for a CPU, Triton for a GPU. It is not
        saved: call it again on a network that was loaded.

        Raises:
            TypeError: An argument of ``torch.nn.Module.compile`` was given.
            RuntimeError: There is no compiler.
        """
        if args or kwargs:
            raise TypeError("SpikingNetwork.compile() takes no arguments: it compiles the neurons, not the layers.")
        check_compiler(self.device)
        for _, site in self.neurons():
            site.fused = True

    def reset(self) -> None:
        """Forget all membranes."""
        for site in self.sites:
            site.reset()  # type: ignore[operator]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Any:
        """Simulate T timesteps of constant input.

        Args:
            images: (B, ...).

        Returns:
            Output of each step, (T, B, num_classes); :meth:`readout` makes predictions of them. Networks with several
            outputs or feature maps give the same structure of such tensors, (T, B, ...).
        """
        self.reset()
        try:
            chunks = [self.visit(images, Simulation(steps)) for steps in self.chunks(len(images))]
        finally:
            self.reset()
        return tree_map(_joined, *chunks) if len(chunks) > 1 else chunks[0]

    def readout(self, outputs: Tensor) -> Tensor:
        """Combine the outputs of the steps so far into the prediction at each t.

        Args:
            outputs: Output of each step, (T, B, num_classes).

        Returns:
            Logits at t = 1 … T, (T, B, num_classes).
        """
        weights = self.readout_weights if self._use_readout else mean_readout(self.num_steps)
        return weigh(outputs, weights)

    def chunks(self, batch_size: int) -> list[int]:
        """Numbers of timesteps to run at once for a batch of that size; they add up to T."""
        automatic = self.num_steps if self.device.type != "cpu" else max(1, _CPU_ROWS // batch_size)
        chunk = min(self.time_chunk or automatic, self.num_steps)
        full, rest = divmod(self.num_steps, chunk)
        return [chunk] * full + ([rest] if rest else [])

    def visit(self, images: Tensor, visitor: Simulation) -> Any:
        """Run the ANN's code on the rows of ``visitor``; outputs are (blocks, B, ...)."""
        rows = images
        if not self.static_prefix:
            rows = images.expand(visitor.rows, *images.shape).flatten(0, 1)
        outputs = Redirection(self, visitor).run(rows)
        leaves, structure = tree_flatten(outputs)
        static = iter(self._trace.static_outputs)
        leaves = [visitor.unfold(leaf, next(static)) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return tree_unflatten(leaves, structure)

    @contextmanager
    def uncalibrated(self) -> Iterator[None]:
        """Simulate without the temporal bias, and read out plain means, inside this context."""
        self._use_calibration(False)
        try:
            yield
        finally:
            self._use_calibration(True)

    def _use_calibration(self, use: bool) -> None:
        self._use_readout = use
        for _, site in self.neurons():
            site.use_bias = use


class Redirection(TorchFunctionMode):
    """While active, calls of the sites of a spiking network go to a visitor."""

    def __init__(self, snn: SpikingNetwork, visitor: Visitor) -> None:
        """Prepare one forward of ``snn.network``."""
        super().__init__()
        self.network = snn.network
        self.visitor = visitor
        self.expected = snn._trace.counts
        self.counts: Counter[Callable[..., Any]] = Counter()
        self.sites = {
            (call.function, call.ordinal): (call, site) for call, site in zip(snn.calls, snn.sites, strict=True)
        }

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Send a call to its site, if it is one."""
        kwargs = kwargs or {}
        if func not in self.expected:
            if getattr(func, "__name__", "") in COMPOSITE:
                with self:
                    return expanded(func)(*args, **kwargs)
            return func(*args, **kwargs)
        ordinal = self.counts[func]
        self.counts[func] += 1
        if (func, ordinal) not in self.sites:
            return func(*args, **kwargs)
        call, site = self.sites[func, ordinal]
        leaves, structure = tree_flatten((args, kwargs))

        def function(*streams: Tensor) -> Tensor:
            replaced = list(leaves)
            for position, stream in zip(call.streams, streams, strict=True):
                replaced[position] = stream
            new_args, new_kwargs = tree_unflatten(replaced, structure)
            return func(*new_args, **new_kwargs)  # type: ignore[no-any-return]

        inputs = [leaves[position] for position in call.streams]
        if call.kind is Kind.SPIKING:
            if inputs[0].shape[call.channel_dim :][:1] != call.shape[call.channel_dim - 1 :][:1]:
                raise RuntimeError(_OTHER_PATH)
            return self.visitor.neuron(call, site, inputs[0], function)  # type: ignore[arg-type]
        return self.visitor.rate_exact(call, site, inputs, function)  # type: ignore[arg-type]

    def run(self, rows: Tensor) -> Any:
        """Run the ANN's code once.

        Raises:
            RuntimeError: The forward did not take the path that was converted.
        """
        with self:
            outputs = self.network(rows)
        if dict(self.counts) != self.expected:
            raise RuntimeError(_OTHER_PATH)
        return outputs


def _joined(*parts: Any) -> Any:
    """Outputs of several runs of timesteps as one; what is no tensor is the same in all."""
    return torch.cat(parts) if isinstance(parts[0], Tensor) else parts[0]
