"""Settings of optimizers and schedules that a checkpoint overrules where a training goes on from it.

Lightning restores both as they were, so that the training goes on as if unbroken. What was given otherwise this time
takes no effect, which has to be said.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim.lr_scheduler import ReduceLROnPlateau

# What describes a schedule of torch, as its state has it; all else in there counts steps.
_OF_SCHEDULES = frozenset(
    {"T_0", "T_max", "T_mult", "end_factor", "eta_min", "factor", "gamma", "milestones", "patience", "power",
     "start_factor", "step_size", "total_iters", "total_steps"}
)  # fmt: skip
_CYCLED = frozenset({"momentum", "betas"})  # by schedules that keep the bounds in the group

Found = dict[str, Any]


def settings_of(trainer: Trainer) -> Found:
    """Return the settings of a trainer's optimizers and schedules by name, whatever step they are at."""
    plateau = any(isinstance(config.scheduler, ReduceLROnPlateau) for config in trainer.lr_scheduler_configs)
    found: Found = {}
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            cycled = _CYCLED if "max_momentum" in group else frozenset()
            for key, value in group.items():
                if key not in ("params", "lr", "initial_lr", *cycled):
                    _note(found, key, value)
            if not plateau:  # which changes the rate itself
                _note(found, "lr", group.get("initial_lr", group["lr"]))
    for config in trainer.lr_scheduler_configs:
        for key, value in _of_schedule(config.scheduler.state_dict()):
            _note(found, key, value)
    return found


def warn_of_overruled(trainer: Trainer, given: Found) -> None:
    """Say which settings a restored training goes on with that were given otherwise.

    Args:
        trainer: The trainer, whose optimizers and schedules have been restored.
        given: Its settings before that.
    """
    restored = settings_of(trainer)
    differing = [
        f"{key} {_shown(restored[key])} (not {_shown(given[key])})"
        for key in given
        if key in restored and restored[key] != given[key]
    ]
    if differing:
        rank_zero_warn(
            f"The optimizer and its schedule go on as they are in {trainer.ckpt_path}, with {', '.join(differing)}: "
            "what was given otherwise takes no effect. To train with it, start anew from these weights (model.weights)."
        )


def _of_schedule(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in state.items():
        if key in _OF_SCHEDULES:
            yield key, value
        elif key == "_schedulers":
            for part in value:
                yield from _of_schedule(part)


def _note(found: Found, key: str, value: Any) -> None:
    plain = tuple(value) if isinstance(value, list | tuple) else dict(value) if isinstance(value, Mapping) else value
    values = found.setdefault(key, [])
    if plain not in values:
        values.append(plain)


def _shown(values: list[Any]) -> str:
    return " and ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
