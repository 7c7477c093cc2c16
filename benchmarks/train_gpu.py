"""Train the networks of the tables on one GPU in minutes: images and augmentation in its memory, steps as CUDA graphs.

    python benchmarks/train_gpu.py pack --data FOLDER --packed PACKED        # FOLDER with train.tar and test.tar
    python benchmarks/train_gpu.py train --packed PACKED --output OUTPUT     # on a machine with a GPU
    python benchmarks/train_gpu.py join --output OUTPUT --weights benchmarks/weights

Each network has a budget of seconds, its start included: the learning rate falls with the time that has passed. Every
minute the best weights so far are written. Weights are selected on the 5,000 validation images alone; the test images
are looked at once, at the end. The budgets are meant for one NVIDIA H100: 8 minutes for all.
"""

import argparse
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from fast_data import Cifar10Images, normalise, pack, unpack
from fast_files import compact, expand, join, log, write
from fast_recipes import RECIPES, Recipe, initial, teacher_of
from fast_step import Average, Step, distilled_loss, learning_rate, logits, optimiser
from torch import Tensor, nn

from ftbc_pl.models import assign_weights

SAVE_SECONDS = 60
EVALUATION_SECONDS = 8
GRACE_SECONDS = 30
FINISH = 0.03
"""Part of the budget for measuring the best weights and writing them."""
LEARNED = 0.2
"""At this part of the budget a network that has learned nothing is given up."""
DIVERGED = 3
"""Status of a process whose network has diverged."""
CLOSE = 0.8
"""From this part of the budget on every epoch is evaluated."""


class DivergedError(Exception):
    """The loss is no number, or nothing has been learned in the time."""


