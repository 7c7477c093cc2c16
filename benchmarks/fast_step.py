"""One training step on a GPU without the cost of launching its kernels, and what is kept of the weights it makes."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ftbc_pl.layers import QCFS

WARMUP_STEPS = 4


class Step:
    """Forward and backward of one batch, recorded once as a CUDA graph and replayed, or run as they are.

    Attributes:
        images: The batch, (B, 3, H, W); to be filled before each call.
        labels: Its classes, (B,).
        total_loss: Sum of the losses since it was last set to 0.
    """

    def __init__(self, network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], batch_size: int) -> None:
        """Prepare the step; `loss` gets the batch and its classes, and runs the network."""
        parameter = next(network.parameters())
        self.network, self.loss = network, loss
        self.images = torch.zeros(batch_size, 3, 32, 32, device=parameter.device, dtype=compute_type(parameter.device))
        self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.zeros(batch_size, dtype=torch.int64, device=parameter.device)
        self.total_loss = torch.zeros((), device=parameter.device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def record(self, images: Tensor, labels: Tensor) -> None:
        """Record the step, by running it on a batch. Gradients keep their place from now on.

        Raises:
            RuntimeError: The recording does not give the gradients that the step gives.
        """
        self.images.copy_(images)
        self.labels.copy_(labels)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_STEPS):
                self.network.zero_grad(set_to_none=True)
                self._run()
        torch.cuda.current_stream().wait_stream(stream)
        self.network.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run()
        self.graph = graph
        self._check()
        self.total_loss.zero_()

    def _check(self) -> None:
        """Compare the gradients of the recording with those of the step as it is."""
        assert self.graph is not None
        self.graph.replay()
        parameters = list(self.network.parameters())
        recorded = [parameter.grad for parameter in parameters]
        self.network.zero_grad(set_to_none=True)
        self._run()
        got, expected = (
            torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
            for gradients in (recorded, [parameter.grad for parameter in parameters])
        )
        error = float((got - expected).norm() / expected.norm()) if got.shape == expected.shape else math.inf
        # Sums in another order round in another way, to 8 bits.
        if not error < 0.2:
            raise RuntimeError(f"expected a recording with the gradients of the step, got an error of {error:.3g}")
        for parameter, gradient in zip(parameters, recorded, strict=True):
            parameter.grad = gradient

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """Give each parameter its gradient for a batch."""
        self.images.copy_(images)
        self.labels.copy_(labels)
        if self.graph is not None:
            self.graph.replay()
            return
        self.network.zero_grad(set_to_none=True)
        self._run()

    def _run(self) -> None:
        loss = self.loss(self.images, self.labels)
        loss.backward()
        self.total_loss += loss.detach()


def compute_type(device: torch.device) -> torch.dtype:
    """Type to train in: bfloat16 on a GPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def logits(network: nn.Module, images: Tensor) -> Tensor:
    """Run a network in the type of `compute_type`."""
    # The cache of cast weights must not outlive a recording.
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda, cache_enabled=False):
        return network(images).float()


def distilled_loss(student: Tensor, teacher: Tensor | None, labels: Tensor, smoothing: float) -> Tensor:
    """0.1 · cross entropy + 0.9 · τ² · KL(teacher ‖ student) with logits / τ, τ = 4 (Hinton et al., arXiv 1503.02531).

    Args:
        student: Logits, (B, classes).
        teacher: Logits, (B, classes); None: cross entropy alone.
        labels: Classes, (B,).
        smoothing: Probability that is spread over all classes in the cross entropy.

    Returns:
        The loss, a scalar.
    """
    entropy = F.cross_entropy(student, labels, label_smoothing=smoothing)
    if teacher is None:
        return entropy
    soft = F.kl_div(
        F.log_softmax(student / 4, 1), F.log_softmax(teacher / 4, 1), reduction="batchmean", log_target=True
    )
    return 0.1 * entropy + 0.9 * 4**2 * soft


def optimiser(network: nn.Module, weight_decay: float) -> torch.optim.SGD:
    """SGD whose groups say by `scale` what part of the learning rate they get.

    Thresholds are not decayed, and move at a tenth of the rate: their gradients are sums over all activations.
    """
    thresholds = [module.threshold for module in network.modules() if isinstance(module, QCFS)]
    own = {id(parameter) for parameter in thresholds}
    others = [parameter for parameter in network.parameters() if id(parameter) not in own]
    groups = [
        {"params": others, "weight_decay": weight_decay, "scale": 1.0},
        {"params": thresholds, "weight_decay": 0.0, "scale": 0.1},
    ]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)


def learning_rate(progress: float, peak: float, warmup: float = 0.04) -> float:
    """A linear rise to `peak` and half a cosine to 0, at `progress` in 0..1."""
    if progress < warmup:
        return peak * (0.02 + 0.98 * progress / warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


class Average:
    """Exponential moving average of weights and statistics."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start from the present weights."""
        self.decay, self.steps = decay, 0
        self.live = [value for value in network.state_dict().values() if value.is_floating_point()]
        self.values = [value.clone() for value in self.live]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights."""
        self.steps += 1
        # The first weights are forgotten sooner.
        decay = min(self.decay, self.steps / (self.steps + 10))
        torch._foreach_lerp_(self.values, self.live, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the network have the average for a while; its own tensors stay where they are."""
        kept = [value.clone() for value in self.live]
        with torch.no_grad():
            torch._foreach_copy_(self.live, self.values)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.live, kept)
