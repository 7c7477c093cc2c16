"""ReLU with an upper bound, the training activation of RTS (Deng & Gu, "Optimal conversion of conventional artificial
neural networks to spiking neural networks", ICLR 2021, eq. 8).
"""

import torch
from torch import Tensor

from ftbc_pl.functional.traceable import traceable


@traceable
def clipped_relu(x: Tensor, threshold: Tensor) -> Tensor:
    """Return clip(x, 0, θ).

    Args:
        x: Pre-activations of any shape, in activation units.
        threshold: Scalar tensor θ > 0, in activation units.

    Returns:
        Activations of the shape and dtype of `x`, in [0, θ].
    """
    return torch.minimum(x.relu(), threshold.to(x.dtype))
