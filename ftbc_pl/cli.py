"""The command line: `--help`, and the way to a command. What commands need is imported once one is chosen."""

import difflib
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NoReturn

from ftbc_pl.command.table import COMMANDS, RUNS

DESCRIPTION = """Train an image classifier, convert it to a spiking network, calibrate it with FTBC in one forward pass
and measure its accuracy at every timestep."""
_FIRST = "Try it, a minute on a CPU:\n  ftbc-pl fit --config quickstart.yaml"


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Arguments; left out: those of the process.

    Raises:
        SystemExit: The run failed, or help was asked for.
    """
    given = sys.argv[1:] if args is None else list(args)
    name = given[0] if given else ""
    if name in ("", "-h", "--help"):
        print(overview())
        raise SystemExit(0 if name else 2)
    if name == "--version":
        from ftbc_pl import __version__

        print(f"ftbc-pl {__version__}")
        raise SystemExit(0)
    if name not in COMMANDS and not name.startswith("-"):
        _unknown(name)
    arguments = [_shipped_config(a, before) for before, a in zip(["", *given], given, strict=False)]
    try:
        from ftbc_pl.command.process import run_command  # takes seconds
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    # Options before the command go to the parser of the runs.
    run_command(COMMANDS[name].target if name in COMMANDS else RUNS, data_first(arguments))


def overview() -> str:
    """What `--help` prints: every command in a line."""
    width = max(map(len, COMMANDS))
    commands = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: ftbc-pl COMMAND [options]", "", DESCRIPTION, "", _FIRST, "", "Commands:", *commands, "",
         "ftbc-pl COMMAND --help shows a command's options; FTBC_DEBUG=1 before a command shows where an error arose."]
    )  # fmt: skip


def _unknown(name: str) -> NoReturn:
    similar = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {similar[0]}? " if similar else ""
    print(
        f"usage: ftbc-pl COMMAND [options]\nftbc-pl: error: there is no command {name!r}; {hint}"
        f"Commands: {', '.join(COMMANDS)}.",
        file=sys.stderr,
    )
    raise SystemExit(2)


def _shipped_config(argument: str, previous: str) -> str:
    """Replace the path of a config that is not there by the one that ships with the package."""
    prefix, _, path = argument.rpartition("=") if argument.startswith(("--config=", "-c=")) else ("", "", argument)
    if (prefix or previous in ("--config", "-c")) and not Path(path).exists():
        package = Path(str(files("ftbc_pl")))
        # in the wheel the configs lie in the package, in a checkout beside it
        for shipped in (package / "configs" / Path(path).name, package.parent / "configs" / Path(path).name):
            if shipped.is_file():
                return f"{prefix}={shipped}" if prefix else str(shipped)
    return argument


def data_first(arguments: Sequence[str]) -> list[str]:
    """Put `--data` before options of the section data, of which the parser knows nothing until then."""
    own = [i for i, argument in enumerate(arguments) if argument == "--data" or argument.startswith("--data=")]
    options = [i for i, argument in enumerate(arguments) if argument.startswith("--data.")]
    if len(own) != 1 or not options or options[0] > own[0]:
        return list(arguments)
    length = 2 if arguments[own[0]] == "--data" else 1
    moved = arguments[own[0] : own[0] + length]
    rest = [*arguments[: own[0]], *arguments[own[0] + length :]]
    return [*rest[: options[0]], *moved, *rest[options[0] :]]
