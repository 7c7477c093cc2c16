"""Write a spiking network as an ONNX model whose T timesteps are unrolled.

The ANN's own code runs on T·B rows, as in the simulation, so the model holds each layer once; only neurons and
rate-exact sites have one copy of their few operations per step. The readout is part of it.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path

from ftbc_pl.export.errors import ExportError, check_schedule
from ftbc_pl.export.packages import required
from ftbc_pl.files import atomic_path
from ftbc_pl.functional.neuron import per_channel
from ftbc_pl.layers import SpikingNeuron, TemporalDifference
from ftbc_pl.simulation import SpikingNetwork
from ftbc_pl.simulation.visitors import Simulation
from ftbc_pl.tracing import Call

_LARGEST = 2**31  # bytes, a limit of the file format


def export_onnx(
    snn: SpikingNetwork, path: str | os.PathLike[str], *, batch_size: int | None = None, spikes: bool = False
) -> None:
    """Write a spiking network, calibrated or not, as an ONNX model; needs the packages `onnx` and `onnxscript`.

    The model takes `images` (B, ...) and gives `outputs`, the output of each step, (T, B, classes), and
    `predictions`, (T, B, classes), what the readout makes of them at t = 1 … T. A network of several outputs has one
    of each for every tensor, named by where it is, such as `outputs/boxes/0` and `predictions/boxes/0`.

    Args:
        snn: The spiking network.
        path: The file, such as `out/snn.onnx`; its folder is made. It holds the weights, up to 2 GB.
        batch_size: Batch size of the model; left out: any, for networks whose code does not fix it.
        spikes: Whether each site's spikes, (T, B, ...) of 0 and 1, are outputs too, in forward order, named
            `spikes/<site>`.

    Raises:
        ExportError: The network's code or its schedule can't be exported, or its weights are too many; says why.
        ImportError: The packages are not installed.
        OSError: The file can't be written; one that was there is as it was.
    """
    check_schedule(snn, "ONNX")
    for package in ("onnx", "onnxscript"):
        required(package)
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*snn.parameters(), *snn.buffers()))
    if size >= _LARGEST:
        raise ExportError("ONNX", [f"(network): an ONNX file holds 2 GB, the weights are {size / 2**30:.1f}"])
    model = _Unrolled(snn, spikes).eval()
    device = snn.device
    example = torch.zeros(batch_size or 2, *snn.input_size, dtype=snn.input_dtype, device=device)
    names = [*_output_names(snn, example), *(f"spikes/{call.name}" for call, _ in snn.neurons() if spikes)]
    shapes = None if batch_size else ({0: torch.export.Dim("batch")},)
    try:
        # Here, since torch.onnx.export tries other ways where this one fails, which fix the batch.
        exported = torch.export.export(model, (example,), dynamic_shapes=shapes, strict=False)
        program = torch.onnx.export(
            exported,
            input_names=["images"],
            output_names=names,
            dynamo=True,
            optimize=False,  # takes as long as all the rest; runtimes do so when they load a model
            verbose=False,
        )
    except Exception as error:  # the code of the network decides
        advice = "" if batch_size else "pass batch_size= if the network's code looks at the size of its batch; "
        raise ExportError("ONNX", [f"(network): {advice}{type(error).__name__}: {error}"]) from error
    assert program is not None  # as dynamo=True promises
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        program.save(temporary)


class _Unrolled(nn.Module):
    """The simulation as one function of the images, without state and without operations in place."""

    def __init__(self, snn: SpikingNetwork, spikes: bool) -> None:
        super().__init__()
        self.snn, self.spikes = snn, spikes

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        visitor = _Functional(self.snn.num_steps)
        outputs = self.snn.visit(images, visitor)
        values = [*_tensors(outputs).values(), *_tensors(self.snn.readout(outputs)).values()]
        return *values, *((fired != 0).to(fired) for fired in visitor.spikes if self.spikes)


def _tensors(outputs: Any) -> dict[str, Tensor]:
    """The tensors of an output by where they are in it: `/boxes/0`, or an empty name where it is one tensor."""
    leaves, _ = tree_flatten_with_path(outputs)
    return {
        "".join(f"/{getattr(key, 'key', getattr(key, 'idx', getattr(key, 'name', key)))}" for key in path): leaf
        for path, leaf in leaves
        if isinstance(leaf, Tensor)
    }


@torch.no_grad()
def _output_names(snn: SpikingNetwork, example: Tensor) -> list[str]:
    places = _tensors(snn.network(example.clone()))
    return [f"{kind}{place}" for kind in ("outputs", "predictions") for place in places]


class _Functional(Simulation):
    """Visitor that runs neurons by operations that ONNX has."""

    def __init__(self, num_steps: int) -> None:
        super().__init__(num_steps)
        self.spikes: list[Tensor] = []

    def neuron(self, call: Call, site: SpikingNeuron, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        current = self.unfold(x, call.static[0])
        theta = site.theta(current.ndim - 1, current.dtype)
        bias = per_channel(site.temporal_bias.to(current.dtype), current.ndim - 1, site.channel_dim)
        silent = torch.zeros((), dtype=current.dtype, device=current.device)
        membrane = theta * site.v0
        outputs = []
        # In the order of the simulation: many neurons share a membrane that a rounding puts above or below θ.
        for drive, correction in zip(current.unbind(0), bias.unbind(0), strict=True):
            potential = membrane + drive + correction
            outputs.append(torch.where(potential >= theta, theta, silent))
            membrane = potential - outputs[-1]
        fired = torch.stack(outputs)
        self.spikes.append(fired)
        return fired.flatten(0, 1)

    def rate_exact(
        self, call: Call, site: TemporalDifference, inputs: list[Tensor], function: Callable[..., Tensor]
    ) -> Tensor:
        if all(call.static):
            return function(*inputs)
        blocks = [self.unfold(x, static) for x, static in zip(inputs, call.static, strict=True)]
        counts = torch.arange(1, self.num_steps + 1, dtype=blocks[0].dtype, device=blocks[0].device)
        means = [block.cumsum(0) / per_channel(counts, block.ndim, 0) for block in blocks]
        value = function(*(mean.flatten(0, 1) for mean in means)).unflatten(0, (self.num_steps, -1))
        totals = value * per_channel(counts, value.ndim, 0)
        return torch.cat([totals[:1], totals[1:] - totals[:-1]]).flatten(0, 1)
