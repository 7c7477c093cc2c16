"""A head start for membranes, so that those meant to be at their threshold fire wherever the network runs.

Calibration puts the threshold exactly at the membrane of some neuron, and all neurons whose inputs are silent share one
membrane. Ours fires at ``>=``; software that adds up in another order, or fires at ``>``, would leave all of them out.
"""

import torch

_ROUNDINGS = 4


def head_start(dtype: torch.dtype) -> float:
    """What is added to the initial membrane, as a fraction of θ: some roundings of that dtype."""
    return _ROUNDINGS * torch.finfo(dtype).eps
