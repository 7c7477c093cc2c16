"""GPU kernels in Triton: the same functions as elsewhere in `ftbc_pl.functional`, with few launches.

Importing this package doesn't import Triton; its modules do, so import them only where `available` says so.
"""

import importlib
import importlib.util
import warnings
from functools import cache

import torch


@cache
def available(device: torch.device) -> bool:
    """Whether kernels run on `device`, found out with a tiny one; why they don't is said once."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    neuron = importlib.import_module("ftbc_pl.functional.kernels.neuron")
    try:
        current, membrane = torch.zeros(1, 2, 2, device=device), torch.zeros(2, 2, device=device)
        neuron.integrate_and_fire_(current, membrane, torch.ones(2, device=device), None, current, 1)
    except Exception as error:  # whatever a compiler, a driver or a header that is missing raises
        warnings.warn(
            f"Triton's kernels don't run on {device}, so neurons take many small ones instead: make them compile (they "
            f"need a C compiler such as gcc). It said: {error}",
            stacklevel=2,
        )
        return False
    return True
