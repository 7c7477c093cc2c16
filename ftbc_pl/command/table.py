"""Which commands there are. Nothing else is imported here: `--help` should not wait for torch and Lightning."""

from typing import NamedTuple

# `command/runs.py`: what Lightning's trainer does.
RUNS = "ftbc_pl.command.runs:run"


class Command(NamedTuple):
    """One command.

    Attributes:
        summary: One line for `--help`.
        target: `module:function`. It takes the arguments, the command's name first, and the
            `ftbc_pl.safety.signals.Stopping` that says whether the process was told to stop.
        examples: Two command lines that its own `--help` starts with.
        goes_on: Whether the same command, given again, goes on where it was stopped.
    """

    summary: str
    target: str
    examples: tuple[str, ...] = ()
    goes_on: bool = False


COMMANDS = {
    "fit": Command(
        "Train, then convert, calibrate and measure.",
        RUNS,
        ("ftbc-pl fit --config quickstart.yaml",
         "ftbc-pl fit --data ImageData --data.root photos/ --model.network resnet18 --trainer.max_epochs 30"),
    ),
    "calibrate": Command(
        "Convert and calibrate trained or pretrained weights without training, then measure.",
        RUNS,
        ("ftbc-pl calibrate --config runs/RUN/config.yaml --ckpt_path best.ckpt --ftbc.num_steps 16",
         "ftbc-pl calibrate --data ImageData --data.root photos/ --model.network resnet18 --model.weights mine.pt"),
    ),
    "compare": Command(
        "Calibrate one trained network by several solvers, readouts and T, and put them into one table.",
        RUNS,
        ("ftbc-pl compare --config runs/RUN/config.yaml --ckpt_path best.ckpt --num_steps 1,2,4,8 --draws 3",
         "ftbc-pl compare --config runs/RUN/config.yaml --ckpt_path best.ckpt --weights keep,ridge"),
        goes_on=True,
    ),
    "validate": Command(
        "Measure the accuracy of a checkpoint or a saved spiking network on the validation images.",
        RUNS,
        ("ftbc-pl validate --config runs/RUN/config.yaml --snn_path runs/RUN",
         "ftbc-pl validate --config runs/RUN/config.yaml --ckpt_path best.ckpt"),
    ),
    "test": Command(
        "Measure the accuracy of a checkpoint or a saved spiking network on the test images.",
        RUNS,
        ("ftbc-pl test --config runs/RUN/config.yaml --snn_path runs/RUN",
         "ftbc-pl test --config runs/RUN/config.yaml --ckpt_path best.ckpt"),
    ),
    "predict": Command(
        "Write the class, its probability and the prediction at each timestep of every test image to a CSV file.",
        RUNS,
        ("ftbc-pl predict --config runs/RUN/config.yaml --snn_path runs/RUN --output predictions.csv",
         "ftbc-pl predict --config runs/RUN/config.yaml --ckpt_path best.ckpt"),
    ),
    "sweep": Command(
        "Run a sweep file of W&B on this machine, without an account.",
        "ftbc_pl.command.sweeping:run",
        ("ftbc-pl sweep sweeps/convergence.yaml",
         "ftbc-pl sweep sweeps/convergence.yaml --retry true"),
        goes_on=True,
    ),
    "export": Command(
        "Write a saved spiking network for other software, as NIR or ONNX.",
        "ftbc_pl.command.exporting:run",
        ("ftbc-pl export --snn_path runs/RUN --format nir --output network.nir",
         "ftbc-pl export --snn_path runs/RUN --format onnx --output network.onnx"),
    ),
}  # fmt: skip
