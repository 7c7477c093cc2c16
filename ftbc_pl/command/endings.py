"""How the command line ends: one sentence instead of a traceback, and the exit status that others expect."""

import sys
import traceback
from collections.abc import Iterator, Sequence
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request

from lightning.pytorch.utilities import rank_zero_only

from ftbc_pl.command.table import COMMANDS
from ftbc_pl.safety.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, Stopping

_HINT = "(FTBC_DEBUG=1 shows where it happened.)"
_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
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
            command = COMMANDS.get(arguments[0]) if arguments else None
            print(stopping.sentence(arguments, command is not None and command.goes_on), file=sys.stderr)
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
    address = failed_download(error)
    if address:
        return f"can't fetch {address} ({text.rstrip('.')}). {_offline(address)}"
    if not text or isinstance(error, KeyError | IndexError | AssertionError | StopIteration | ZeroDivisionError):
        return f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text


def failed_download(error: BaseException) -> str:
    """The address that could not be fetched where that is what an error comes from; empty where it is not."""
    for part in _chain(error):
        if isinstance(part, HTTPError):
            return str(part.url)
        if isinstance(part, URLError):
            # It doesn't say what was asked for, but the request lies in the frames that it came through.
            frames = [frame.f_locals.values() for frame, _ in traceback.walk_tb(part.__traceback__)]
            asked = [value.full_url for values in frames for value in values if isinstance(value, Request)]
            return asked[0] if asked else "a file"
        # The errors of requests, httpx and what is derived of these.
        asked_for = vars(part).get("_request") or vars(part).get("request")
        url = getattr(asked_for, "url", None)
        if url is not None:
            return str(url)
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it comes from, the last first."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _offline(address: str) -> str:
    """What to do without a network."""
    host = urlsplit(address).hostname or ""
    if host.endswith("wandb.ai"):
        return "Without a network: set WANDB_MODE=offline."
    hub = host.endswith(("huggingface.co", "hf.co"))
    if (hub and "/datasets/" not in address) or address.endswith(_WEIGHTS):
        return (
            "Without a network: fetch the file elsewhere and pass --model.weights FILE in place of --model.pretrained, "
            "or copy the cache of a machine that has it (HF_HOME, TORCH_HOME)."
        )
    return (
        "Without a network: fetch the data elsewhere, copy them to data.root, and leave data.download out; caches of "
        "other machines serve as well (HF_HOME)."
    )
