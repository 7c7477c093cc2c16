"""What every command runs in: how its process reads YAML, what it says, when it stops and how it ends."""

import importlib
import os
from collections.abc import Sequence

import yaml
from jsonargparse import get_loader, set_loader

from ftbc_pl.command.allowed import bounded
from ftbc_pl.command.endings import say_how_it_ended
from ftbc_pl.command.quiet import quiet
from ftbc_pl.safety.signals import Stopping

_read_yaml = get_loader("yaml")


def run_command(target: str, arguments: Sequence[str]) -> None:
    """Run a command, and end with one sentence whatever happens.

    Args:
        target: The function, as `module:function`.
        arguments: The command's name and options.

    Raises:
        SystemExit: The run failed, or help was asked for.
    """
    set_loader("yaml", bounded(_read_yaml), (yaml.YAMLError,))
    stopping = Stopping()
    try:
        module, _, function = target.partition(":")
        with stopping.handled(), quiet():
            getattr(importlib.import_module(module), function)(list(arguments), stopping)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if os.environ.get("FTBC_DEBUG"):
            raise
        raise SystemExit(say_how_it_ended(error, stopping, arguments)) from error