class Training:
    """One network, its images on the device, and the best weights so far."""

    def __init__(self, name: str, recipe: Recipe, images: Cifar10Images, output: Path, stop: float) -> None:
        """Make the network; `stop` is when to stop, in seconds since 1970."""
        self.name, self.recipe, self.output = name, recipe, output
        self.setting_up, self.stop = time.time(), stop
        self.device = device = "cuda" if torch.cuda.is_available() else "cpu"
        self.parts = {role: images.part(role, device) for role in ("train", "val", "test")}
        torch.manual_seed(0)
        network = initial(self.recipe, normalise(self.parts["train"][0][:: max(1, len(images.labels) // 500)]))
        self.network: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.teacher_name, self.teacher = teacher_of(self.recipe, output)
        if self.teacher is not None:
            self.teacher.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = optimiser(self.network, self.recipe.weight_decay)
        self.step = Step(self.network, self.loss, self.recipe.batch_size)
        self.average = Average(self.network, decay=0.998)
        self.epoch = self.steps = 0
        self.best, self.best_accuracy, self.best_at = self.weights(), 0.0, (0, 0)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Loss of a batch."""
        soft = None
        if self.teacher is not None:
            with torch.no_grad():
                soft = logits(self.teacher, images)
        return distilled_loss(logits(self.network, images), soft, labels, smoothing=0.0)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the present weights."""
        return {name: value.clone() for name, value in self.network.state_dict().items()}

    @torch.no_grad()
    def accuracy(self, role: str) -> float:
        """Top-1 accuracy on all images of a role, in 0..1, in `float32`."""
        self.network.eval()
        pixels, labels = self.parts[role]
        batches = zip(pixels.split(500), labels.split(500), strict=True)
        hits = [
            self.network(normalise(part).contiguous(memory_format=torch.channels_last)).argmax(1) == own
            for part, own in batches
        ]
        self.network.train()
        return float(torch.cat(hits).double().mean())

    def run(self, graphed: bool) -> None:
        """Train until the time is up, then look at the test images."""
        self.network.train()
        if graphed:
            pixels, labels = (values[: self.recipe.batch_size] for values in self.parts["train"])
            self.step.record(normalise(pixels), labels)
        progress, share = 0.0, 0.0
        self.begin = self.evaluated = self.saved = time.time()
        setup = round(self.begin - self.setting_up, 1)
        log(self.output, self.name, event="start", teacher=self.teacher_name, graphed=graphed, setup=setup)
        # At least one epoch, however late it is.
        given = max(self.stop - self.begin, 1e-3)
        while progress < 1 - share / 2:
            rate = self.run_epoch(progress, share)
            if progress > CLOSE or time.time() - self.evaluated > EVALUATION_SECONDS:
                self.evaluate(rate)
                if progress > LEARNED and self.best_accuracy < 0.3:
                    raise DivergedError(f"expected some accuracy by now, got {self.best_accuracy}; lower the rate")
            if time.time() - self.saved > SAVE_SECONDS:
                self.save({"validation": self.best_accuracy})
                self.saved = time.time()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            previous, progress = progress, self.passed() / given
            share = progress - previous
        self.finish()

    def passed(self) -> float:
        """Seconds since the first step."""
        return time.time() - self.begin

    def run_epoch(self, progress: float, share: float) -> float:
        """One epoch, which begins at `progress` and is expected to take `share` of the time; returns the rate."""
        pixels, labels = self.parts["train"]
        order = torch.randperm(len(labels), device=self.device)
        images = self.recipe.augmentation(normalise(pixels[order])).to(self.step.images.dtype)
        labels, size, rate = labels[order], self.recipe.batch_size, 0.0
        number = len(labels) // size
        for index in range(number):
            rate = learning_rate(progress + share * index / number, self.recipe.rate)
            for group in self.optimiser.param_groups:
                group["lr"] = rate * group["scale"]
            self.step(images[index * size : (index + 1) * size], labels[index * size : (index + 1) * size])
            nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
            self.optimiser.step()
            self.average.update()
        self.epoch += 1
        self.steps += number
        self.mean_loss = self.step.total_loss / max(1, number)
        self.step.total_loss.zero_()
        return rate

    def evaluate(self, rate: float) -> None:
        """Measure the network and its average on the validation images and keep what is best.

        Raises:
            DivergedError: The loss is no number.
        """
        loss = float(self.mean_loss)
        if not math.isfinite(loss):
            raise DivergedError(f"expected a finite loss, got {loss} in epoch {self.epoch}; lower the rate")
        accuracies = {"live": self.accuracy("val")}
        self.keep_if_best(accuracies["live"])
        with self.average.applied():
            accuracies["average"] = self.accuracy("val")
            self.keep_if_best(accuracies["average"])
        self.evaluated = time.time()
        thresholds = [float(value) for name, value in self.best.items() if name.endswith("threshold")]
        log(
            self.output,
            self.name,
            epoch=self.epoch,
            seconds=round(self.passed(), 1),
            loss=round(loss, 4),
            rate=round(rate, 6),
            thresholds=[round(min(thresholds), 3), round(max(thresholds), 3)],
            **accuracies,
        )

    def keep_if_best(self, accuracy: float) -> None:
        """Remember the present weights if none were as accurate before."""
        if accuracy >= self.best_accuracy:
            self.best, self.best_accuracy, self.best_at = self.weights(), accuracy, (self.epoch, self.steps)

    def save(self, accuracy: dict[str, float]) -> None:
        """Write the best weights."""
        write(compact(self.best), self.output, self.name)
        hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        origin = f"from {self.recipe.start}" if self.recipe.start else "from scratch"
        origin += f", distilled from {self.teacher_name}" if self.teacher_name else ""
        command = f"python benchmarks/train_gpu.py train --networks {self.name} ({origin}; {self.epoch} epochs)"
        epoch, steps = self.best_at
        made_by = f"{command}; {hardware}"
        about = {"model": self.recipe.model, "made_by": made_by, "epoch": epoch, "steps": steps, "accuracy": accuracy}
        log(self.output, self.name, saved=about)

    def finish(self) -> None:
        """Measure the weights as they are written, on the validation and, once, on the test images."""
        trained = self.passed()
        self.evaluate(0.0)
        assign_weights(self.network, expand(compact(self.best)), self.output)
        measured = {"validation": self.accuracy("val"), "test": self.accuracy("test")}
        self.save(measured)
        rates = {"epochs": self.epoch, "steps_per_second": round(self.steps / trained, 2)}
        log(self.output, self.name, event="end", unrounded=self.best_accuracy, **rates, **measured)


def train_one(args: argparse.Namespace) -> None:
    """Train one network in this process."""
    torch.backends.cudnn.benchmark = True
    # Weights are measured as they are used elsewhere, not rounded to 10 bits in each product.
    torch.backends.cudnn.allow_tf32 = False
    images = Cifar10Images(**torch.load(args.images, weights_only=True))
    (name,) = args.networks
    recipe = RECIPES[name]
    rate = recipe.rate * args.slower
    recipe = replace(recipe, batch_size=args.batch_size or recipe.batch_size, rate=rate)
    try:
        Training(name, recipe, images, args.output, args.stop).run(args.graphed)
    except DivergedError as error:
        log(args.output, name, event="diverged", rate=rate, error=str(error))
        sys.exit(DIVERGED)


def train_all(args: argparse.Namespace) -> None:
    """Train one network after the other, each in a process of its own; one that fails is tried once more.

    The second try has a lower rate where the first diverged, else no CUDA graph.
    """
    args.output.mkdir(parents=True, exist_ok=True)
    images = unpack(sorted(args.packed.glob("*.npz")))
    graphed = ["--graphed"] if torch.cuda.is_available() and not args.eager else []
    budgets = args.budget or [RECIPES[name].budget for name in args.networks]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "images.pt"
        torch.save(vars(images), file)
        for name, budget in zip(args.networks, budgets, strict=True):
            stop = time.time() + (1 - FINISH) * budget
            options = ["--networks", name, "--images", str(file), "--output", str(args.output), "--stop", str(stop)]
            options += ["--batch_size", str(args.batch_size)] if args.batch_size else []
            status = run_one([*options, *graphed], stop)
            if status:
                log(args.output, name, event="failed", status=status)
                if stop - time.time() > budget / 3:
                    run_one([*options, *([*graphed, "--slower", "0.3"] if status == DIVERGED else [])], stop)


def run_one(options: list[str], stop: float) -> int:
    """Train one network in a process of its own; returns its status, -1 if it was ended for taking too long."""
    try:
        command = [sys.executable, __file__, "one", *options]
        return subprocess.run(command, timeout=stop + GRACE_SECONDS - time.time()).returncode
    except subprocess.TimeoutExpired:
        return -1


def pack_all(args: argparse.Namespace) -> None:
    """Pack the images of a folder as the benchmarks read it."""
    # The whole package: the machine with the GPU need not have all that it imports.
    from trained import Cifar10

    from ftbc_pl.data.batches import TensorImages

    data = Cifar10(str(args.data)).data
    kept, held_out, test = (cast(TensorImages, data.images(role)) for role in ("calibration", "val", "test"))
    labels = torch.empty(len(kept) + len(held_out), dtype=torch.int64)
    for images in (kept, held_out):
        labels[images.indices] = images.labels
    pixels, labels = torch.cat([kept.images, test.images]), torch.cat([labels, test.labels])
    for path in pack(Cifar10Images(pixels, labels, held_out.indices, len(kept.images)), args.packed):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    packing = commands.add_parser("pack", help="make small files of CIFAR-10")
    packing.add_argument("--data", type=Path, required=True, help="folder with train.tar and test.tar of CIFAR-10")
    training = commands.add_parser("train", help="train the networks, one after the other")
    training.add_argument("--budget", type=float, nargs="+", help="seconds for each network")
    training.add_argument("--eager", action="store_true", help="no CUDA graphs")
    for command in (packing, training):
        command.add_argument("--packed", type=Path, required=True, help="folder with the small files")
    one = commands.add_parser("one", help="called by `train`")
    one.add_argument("--images", type=Path, required=True)
    one.add_argument("--stop", type=float, required=True, help="when to stop, in seconds since 1970")
    one.add_argument("--graphed", action="store_true", help="record each step as a CUDA graph")
    one.add_argument("--slower", type=float, default=1.0, help="factor of the learning rate")
    joining = commands.add_parser("join", help="make weights for the benchmarks of the output")
    joining.add_argument("--weights", type=Path, required=True, help="folder for weights and descriptions")
    for command in (training, one):
        command.add_argument("--networks", nargs="+", choices=list(RECIPES), default=list(RECIPES))
        command.add_argument(
            "--batch_size", type=int, help="images in a batch; left out: as the recipe of each network"
        )
    for command in (training, one, joining):
        command.add_argument("--output", type=Path, required=True, help="folder of the training's output")
    args = parser.parse_args(arguments)
    if args.what == "join":
        print(*join(args.output, args.weights))
    else:
        {"pack": pack_all, "train": train_all, "one": train_one}[args.what](args)


if __name__ == "__main__":
    main()
