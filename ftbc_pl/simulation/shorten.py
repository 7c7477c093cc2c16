"""A calibrated network with fewer timesteps, or with another readout, without calibrating it again."""

from dataclasses import replace

import torch
from torch import Tensor

from ftbc_pl.functional.exit import NEVER
from ftbc_pl.functional.readout import mean_readout
from ftbc_pl.simulation.network import SpikingNetwork

__all__ = ["knows_mean_alone", "reads_mean", "shorten_", "use_mean_readout_"]


@torch.no_grad()
def shorten_(snn: SpikingNetwork, num_steps: int) -> None:
    """Simulate only the first timesteps, in place: what is predicted at these stays the same, to the bit.

    The bias and the readout of a step depend on no later one.

    Args:
        snn: The network, calibrated or not.
        num_steps: Timesteps from now on, at most as many as it has.

    Raises:
        ValueError: It was made for fewer.
    """
    if not 1 <= num_steps <= snn.num_steps:
        raise ValueError(
            f"expected num_steps in 1..{snn.num_steps}, the steps that the network was made for, got {num_steps}: make "
            "one for more steps with fit or calibrate"
        )
    if num_steps == snn.num_steps:
        return
    if snn.options.schedule == "accumulate":
        raise ValueError(
            f"expected num_steps {snn.num_steps}, got {num_steps}: by the schedule accumulate a network answers at the "
            "timesteps that it was made for alone; make another with fit or calibrate"
        )
    for _, site in snn.neurons():
        site.temporal_bias = site.temporal_bias[:num_steps].clone()
    snn.readout_weights = snn.readout_weights[:num_steps, :num_steps].clone()
    if snn.uncalibrated_readout is not None:
        snn.uncalibrated_readout = snn.uncalibrated_readout[:num_steps, :num_steps].clone()
    snn.exit_thresholds = snn.exit_thresholds[:num_steps].clone()
    snn.options = replace(snn.options, num_steps=num_steps)


@torch.no_grad()
def use_mean_readout_(snn: SpikingNetwork) -> None:
    """Predict by the plain mean of the outputs, in place; thresholds of early exit are taken back if this is new."""
    snn.uncalibrated_readout = None
    if not reads_mean(snn.readout_weights):
        snn.readout_weights.copy_(mean_readout(len(snn.readout_weights)))
        snn.exit_thresholds.fill_(NEVER)


def reads_mean(weights: Tensor) -> bool:
    """Whether weights (T, T) of a readout are those of the plain mean."""
    return bool(torch.equal(weights.cpu(), mean_readout(len(weights)).to(weights.dtype)))


def knows_mean_alone(snn: SpikingNetwork) -> bool:
    """Whether a network has no other readout than the plain mean; with one prediction all readouts are the same."""
    return len(snn.readout_weights) > 1 and reads_mean(snn.readout_weights)
