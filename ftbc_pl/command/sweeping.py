"""The command sweep: its runs are processes of their own."""

from ftbc_pl.command.parser import call
from ftbc_pl.safety.signals import Stopping
from ftbc_pl.sweeps import sweep


def run(arguments: list[str], stopping: Stopping) -> None:
    """Run a sweep file.

    Args:
        arguments: The command's name and options.
        stopping: Not looked at: the same command goes on where a sweep was stopped.
    """
    call(sweep, arguments, as_positional=True)
