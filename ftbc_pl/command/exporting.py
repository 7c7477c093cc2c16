"""The command export: it takes neither model nor data nor trainer."""

from ftbc_pl.command.parser import call
from ftbc_pl.export import export
from ftbc_pl.safety.signals import Stopping


def run(arguments: list[str], stopping: Stopping) -> None:
    """Write a saved spiking network in another format.

    Args:
        arguments: The command's name and options.
        stopping: Not looked at: the file is written as a whole.
    """
    call(export, arguments)
