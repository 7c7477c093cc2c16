"""A head start for membranes, so that those that are exactly at their threshold fire wherever the network runs.

All neurons of a channel whose inputs are silent share one membrane, and a calibration may put the threshold there. Ours
fires at `>=`; software that fires at `>`, or adds up in another order, would leave all of them out.
"""

import torch

_ROUNDINGS = 4


def head_start(dtype: torch.dtype) -> float:
    """What is added to the initial membrane, as a fraction of θ: some roundings of that dtype."""
    return _ROUNDINGS * torch.finfo(dtype).eps
