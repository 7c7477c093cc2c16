"""Naive, slow, obviously right versions of what the package computes fast; written from the papers."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def qcfs(x: float, threshold: float, levels: int) -> float:
    """Bu et al. (ICLR 2022), eq. 15 with shift ½, for one number."""
    return threshold / levels * min(max(math.floor(x * levels / threshold + 0.5), 0), levels)


def neuron(current: list[float], threshold: float, v0: float, bias: list[float] | None = None) -> list[float]:
    """Outputs θ·s[t] of one integrate-and-fire neuron with reset by subtraction."""
    v, outputs = v0 * threshold, []
    for t, x in enumerate(current):
        u = v + x + (bias[t] if bias else 0.0)
        s = 1.0 if u >= threshold else 0.0
        v = u - threshold * s
        outputs.append(threshold * s)
    return outputs


def heuristic(
    currents: Tensor, activation: Tensor, threshold: Tensor, v0: float, bias: Tensor, alpha: float, layer: bool
) -> tuple[Tensor, Tensor]:
    """Wu et al. (ECCV 2024), algorithm 1 for one layer and one batch, step by step.

    Args: currents (T, B, C), activation (B, C), threshold (C,), bias (T, C). Returns outputs (T, B, C), new bias.
    """
    bias = bias.clone()
    membrane = (v0 * threshold).expand_as(activation).clone()
    outputs = []
    for t in range(len(currents)):
        potential = membrane + currents[t] + bias[t]
        fired = (potential >= threshold).to(membrane) * threshold
        error = fired.mean(0) - activation.mean(0)
        if layer:
            error = error.mean().expand_as(error)
        bias[t] = bias[t] - alpha * error
        potential = membrane + currents[t] + bias[t]
        fired = (potential >= threshold).to(membrane) * threshold
        membrane = potential - fired
        outputs.append(fired)
    return torch.stack(outputs), bias


def order_statistic(values: list[float], rank: int) -> float:
    """The value of a rank, 0 being the largest."""
    return sorted(values, reverse=True)[rank]


def exact_bias(membrane: list[float], threshold: float, fraction: float) -> float:
    """The bias half-way between firing exactly the wanted number of neurons and one less; for numbers in between."""
    ordered = sorted(membrane, reverse=True)
    firing = round(fraction * len(ordered))
    return threshold - (ordered[firing - 1] + ordered[firing]) / 2


def mse_threshold(activation: Tensor, num_steps: int, v0: float) -> float:
    """Li et al. (ICML 2021): the best of 100 fractions of the maximum, by trying all of them."""
    candidates = [float(activation.max()) * k / 100 for k in range(1, 101)]

    def error(theta: float) -> float:
        fired = torch.floor(activation * num_steps / theta + v0).clamp(0, num_steps) * theta / num_steps
        return float((activation - fired).square().sum())

    return min(candidates, key=error)


def balanced_bias(
    membrane: Tensor, error: Tensor, threshold: float, mean_weight: float, candidates: list[float]
) -> tuple[float, float]:
    """The candidate for b[t] of one channel with the least squared error, by trying all; returns it and its loss."""

    def loss(bias: float) -> float:
        left = error - threshold * (membrane + bias >= threshold).to(error)
        return float(left.square().mean() + mean_weight * left.mean() ** 2)

    return min(((b, loss(b)) for b in candidates), key=lambda pair: (pair[1], abs(pair[0])))


def error_products(outputs: Tensor, target: Tensor) -> Tensor:
    """Sum over images and classes of the product of the errors of each two steps; outputs (T, B, K), target (B, K)."""
    steps = len(outputs)
    products = torch.zeros(steps, steps, dtype=torch.float64)
    for first in range(steps):
        for second in range(steps):
            for image in range(len(target)):
                for label in range(target.shape[1]):
                    one = outputs[first, image, label].item() - target[image, label].item()
                    other = outputs[second, image, label].item() - target[image, label].item()
                    products[first, second] += one * other
    return products


def readout(products: Tensor, t: int) -> Tensor:
    """Weights of the first t steps: least wᵀEw with weights that add up to 1, the diagonal of E a hundredth larger.

    The conditions of Lagrange: 2·E·w + m = 0 and Σw = 1.
    """
    system = torch.ones(t + 1, t + 1, dtype=torch.float64)
    system[:t, :t] = 2 * products[:t, :t]
    system[:t, :t] += torch.diag(2 * 0.01 * products[:t, :t].diagonal())
    system[t, t] = 0
    right = torch.zeros(t + 1, dtype=torch.float64)
    right[t] = 1
    return torch.linalg.solve(system, right)[:t]


def weight_columns(layer: Callable[[Tensor, Tensor], Tensor], x: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    """What each weight of a layer is multiplied with: its output for weights that are all 0 but one.

    Args: the layer as a function of input and weights, input (B, ...), shape of the weights, dimension of the channels.
    Returns (C, rows, n): of each output channel, a column for each weight that acts on it, in the weights' order.
    """
    columns: dict[int, list[Tensor]] = {}
    for number in range(math.prod(shape)):
        unit = torch.zeros(math.prod(shape), dtype=x.dtype)
        unit[number] = 1
        unit = unit.view(shape)
        reached = layer(torch.ones_like(x), unit).movedim(dim, 0).flatten(1).abs().sum(1)
        channel = int(reached.argmax())
        columns.setdefault(channel, []).append(layer(x, unit).movedim(dim, 0)[channel].flatten())
    return torch.stack([torch.stack(columns[channel], 1) for channel in sorted(columns)])


def ridge(columns: Tensor, error: Tensor, scales: list[list[int]], penalty: float) -> tuple[Tensor, float]:
    """Weights of one channel and a constant with the least squared error, by a least-squares solver.

    Args: columns (rows, n), error (rows,), numbers of the columns that have a penalty together (λ times the mean of
    their squares about their means, without columns that are constant). Returns weights (n,) and the constant.
    """
    count = columns.shape[1]
    squares = (columns - columns.mean(0)).square().sum(0)
    added = torch.zeros(count, count + 1, dtype=torch.float64)
    for together in scales:
        mean = squares[together][squares[together] > 0].mean()
        for number in together:
            added[number, number] = (penalty * mean).sqrt()
    left = torch.cat([torch.cat([columns, torch.ones_like(error).unsqueeze(1)], 1), added])
    right = torch.cat([error, torch.zeros(count, dtype=torch.float64)])
    solution = torch.linalg.lstsq(left, right.unsqueeze(1)).solution.squeeze(1)
    return solution[:-1], solution[-1].item()


def synaptic_operations(
    spikes: list[list[list[int]]],
    weight_shape: tuple[int, int, int, int],
    size: tuple[int, int],
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    transposed: bool = False,
) -> int:
    """Synaptic operations of a convolution, by walking from every spike along every weight that it meets.

    Args: spikes [C][H][W] of one image and step, shape of the weights as torch has it, height and width of the output.
    """
    first, second, kernel_height, kernel_width = weight_shape
    per_group = (first if transposed else second * groups) // groups
    outputs = second if transposed else first // groups
    operations = 0
    for channel, plane in enumerate(spikes):
        assert 0 <= channel // per_group < groups
        for y, row in enumerate(plane):
            for x, count in enumerate(row):
                for ky in range(kernel_height):
                    for kx in range(kernel_width):
                        reached = []
                        for place, tap in ((y, ky), (x, kx)):
                            if transposed:
                                reached.append(place * stride - padding + tap * dilation)
                            else:
                                numerator = place + padding - tap * dilation
                                reached.append(numerator // stride if numerator % stride == 0 else -1)
                        if 0 <= reached[0] < size[0] and 0 <= reached[1] < size[1]:
                            operations += count * outputs
    return operations


def pooled(spikes: list[list[list[int]]], kernel: int, stride: int) -> list[list[list[int]]]:
    """How many spikes [C][H][W] lie in each window of a pooling without padding."""
    rows = range(0, len(spikes[0]) - kernel + 1, stride)
    columns = range(0, len(spikes[0][0]) - kernel + 1, stride)
    window = [(i, j) for i in range(kernel) for j in range(kernel)]
    return [[[sum(plane[y + i][x + j] for i, j in window) for x in columns] for y in rows] for plane in spikes]


def train(count: int, num_steps: int) -> list[int]:
    """A train of `count` spikes, 1 where it fires: those of a neuron that gets count/T of a spike at each step."""
    spikes, held = [], 0
    for _ in range(num_steps):
        held += count
        spikes.append(1 if held >= num_steps else 0)
        held -= num_steps * spikes[-1]
    return spikes


def accumulate(
    layers: list[tuple[Tensor, Tensor, list[int]]],
    image: Tensor,
    threshold: float,
    biases: list[Tensor],
    num_steps: int,
    v0: float = 0.5,
) -> tuple[list[list[int]], Tensor, int]:
    """Simulate a network of linear layers by the schedule `accumulate`, one step of time after the other.

    Every layer is followed by a site, but for the last one, whose outputs are summed up. The image is the same at every
    step, so what it alone reaches is known at once and fires in the first T steps; every other site holds what it gets
    until all that reaches it has fired, and fires its train in the T steps that follow.

    Args: layers as weights (out, in), a bias that each comes with at every step that its input comes, and what the
    input is the sum of (−1: the image, else the number of a site); image (in,); temporal bias (out,) of each site.
    Returns the numbers of spikes of each site, the mean output, and how many steps it took.
    """
    sites = len(layers) - 1
    window = {-1: 0}  # in which T steps a site fires, from 1
    for number, (_, _, sources) in enumerate(layers[:-1]):
        window[number] = 1 + max(window[source] for source in sources)
    last = max(window[source] for source in layers[-1][2])
    # What the image brings along is the same at all steps, so its sum is known at the first.
    held = [[num_steps * float(x) * (-1 in sources) for x in weight @ image] for weight, _, sources in layers]
    trains: dict[int, list[list[int]]] = {}
    counts: list[list[int]] = [[] for _ in range(sites)]
    for now in range(last * num_steps):
        starting = [number for number in range(sites) if now == (window[number] - 1) * num_steps]
        for number in starting:
            constant = num_steps * (layers[number][1] + biases[number])
            totals = [held + float(given) for held, given in zip(held[number], constant, strict=True)]
            counts[number] = [min(max(math.floor(total / threshold + v0), 0), num_steps) for total in totals]
            trains[number] = [train(count, num_steps) for count in counts[number]]
        firing = {number: now - (window[number] - 1) * num_steps for number in trains}
        for source, step in firing.items():
            fired = [threshold * spikes[step] if step < num_steps else 0.0 for spikes in trains[source]]
            for number, (weight, _, sources) in enumerate(layers):
                for row in range(len(weight)) if source in sources else ():
                    held[number][row] += sum(float(w) * spike for w, spike in zip(weight[row], fired, strict=True))
    mean = torch.tensor(held[-1], dtype=torch.float64) / num_steps + layers[-1][1].double()
    return counts, mean, last * num_steps
