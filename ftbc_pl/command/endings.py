"""How the command line ends: one sentence instead of a traceback, and the exit status that others expect."""

import sys
from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_only

from ftbc_pl.safety.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, Stopping

_HINT = "(FTBC_DEBUG=1 shows where it happened.)"
# What jsonargparse writes around an error of a class that it makes.
_WRAPPED = "Does not validate against any of the Union subtypes"


def say_how_it_ended(error: BaseException, stopping: Stopping, arguments: Sequence[str]) -> int | str | None:
    """Print what has happened, and return the exit status.

    Args:
        error: What has ended the run.
        stopping: What it was told from outside.
        arguments: Those of the command line.
    """
    main_process = getattr(rank_zero_only, "rank", 0) == 0
    # Lightning turns Ctrl-C within its loops into an exit with status 1.
    if stopping.terminated or stopping.interrupted or KeyboardInterrupt in (type(error), type(error.__context__)):
        if main_process:
            print(stopping.sentence(arguments), file=sys.stderr)
        if not stopping.terminated:
            return EXIT_INTERRUPTED
        # Lightning kills the first process when another one ends with a status other than 0.
        return EXIT_TERMINATED if main_process else 0
    if isinstance(error, SystemExit):
        return error.code
    print(f"ftbc-pl: error: {message(error)}\n{_HINT}", file=sys.stderr)
    return 1


def message(error: BaseException) -> str:
    """What an error says; its kind as well where Python's own words say too little."""
    if str(error).startswith(_WRAPPED) and error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    if not text or isinstance(error, KeyError | IndexError | AssertionError | StopIteration | ZeroDivisionError):
        return f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text
