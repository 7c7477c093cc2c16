"""The spiking network: the ANN as it is, with the calls of its sites redirected to neurons while it is simulated.

T timesteps of a batch run as T·B rows through the ANN's own forward. Convolutions and other affine operations treat
rows alike; at each site the rows are seen as (T, B, ...) again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from ftbc_pl.functional.exit import NEVER
from ftbc_pl.functional.fused import check_compiler
from ftbc_pl.functional.readout import mean_readout, weigh
from ftbc_pl.layers import SpikingNeuron
from ftbc_pl.options import ConversionOptions
from ftbc_pl.simulation.corrections import Corrections, Layers
from ftbc_pl.simulation.memory import bytes_per_row, free_bytes
from ftbc_pl.simulation.redirection import Redirection
from ftbc_pl.simulation.replay import Replay
from ftbc_pl.simulation.visitors import Simulation
from ftbc_pl.sites import ConversionReport
from ftbc_pl.tracing.calls import Call, Trace

_CPU_ROWS = 128


class SpikingNetwork(nn.Module):
    """A converted network; made by `ftbc_pl.convert`.

    Attributes:
        network: The ANN: `snn.network(images)` gives its logits (B, num_classes).
        sites: One module per site, in forward order.
        trace: What each site replaces.
        num_steps: Number of timesteps T; `shorten_` lowers it.
        time_chunk: Timesteps run at once; memory grows with it, the result does not depend on it. None: all on a GPU,
            on a CPU as many as make about 128 rows, which its caches hold; fewer where the memory is too small.
        precision: `bf16` runs layers in 16 bits in `forward`, with membranes in 32; `fp32` runs them as they are.
        memory_limit: Bytes that they may take where `time_chunk` is None; None: half of those that are free.
        options: The options of the conversion.
        input_size: Size of the image that it was converted with, without the batch.
        report: What the conversion made of each site.
        readout_weights: How much the output of each step counts in the prediction at each t, (T, T); calibration sets
            them, before they are those of the plain mean.
        corrections: Weights that the timesteps use instead of the ANN's, where a calibration has fitted some.
        uncalibrated_readout: Weights (T, T) of a least-squares readout of the network without calibration, where a run
            has fitted one: what the readout gives by itself. None elsewhere.
        exit_thresholds: Confidence at which an image may stop at each step, (T,); infinite: it may not. A choice of
            early exit sets them, a calibration takes them back.
    """

    readout_weights: Tensor
    exit_thresholds: Tensor
    uncalibrated_readout: Tensor | None
    _no_images: Tensor

    def __init__(
        self,
        network: nn.Module,
        trace: Trace,
        sites: list[nn.Module],
        options: ConversionOptions,
        input_size: tuple[int, ...],
        report: ConversionReport,
        input_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Put a traced network and its sites together."""
        super().__init__()
        self.network = network
        self.sites = nn.ModuleList(sites)
        self.trace = trace
        self.time_chunk: int | None = None
        self.memory_limit: int | None = None
        self.precision = "fp32"
        self._chunk_of: dict[Any, int] = {}
        self.options = options
        self.input_size = input_size
        self.report = report
        self.register_buffer("readout_weights", mean_readout(len(self.prediction_steps)).float())
        self.corrections = Corrections()
        self._is_calibrated = True
        self.register_buffer("exit_thresholds", torch.full((len(self.prediction_steps),), NEVER))
        self.register_buffer("uncalibrated_readout", None)
        # Empty: it only goes along where the network is moved to another type.
        self.register_buffer("_no_images", torch.empty(0, dtype=input_dtype), persistent=False)
        self._replay = Replay()
        self.eval()

    @property
    def input_dtype(self) -> torch.dtype:
        """Type of the images that it takes: that of its conversion, unless `half()` or `double()` changed it."""
        return self._no_images.dtype

    @property
    def num_steps(self) -> int:
        """Number of timesteps T."""
        return self.options.num_steps

    @num_steps.setter
    def num_steps(self, steps: int) -> None:
        instead = f"ftbc_pl.shorten_(snn, {steps}) does it" if steps in self.prediction_steps else "convert again"
        raise AttributeError(f"num_steps is {self.num_steps}, and setting it would change nothing: {instead}.")

    @property
    def prediction_steps(self) -> tuple[int, ...]:
        """Timesteps that the predictions are those of: 1 … T, or T alone by the schedule `accumulate`."""
        return self.options.prediction_steps

    @property
    def latency(self) -> int:
        """Timesteps until the last prediction: T, or depth × T by the schedule `accumulate`."""
        return self.num_steps if self.report.latency is None else self.report.latency

    @property
    def calls(self) -> tuple[Call, ...]:
        """What each site replaces."""
        return self.trace.calls

    def train(self, mode: bool = True) -> "SpikingNetwork":
        """Stay in eval mode: batch statistics and dropout have no place in a converted network."""
        return super().train(False)

    @property
    def _all_modules(self) -> list[nn.Module]:
        return list(self.modules())

    @property
    def device(self) -> torch.device:
        """Where the network is, and so where images must go."""
        tensors = [site.threshold for _, site in self.neurons()][:1] or [*self.parameters(), *self.buffers()][:1]
        return tensors[0].device if tensors else torch.device("cpu")

    def neurons(self) -> Iterator[tuple[Call, SpikingNeuron]]:
        """All spiking sites with the calls they replace, in forward order."""
        for call, site in zip(self.calls, self.sites, strict=True):
            if isinstance(site, SpikingNeuron):
                yield call, site

    def compile_neurons(self) -> None:
        """Run several steps of each neuron as one kernel made by `torch.compile`; the result is the same.

        Layers run as before. Calibration looks into the neurons at each step and does not use the kernels. A
        compilation takes some seconds, and needs a C++ compiler for a CPU, Triton for a GPU. It is not saved: call
        this again on a network that was loaded.

        Raises:
            RuntimeError: There is no compiler.
        """
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
            Output of each step, (T, B, num_classes); `readout` makes predictions of them. Networks with several
            outputs or feature maps give the same structure of such tensors, (T, B, ...). By the schedule `accumulate`
            there is one, (1, B, num_classes): the mean of the T outputs.
        """
        chunks = self.chunks(len(images), images)
        key = tuple(chunks), self._is_calibrated, self.precision
        return self._replay.run(partial(self._in_precision, chunks), images, self._all_modules, *key)

    @torch.no_grad()
    def simulate(self, images: Tensor, visitor: Callable[[int], Simulation]) -> Any:
        """Simulate as `forward` does, with visitors of one's own.

        Args:
            images: (B, ...).
            visitor: Makes the visitor of a run of K timesteps.
        """
        return self._simulate(self.chunks(len(images), images), images, visitor)

    def _in_precision(self, chunks: list[int], images: Tensor) -> Any:
        """Simulate with layers in 16 bits where that is asked for; outputs are of the dtype of the images."""
        if self.precision == "fp32":
            return self._simulate(chunks, images)
        with torch.autocast(images.device.type, torch.bfloat16):
            outputs = self._simulate(chunks, images)
        return tree_map(lambda leaf: leaf.to(images.dtype) if _is_value(leaf) else leaf, outputs)

    def _simulate(self, chunks: list[int], images: Tensor, visitor: Callable[[int], Simulation] = Simulation) -> Any:
        self.reset()
        try:
            parts = [self.visit(images, visitor(steps)) for steps in chunks]
        finally:
            self.reset()
        return tree_map(_joined, *parts) if len(parts) > 1 else parts[0]

    def readout(self, outputs: Any) -> Any:
        """Combine the outputs of the steps so far into the prediction at each t.

        Args:
            outputs: Output of each step, (T, B, ...), or a structure of such tensors.

        Returns:
            Predictions at t = 1 … T, (T, B, ...), logits for a classifier; in the same structure.
        """
        weights = self.readout_weights if self._is_calibrated else mean_readout(len(self.prediction_steps))
        return tree_map(lambda leaf: weigh(leaf, weights) if _is_value(leaf) else leaf, outputs)

    def chunks(self, batch_size: int, images: Tensor | None = None) -> list[int]:
        """Numbers of blocks of rows to run at once for a batch of that size; they add up to one for each prediction.

        Args:
            batch_size: B.
            images: Some of the batch, to find out what they take in memory; None: as if there were enough.
        """
        chunk = self.chunk(batch_size, images)
        full, rest = divmod(len(self.prediction_steps), chunk)
        return [chunk] * full + ([rest] if rest else [])

    def chunk(self, batch_size: int, images: Tensor | None = None, more_rows: int = 0, more_neurons: int = 0) -> int:
        """Number of timesteps to run at once; arguments as of `chunks`.

        Args:
            batch_size: B.
            images: Some of the batch.
            more_rows: Blocks of B rows beside the timesteps.
            more_neurons: Numbers to keep of each neuron beside its membrane.
        """
        blocks = len(self.prediction_steps)
        if self.time_chunk is not None:
            return min(self.time_chunk, blocks)
        automatic = blocks if self.device.type != "cpu" else max(1, _CPU_ROWS // batch_size)
        automatic = min(automatic, blocks)
        if automatic == 1 or images is None or torch.compiler.is_compiling():
            return automatic
        key = batch_size, images.shape[1:], images.dtype, images.device, more_rows, more_neurons, self.memory_limit
        if key not in self._chunk_of:  # once: what is free now includes what was taken before
            self._chunk_of[key] = self._fitting(automatic, batch_size, images, more_rows, more_neurons)
        return self._chunk_of[key]

    def _fitting(self, most: int, batch_size: int, images: Tensor, more_rows: int, more_neurons: int) -> int:
        """How many timesteps fit into the memory, `most` at most; see `chunk`."""
        limit = free_bytes(images.device) if self.memory_limit is None else self.memory_limit
        if limit is None:
            return most
        numbers = sum(call.record.size for call in self.calls) * images.element_size() * batch_size
        if 4 * numbers * (most + more_rows) <= limit:  # far from it: no forward to find out more
            return most
        left = limit - limit // 8 - (1 + more_neurons) * numbers  # an eighth for what is small
        return max(1, min(most, left // (batch_size * max(1, bytes_per_row(self.network, images))) - more_rows))

    def visit(self, images: Tensor, visitor: Simulation, layers: Layers | None = None) -> Any:
        """Run the ANN's code on the rows of `visitor`; outputs are (blocks, B, ...).

        Args:
            images: (B, ...).
            visitor: What happens at the sites.
            layers: What happens at all other calls; left out: corrected weights are used, where there are any.
        """
        if layers is None and self._is_calibrated:
            layers = self.corrections.during(visitor.rows, visitor.ann_rows)
        rows = images
        if not self.trace.static_prefix:
            rows = images.expand(visitor.rows, *images.shape).flatten(0, 1)
        outputs = Redirection(self.network, self.trace, self.sites, visitor, layers).run(rows)
        leaves, structure = tree_flatten(outputs)
        static = iter(self.trace.static_outputs)
        leaves = [visitor.unfold(leaf, next(static)) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return tree_unflatten(leaves, structure)

    @contextmanager
    def uncalibrated(self) -> Iterator[None]:
        """Simulate with the ANN's weights and no temporal bias, and read out plain means, inside this context."""
        self._use_calibration(False)
        try:
            yield
        finally:
            self._use_calibration(True)

    def _use_calibration(self, use: bool) -> None:
        self._is_calibrated = use
        for _, site in self.neurons():
            site.use_bias = use


def _is_value(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _joined(*parts: Any) -> Any:
    """Outputs of several runs of timesteps as one; what is no tensor is the same in all."""
    return torch.cat(parts) if isinstance(parts[0], Tensor) else parts[0]
