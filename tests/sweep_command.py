"""Builds the command line that W&B's agent would run for a sweep, by the agent's own code."""

import os
import tempfile
from pathlib import Path
from unittest import mock

import yaml
from wandb import wandb_agent


def first_point(sweep_path: Path) -> dict[str, object]:
    """The first value of every parameter, which is the first point of a grid, or its smallest."""
    parameters = yaml.safe_load(sweep_path.read_text())["parameters"]
    return {
        name: spec["values"][0] if "values" in spec else spec.get("value", spec.get("min"))
        for name, spec in parameters.items()
    }


def first_point_command(sweep_path: Path) -> list[str]:
    """The command line of the sweep's first point.

    Everything is the agent's own but for the two ends that need a W&B server or a run: what it is told to do is handed
    to it here, and the process that it would start is recorded. `${envvar:…}` is read from the environment.
    """
    sweep = yaml.safe_load(sweep_path.read_text())
    order = {
        "type": "run",
        "run_id": "first",
        "program": sweep["program"],
        "args": {name: {"value": value} for name, value in first_point(sweep_path).items()},
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, {"WANDB_DIR": folder, "WANDB_SWEEP_ID": "sweep"}),
        mock.patch.object(wandb_agent, "AgentProcess") as process,
    ):
        agent = wandb_agent.Agent(api=None, queue=None)
        agent._sweep_command = sweep["command"]
        agent._command_run(order)
    return process.call_args.kwargs["command"]
