"""W&B where it can't be reached: the run is kept offline, and that is said before it starts."""

import os
import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from lightning.pytorch.utilities import rank_zero_info

_TIMEOUT = 5.0


def choose_offline(loggers: Any) -> None:
    """Switch the W&B loggers of a configuration to offline mode where nobody is logged in or W&B can't be reached.

    Args:
        loggers: The section `trainer.logger` of a configuration, changed in place.
    """
    if "WANDB_MODE" in os.environ:
        return
    online = [
        logger.init_args
        for logger in (loggers if isinstance(loggers, list) else [loggers])
        if getattr(logger, "class_path", "").endswith("WandbLogger") and not logger.init_args.offline
    ]
    why = why_offline() if online else ""
    if not why:
        return
    rank_zero_info(f"W&B: {why}, so this run is kept offline; `wandb sync` uploads it later.")
    for arguments in online:
        arguments.offline = True
        if arguments.get("log_model"):
            arguments.log_model = False
            rank_zero_info("W&B: log_model needs W&B itself, so checkpoints stay in the folder of checkpoints.")


def why_offline() -> str:
    """Why a run can't be logged online, an empty string where it can."""
    import wandb  # here, because a run without W&B should not wait for it

    try:
        address = wandb.setup().settings.base_url  # W&B's own, or that of a variable or a file of settings
        if not has_key(address):
            return "no login found"
        if not can_connect(address):
            return f"{urlsplit(address).hostname} can't be reached"
        return "" if wandb.login(prompt=False) else "no login found"
    except Exception as error:  # wandb raises errors of its own for keys that are none
        return f"the login fails ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    finally:
        wandb.teardown()  # else wandb keeps the mode that it has read now


def has_key(address: str) -> bool:
    """Whether this machine holds a key for a server of W&B; asks no network.

    Raises:
        Exception: One of wandb's own, for a key that is none.
    """
    from wandb.sdk.lib import wbauth

    found = wbauth.authenticate_session(host=address, source="ftbc-pl", prompt=False, update_session=False)
    return found is not None


def can_connect(address: str) -> bool:
    """Whether a server, or the proxy on the way to it, accepts connections."""
    target = urlsplit(getproxies().get(urlsplit(address).scheme, address))
    port = target.port or (80 if target.scheme == "http" else 443)
    try:
        with socket.create_connection((target.hostname, port), timeout=_TIMEOUT):
            return True
    except OSError:
        return False
