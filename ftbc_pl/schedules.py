"""Learning-rate schedules that span the whole training, however long it is made on the command line."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, SequentialLR


def announce_length(optimizer: Optimizer, steps: int) -> None:
    """Tell the schedules of this module how many optimizer steps the training takes."""
    optimizer.training_steps = steps  # type: ignore[attr-defined]


def _length(optimizer: Optimizer) -> int:
    steps = getattr(optimizer, "training_steps", None)
    if steps is None:
        raise ValueError("The length of the training is unknown: call announce_length(optimizer, steps) first.")
    return int(steps)


class Cosine(SequentialLR):
    """Cosine decay to `eta_min` over all optimizer steps, after a linear warm-up."""

    def __init__(self, optimizer: Optimizer, eta_min: float = 0.0, warmup_fraction: float = 0.0) -> None:
        """Create the schedule.

        Args:
            optimizer: The optimizer.
            eta_min: Learning rate at the end.
            warmup_fraction: Part of the training, in [0, 1), in which the learning rate rises from near zero.
        """
        steps = _length(optimizer)
        warmup = int(steps * warmup_fraction)
        schedules: list[LRScheduler] = []
        if warmup:
            schedules.append(LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup))
        schedules.append(CosineAnnealingLR(optimizer, T_max=max(1, steps - warmup), eta_min=eta_min))
        super().__init__(optimizer, schedules, milestones=[warmup] if warmup else [])


class OneCycle(OneCycleLR):
    """One-cycle schedule over all optimizer steps (Smith & Topin, 2018)."""

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float = 0.1,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        """Create the schedule.

        Args:
            optimizer: The optimizer.
            max_lr: Largest learning rate.
            pct_start: Part of the training in which the learning rate rises.
            div_factor: The learning rate starts at max_lr / div_factor.
            final_div_factor: It ends at its start value / final_div_factor.
        """
        steps = _length(optimizer)
        super().__init__(
            optimizer,
            max_lr,
            total_steps=steps,
            pct_start=pct_start,
            div_factor=div_factor,
            final_div_factor=final_div_factor,
        )
