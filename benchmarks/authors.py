"""Run the authors' own calibration (branch QCFS/ANN_SNN_QCFS of their code) on our weights and images.

Their code has no licence, so it is not part of this repository: name a checkout of it.
"""

import contextlib
import io
import sys
import time
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_FOLDER = Path("QCFS") / "ANN_SNN_QCFS"
_NAMES = {
    "conv1.": "conv1.0.",
    "bn1.": "conv1.1.",
    "relu.threshold": "conv1.2.thresh",
    **{f"layer{stage}.": f"conv{stage + 1}_x." for stage in (1, 2, 3)},
}
_BLOCK = {
    "conv1.": "residual_function.0.",
    "bn1.": "residual_function.1.",
    "relu1.threshold": "residual_function.2.thresh",
    "conv2.": "residual_function.3.",
    "bn2.": "residual_function.4.",
    "relu2.threshold": "act.thresh",
}


class Authors:
    """The authors' ResNet-20 with QCFS activations, and their `bias_corr_model`."""

    def __init__(self, repository: str) -> None:
        """Import from a checkout.

        Raises:
            FileNotFoundError: There is no such code in the folder.
        """
        folder = Path(repository) / _FOLDER
        if not (folder / "main_cali.py").is_file():
            raise FileNotFoundError(f"Expected main_cali.py in {folder}: name a checkout of the authors' repository.")
        sys.path.insert(0, str(folder))
        # Only used for their data sets, which are not read here; it needs packages that nothing else does.
        sys.modules["Preprocess"] = types.SimpleNamespace(datapool=None)  # type: ignore[assignment]
        from main_cali import bias_corr_model  # type: ignore[import-not-found]
        from Models.ResNet import resnet20  # type: ignore[import-not-found]

        self.bias_corr_model, self.resnet20 = bias_corr_model, resnet20

    def networks(self, ann: nn.Module, levels: int, num_steps: int) -> tuple[nn.Module, nn.Module]:
        """Their ANN and their spiking network with the weights of our ANN."""
        state = {}
        for name, value in ann.state_dict().items():
            renamed = _rename(name)
            state[renamed] = value.reshape(1) if renamed.endswith("thresh") else value
        pair = []
        for steps in (0, num_steps):
            network = self.resnet20(num_classes=10)
            network.load_state_dict(state)
            network.set_L(levels)
            with contextlib.redirect_stdout(io.StringIO()):
                network.set_T(steps)
                network.merge.T = network.expand.T = steps
            pair.append(network.eval().to(next(ann.parameters()).device))
        return pair[0], pair[1]

    def calibrate(
        self, ann: nn.Module, snn: nn.Module, num_steps: int, batches: list[Tensor], alpha: float
    ) -> tuple[int, float]:
        """Calibrate their network in place; returns forwards, counted over both of their networks, and seconds."""
        forwards: list[Any] = []
        handles = [network.register_forward_hook(lambda *_: forwards.append(1)) for network in (ann, snn)]
        loader = [(batch, None) for batch in batches]
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            self.bias_corr_model(ann, snn, num_steps, loader, alpha, len(batches))
        seconds = time.perf_counter() - began
        for handle in handles:
            handle.remove()
        return len(forwards), seconds


@torch.no_grad()
def accuracy(snn: nn.Module, loader: Any, num_steps: int) -> Tensor:
    """Accuracy of the mean output up to each step, (T,)."""
    correct, total = torch.zeros(num_steps, dtype=torch.float64), 0
    for images, labels in loader:
        mean = snn(images).cumsum(0)
        correct += (mean.argmax(-1) == labels).sum(1).cpu()
        total += len(labels)
    return correct / total


def _rename(name: str) -> str:
    for ours, theirs in _NAMES.items():
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    stage, _, rest = name.partition(".")
    if not stage.endswith("_x"):
        return name
    block, _, rest = rest.partition(".")
    for ours, theirs in _BLOCK.items():
        if rest.startswith(ours):
            rest = theirs + rest.removeprefix(ours)
            break
    return f"{stage}.{block}.{rest}"
