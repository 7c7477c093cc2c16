"""The command sweep: its runs are processes of their own."""

from jsonargparse import auto_cli

from ftbc_pl.safety.signals import Stopping
from ftbc_pl.sweeps import sweep


def run(arguments: list[str], stopping: Stopping) -> None:
    """Run a sweep file.

    Args:
        arguments: The command's name and options.
        stopping: Not looked at: the same command goes on where a sweep was stopped.
    """
    auto_cli(sweep, args=arguments[1:], prog="ftbc-pl sweep")
