"""How Lightning starts the processes of a training."""

from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher


def check_launcher(trainer: Trainer) -> None:
    """Check that the processes of a training live on after it: what follows it runs in them.

    Raises:
        ValueError: They are started by `fit` and end with it, as those of ddp_spawn and ddp_notebook.
    """
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise ValueError(
            "The strategies ddp_spawn, ddp_fork and ddp_notebook start processes that end with the training, before "
            "its network can be converted: use ddp, or one device."
        )
