"""The parser of the runs: a short `--help`, the whole behind `--help.all`, and errors in a line or two."""

import argparse
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from ftbc_pl.command.mistakes import explain
from ftbc_pl.command.table import COMMANDS, RUNS

# Options that a command has of its own, in the words of its short help, which starts with them.
OWN = {
    "compare": {
        "num_steps": "timesteps T, as 1,2,4,8",
        "solvers": "as heuristic,exact,balanced",
        "weights": "keep, ridge or keep,ridge",
        "draws": "choices of the calibration images",
        "split": "images to measure on: validation, test",
    },
    "sweep": {
        "file": "the sweep file, as `wandb sweep` takes it",
        "count": "most runs, for random and bayes",
        "output_dir": "folder of the table; else in runs/",
        "retry": "true runs failed ones again",
    },
    "export": {
        "snn_path": "folder or file of the saved network",
        "format": "nir, or onnx",
        "output": "file to write",
        "overwrite": "true lets it be replaced",
    },
}
# What the short help shows, where a command has it: the options that people use, in words that fit into a line.
SHOWN = {
    "Run": {
        "config": "YAML file of options; later ones win",
        "ckpt_path": "checkpoint to go on from, or to measure",
        "snn_path": "folder of a saved spiking network",
        "output": "CSV file to write",
        "overwrite": "let the file be replaced",
        "seed_everything": "seed of everything random",
        "verbose": "also the table of sites, all of Lightning's",
    },
    "Images": {
        "data": "DigitsData, ImageData or your module.Class",
        "data.root": "and so on: see --data.help CLASS",
    },
    "Network": {
        "model.network": "a name of timm, cifar_resnet20, cifar_vgg16",
        "model.in_chans": "channels of the images",
        "model.pretrained": "start from timm's weights",
        "model.weights": "start from the weights in this file",
        "model.activation": "qcfs, rts or relu (as the network is)",
        "model.levels": "quantisation levels L of qcfs",
    },
    "Conversion and calibration": {
        "ftbc.num_steps": "timesteps T",
        "ftbc.solver": "exact, balanced, heuristic (the paper's)",
        "ftbc.readout": "least_squares, mean (the papers')",
        "ftbc.weights": "ridge fits the layers' weights as well",
        "ftbc.threshold": "of ReLU: mse, max or a percentile, as 99.9",
        "ftbc.smooth": "rate runs GELU and the like without spikes",
        "ftbc.num_batches": "batches of training images to calibrate",
        "ftbc.batch_size": "images in each of them",
        "ftbc.enabled": "false only trains",
        "ftbc.output_dir": "folder of the results; else new in runs/",
        "ftbc.overwrite": "let its earlier results be replaced",
        "ftbc.time_chunk": "timesteps at once; fewer need less memory",
    },
    "Trainer": {
        "trainer.accelerator": "cpu, gpu, auto",
        "trainer.devices": "how many, or which",
        "trainer.max_epochs": "epochs to train",
        "trainer.precision": "of the training: 32, 16-mixed, bf16-mixed",
        "trainer.logger": "CSVLogger, WandbLogger",
        "trainer.limit_val_batches": "number or fraction of batches",
        "trainer.limit_test_batches": "number or fraction of batches",
        "trainer.limit_predict_batches": "number or fraction of batches",
    },
    "Training": {
        "optimizer": "any of torch.optim",
        "optimizer.lr": "and so on: see --optimizer.help CLASS",
        "lr_scheduler": "ftbc_pl.schedules.OneCycle, or torch's",
    },
}
_RUN_HERE = ("output_dir", "overwrite", "time_chunk")
_SHARED_BY_ALL = (*_RUN_HERE, "threshold", "num_batches", "batch_size")  # what a comparison does not go over
# Sections and options of the trainer that only a training uses.
_TRAINING = (
    "optimizer",
    "lr_scheduler",
    "checkpoint",
    "model.optimizer",
    "model.lr_scheduler",
    "model.label_smoothing",
)
_TRAINING_OF_TRAINER = (
    "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "limit_train_batches", "overfit_batches",
    "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "enable_checkpointing",
    "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "sync_batchnorm", "detect_anomaly",
    "reload_dataloaders_every_n_epochs",
)  # fmt: skip
_TRAIN, _MAKE = ("fit",), ("fit", "calibrate")
_COLUMN = 35
_TAKES = {"config": "FILE", "data": "CLASS"} | dict.fromkeys(
    ("limit_val_batches", "limit_test_batches", "limit_predict_batches", "max_epochs", "time_chunk", "count"), "N"
)


class _HelpAll(argparse._HelpAction):
    """Print every option."""

    def __call__(self, parser: Any, *_: Any) -> NoReturn:
        """Print them and exit."""
        parser.whole = True
        parser.print_help()
        raise SystemExit(0)


def call(function: Callable[..., Any], arguments: Sequence[str], as_positional: bool = False) -> None:
    """Call a function that is a command by itself, with its parameters as options.

    Args:
        function: The function.
        arguments: The command's name and options.
        as_positional: Whether what it can't do without is named by its place.
    """
    parser = Parser(description=COMMANDS[arguments[0]].summary)
    parser.subcommand = arguments[0]
    parser.add_argument("--config", action="config", help="YAML file of options.")
    parser.add_function_arguments(function, as_positional=as_positional)
    given = parser.parse_args(list(arguments[1:]))
    function(**{name: value for name, value in vars(given).items() if name != "config"})


