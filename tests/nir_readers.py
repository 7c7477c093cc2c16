"""Two ways to run a NIR file that share no code with the export: NIR's definitions word by word, and snnTorch."""

import nir
import numpy as np
import torch
from snntorch.import_nir import import_from_nir
from torch.nn import functional as F

from ftbc_pl.simulation.visitors import Simulation


class Spikes(Simulation):
    """Visitor that keeps the spikes of every site."""

    def __init__(self, num_steps):
        super().__init__(num_steps)
        self.spikes = []

    def simulate(self, call, site, current, out):
        super().simulate(call, site, current, out)
        self.spikes.append(out != 0)


def our_run(snn, images):
    """Outputs (T, B, classes) and the spikes of each site (T, B, ...)."""
    snn.reset()
    visitor = Spikes(snn.num_steps)
    with torch.no_grad():
        outputs = snn.visit(images, visitor)
    snn.reset()
    return outputs, visitor.spikes


def inputs(graph, images):
    """Images and clock as the metadata says, (T, B, C + T, ...)."""
    steps = int(graph.metadata["num_steps"])
    assert images.shape[1] == int(graph.metadata["image_channels"])
    clock = torch.eye(steps, dtype=images.dtype).view(steps, 1, steps, *[1] * (images.ndim - 2))
    clock = clock.expand(steps, len(images), steps, *images.shape[2:])
    return torch.cat([images.expand(steps, *images.shape), clock], 2)


def sites(graph):
    return graph.metadata["sites"].split("\n")


class Naive:
    """NIR's equations in float64, one node after the other, with the reset that the metadata describes."""

    def __init__(self, graph):
        self.graph = graph
        self.membranes = {}
        self.sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}

    def run(self, images):
        spikes = {name: [] for name in sites(self.graph)}
        outputs = []
        for x in inputs(self.graph, images.double()):
            values = {}
            while len(values) < len(self.graph.nodes):
                for name, node in self.graph.nodes.items():
                    if name not in values and all(source in values for source in self.sources[name]):
                        total = sum((values[source] for source in self.sources[name]), torch.zeros(()).double())
                        values[name] = self.node(name, node, x if isinstance(node, nir.Input) else total)
            outputs.append(values["output"])
            for name in spikes:
                spikes[name].append(values[name] != 0)
        return torch.stack(outputs), [torch.stack(steps) for steps in spikes.values()]

    def node(self, name, node, x):
        if isinstance(node, nir.Input | nir.Output):
            return x
        if isinstance(node, nir.Affine):
            return x @ _double(node.weight).T + _double(node.bias)
        if isinstance(node, nir.Conv2d):
            stride, padding, dilation = (_pair(v) for v in (node.stride, node.padding, node.dilation))
            weight, bias = _double(node.weight), _double(node.bias)
            return F.conv2d(x, weight, bias, stride, padding, dilation, int(node.groups))
        if isinstance(node, nir.AvgPool2d):
            return F.avg_pool2d(x, _pair(node.kernel_size), _pair(node.stride), _pair(node.padding))
        if isinstance(node, nir.Flatten):
            assert (node.start_dim, node.end_dim) == (0, -1)
            return x.flatten(1)
        assert isinstance(node, nir.IF)
        membrane = self.membranes.get(name, 0) + x * _double(node.r)
        fired = membrane >= _double(node.v_threshold)
        self.membranes[name] = membrane - fired * _double(node.v_threshold)
        return fired.double()


def snntorch_run(graph, images):
    """Run the file in snnTorch, as it reads it but for its weights' 32 bits and three properties of its neurons.

    Image by image, since it takes the dimensions of NIR's Flatten for those of a tensor with a batch.
    """
    network, neurons = snntorch_network(graph)
    if images.dtype == torch.float64:
        network.double()
        for name, node in graph.nodes.items():  # it reads them as 32-bit numbers
            if isinstance(node, nir.Conv2d | nir.Affine):
                layer = network.get_submodule(name.replace(".", "_"))
                layer.weight.data, layer.bias.data = _double(node.weight), _double(node.bias)
    spikes = {name: [] for name in neurons}
    for name, neuron in neurons.items():
        neuron.beta.fill_(1)  # it reads an IF node as one that leaks, with beta = 0.9
        neuron.reset_delay = True  # without it a membrane that is above θ after its spike loses θ again, unfired
        neuron.init_hidden = True  # it would hand on a tuple of spikes and membrane
        neuron.register_forward_hook(lambda _m, _i, out, name=name: spikes[name].append(out != 0))
        neuron.register_forward_hook(lambda _m, _i, out: out.to(images.dtype))  # its spikes are 32-bit numbers
    outputs = []
    with torch.no_grad():
        for image in inputs(graph, images).unbind(1):
            for neuron in neurons.values():
                neuron.reset_mem()
            state = None
            for x in image:
                output, state = network(x, state)
                outputs.append(output)
    shape = len(images), int(graph.metadata["num_steps"])
    stacked = [torch.stack(steps).unflatten(0, shape).transpose(0, 1) for steps in spikes.values()]
    return torch.stack(outputs).unflatten(0, shape).transpose(0, 1), stacked


def snntorch_network(graph):
    """The network that snnTorch makes of a graph, and its neurons by site."""
    network = import_from_nir(graph)
    return network, {name: network.get_submodule(name.replace(".", "_")) for name in sites(graph)}


def _double(values):
    return torch.from_numpy(np.asarray(values)).double()


def _pair(value):
    return tuple(int(v) for v in np.broadcast_to(value, 2))