class Parser(LightningArgumentParser):
    """Lightning's parser, shorter in its help and its errors.

    Attributes:
        subcommand: Name of the command that this is the parser of; empty for the one above them.
        whole: Whether help is about every option.
    """

    subcommand = ""
    whole = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Add `--help.all`."""
        super().__init__(*args, **kwargs)
        if self.add_help:
            self.add_argument("--help.all", action=_HelpAll, help="Show every option and exit.")

    def format_help(self, *args: Any) -> str:
        """The short help of a command, or the whole."""
        if self.subcommand not in COMMANDS:
            return super().format_help(*args)
        self.usage = self.synopsis  # else it names each
        with self._only_for(self.subcommand):
            return super().format_help(*args) if self.whole else self._short_help()

    def format_usage(self) -> str:
        """One line."""
        return f"usage: {self.synopsis}; {self.name} --help shows them\n"

    @property
    def name(self) -> str:
        """The program with its command."""
        return f"ftbc-pl {self.subcommand or 'COMMAND'}"

    @property
    def synopsis(self) -> str:
        """The program with its command and what that takes."""
        places = [a.dest.upper() for a in self._actions if not a.option_strings and a.dest != "subcommand"]
        return " ".join([self.name, *places, "[options]"])

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say in a line or two what is wrong, and exit with status 2."""
        if not self.exit_on_error:
            super().error(message, ex)  # raises
        if os.environ.get("FTBC_DEBUG") and ex is not None:
            traceback.print_exception(ex)
        parser = getattr(ex, "subcommand_parser", None) or self._of_missing(message) or self
        sys.stderr.write(f"{parser.format_usage()}ftbc-pl: error: {explain(message, parser)}\n")
        raise SystemExit(2)

    def _of_missing(self, message: str) -> "Parser | None":
        """The parser of the command that lacks an option: the one above it says so."""
        command = re.search(r"are required: (\w+)\.", message)
        return self._subcommands_action.choices.get(command[1]) if command and self._subcommands_action else None

    @contextmanager
    def _only_for(self, command: str) -> Iterator[None]:
        """Hide what a command doesn't use; it is still read, since configurations of other commands may hold it."""
        hidden = [] if command in _TRAIN else [action for action in self._actions if is_of_training(action.dest)]
        before = [action.help for action in hidden]
        for action in hidden:
            action.help = argparse.SUPPRESS
        try:
            yield
        finally:
            for action, text in zip(hidden, before, strict=True):
                action.help = text

    def _short_help(self) -> str:
        command = COMMANDS[self.subcommand]
        lines = [f"usage: {self.synopsis}", "", command.summary, "", "Examples:"]
        lines += [f"  {example}" for example in command.examples]
        known: dict[str, argparse.Action | None] = {
            action.dest: action for action in self._actions if action.help != argparse.SUPPRESS
        }
        # Those of the classes that these sections name.
        known |= {f"{key}.{name}": None for key, name in (("data", "root"), ("optimizer", "lr")) if key in known}
        own = OWN.get(self.subcommand, {})
        for title, words in {f"Options of {self.subcommand}": own, **self._shared()}.items():
            shown = {dest: text for dest, text in words.items() if dest in known and _shows(self.subcommand, dest)}
            lines += ["", f"{title}:"] if shown else []
            lines += [f"{_option(dest, known[dest]):<{_COLUMN}} {text}" for dest, text in shown.items()]
        lines += ["", f"Small letters are defaults. Every option: {self.name} --help.all."]
        if self._shared():
            lines += [f"All values that would be used, as YAML: {self.name} … --print_config."]
        return "\n".join(lines) + "\n"

    def _shared(self) -> dict[str, dict[str, str]]:
        """The options that the runs share, in the words of the short help; other commands have their own alone."""
        return SHOWN if COMMANDS[self.subcommand].target == RUNS else {}


def is_of_training(dest: str) -> bool:
    """Whether an option says how to train."""
    section, _, name = dest.partition(".")
    if section == "trainer":
        return name.partition(".")[0] in _TRAINING_OF_TRAINER
    return any(dest == part or dest.startswith(f"{part}.") for part in _TRAINING) or "-->" in dest


def _shows(command: str, dest: str) -> bool:
    """Whether the short help of a command shows an option: a saved network is made already."""
    section, _, name = dest.partition(".")
    wanted = {"fit": "val", "calibrate": "val", "validate": "val"}.get(command, command)
    if name.startswith("limit_"):
        return name == f"limit_{wanted}_batches"
    return command in _MAKE or section != "ftbc" or name in (_SHARED_BY_ALL if command == "compare" else _RUN_HERE)


def _option(dest: str, action: argparse.Action | None) -> str:
    """An option with its default, or what it takes in capitals."""
    default = None if action is None else action.default
    plain = isinstance(default, str | int | float) and default is not argparse.SUPPRESS
    text = str(default).lower() if isinstance(default, bool) else str(default)
    if action is not None and not action.option_strings:
        return f"  {dest.upper()}"
    name = dest.rpartition(".")[2]
    value = text if plain else _TAKES.get(name, name.upper())
    return f"  --{dest}" if action is not None and action.nargs == 0 else f"  --{dest} {value}"
