"""One trained network, and how accurate it is after a rule, without one, under corruption, or in the authors' code."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
import trained
from authors import Authors
from authors import accuracy as authors_accuracy
from results import Measurement, Results
from rules import Rule
from torch import Tensor
from torchvision.transforms import functional as TF
from tqdm import tqdm

from ftbc_pl import SpikingNetwork, convert, evaluate
from ftbc_pl.conversion.convert import to_images
from ftbc_pl.conversion.thresholds import measure_thresholds_
from ftbc_pl.evaluation.metric import TimestepAccuracy, per_step
from ftbc_pl.functional.readout import mean_readout, weigh

READOUTS = ("mean", "least squares")
AUTHORS = "authors' code (QCFS branch), α = 0.4, 3 × 200 images"
CORRUPTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    # Drawn on the CPU, so that it is the same noise on every device.
    "noise": lambda images, strength: (images + strength * torch.randn(images.shape).to(images)).clamp(0, 1),
    "blur": lambda images, strength: TF.gaussian_blur(images, [5, 5], [strength, strength]),
    "contrast": lambda images, strength: TF.adjust_contrast(images, strength),
}


class Run(NamedTuple):
    """How long to simulate, how often to calibrate, and how many images to evaluate on."""

    num_steps: int
    draws: int
    images: int


class Bench:
    """One trained network, converted for T timesteps, and the images it is measured on.

    Attributes:
        corruption: Kind and strength of what is done to the images it is measured on, if anything.
        search_steps: Timesteps that the search for thresholds assumes; None: as the package does.
        schedule: Of the conversion.
    """

    def __init__(self, name: str, run: Run, data: trained.Cifar10, results: Results, role: str = "test") -> None:
        self.name, self.data, self.results, self.role = name, data, results, role
        self.num_steps, self.draws, self.count = run
        self.corruption: tuple[str, float] | None = None
        self.search_steps: int | None = None
        self.schedule = "stream"
        # Biases and weights of the readout, fitted weights of the layers, forwards and seconds.
        self._calibrations: dict[tuple[str, int], tuple[list[Tensor], Any, tuple[int, float]]] = {}
        weights = (trained.WEIGHTS / f"{name}.safetensors").read_bytes()
        self.weights = hashlib.sha256(weights).hexdigest()[:8]

    def at(self, num_steps: int, schedule: str = "stream") -> "Bench":
        """The same network converted for another number of timesteps, or by another schedule."""
        if (num_steps, schedule) == (self.num_steps, self.schedule):
            return self
        other = Bench(self.name, Run(num_steps, self.draws, self.count), self.data, self.results, self.role)
        other.schedule = schedule
        return other

    @property
    def measures_thresholds(self) -> bool:
        """Whether the thresholds are measured, for a given T."""
        return trained.description(self.name)["model"]["activation"] != "qcfs"  # type: ignore[no-any-return]

    @cached_property
    def ann(self) -> torch.nn.Module:
        """The trained network."""
        return trained.load(self.name).to(self.data.device)

    @cached_property
    def snn(self) -> SpikingNetwork:
        """The converted network; the thresholds of ReLU and RTS networks are measured on 200 training images."""
        images = self.data.calibration(200, 1, draw=0)
        # Unfolded, since what is kept was measured so, and is exact to the image.
        options: dict[str, Any] = {"schedule": self.schedule, "fold_bn": False}
        snn = convert(self.ann, self.num_steps, batches=images, measure=not self.search_steps, **options)
        if self.search_steps:
            rows = [to_images(batch).to(snn.device) for batch in images]
            measure_thresholds_(snn, rows, "mse", snn.options.v0, search_steps=self.search_steps)
        return snn

    @property
    def loader(self) -> list[tuple[Tensor, Tensor]]:
        """Batches of images to evaluate on, corrupted if asked for."""
        clean = self.data.batches(self.role, self.count)
        return list(_corrupted(clean, self.data, *self.corruption)) if self.corruption else clean

    def measured(
        self, title: str, draw: int, measure: Callable[[], Measurement], readout: str = READOUTS[0]
    ) -> Measurement:
        """A measurement of this network, from the file if it is there."""
        of = {"network": self.name, "weights": self.weights, "on": self.role, "images": self.count}
        of["held_out"] = self.data.validation
        of |= {"corruption": self.corruption} if self.corruption else {}
        of |= {"search_steps": self.search_steps} if self.search_steps else {}
        of |= {"readout": readout} if readout != READOUTS[0] else {}
        return self.results.get(of | {"num_steps": self.num_steps, "rule": title, "draw": draw}, measure)

    def of_ann(self) -> Measurement:
        """Accuracy of the ANN."""
        return self.measured("ANN", 0, lambda: Measurement((trained.accuracy(self.ann, self.loader),)))

    def uncalibrated(self) -> Measurement:
        """Accuracy without a bias."""

        def measure() -> Measurement:
            with self.snn.uncalibrated():
                return Measurement(tuple(evaluate(self.snn, self.loader).tolist()))

        return self.measured("uncalibrated", 0, measure)

    def calibrated(self, rule: Rule, draw: int, readout: str) -> Measurement:
        """Accuracy after a rule was given the calibration images of a draw."""
        found: dict[str, Measurement] = {}

        def measure(name: str) -> Measurement:
            if not found:
                found.update(self._simulate(rule, draw))
            return found[name]

        asked = self.measured(rule.title, draw, lambda: measure(readout), readout)
        # One simulation tells of both readouts, so both are kept.
        for name in READOUTS if found else ():
            self.measured(rule.title, draw, partial(measure, name), name)
        return asked

    def _simulate(self, rule: Rule, draw: int) -> dict[str, Measurement]:
        """Accuracy after a rule with each readout."""
        cost = self._calibrate(rule, draw)
        count = len(self.snn.prediction_steps)
        weights = dict(zip(READOUTS, (mean_readout(count), self.snn.readout_weights), strict=True))
        metrics = {name: TimestepAccuracy(count).to(self.data.device) for name in READOUTS}
        for images, labels in tqdm(self.loader, desc="Evaluating"):
            outputs = self.snn(images)
            for name, metric in metrics.items():
                metric.update(weigh(outputs, weights[name]), labels)
        return {name: Measurement(tuple(per_step(metric)), *cost) for name, metric in metrics.items()}

    def _calibrate(self, rule: Rule, draw: int) -> tuple[int, float]:
        """Give the network the biases and readout of a rule, which is run once for each draw."""
        tensors = [*(site.temporal_bias for _, site in self.snn.neurons()), self.snn.readout_weights]
        if (rule.title, draw) not in self._calibrations:
            cost = rule(self.snn, self.data.calibration(rule.batch_size, rule.num_batches, draw))
            found = [values.clone() for values in tensors]
            self._calibrations[rule.title, draw] = (found, self.snn.corrections.content(), cost)
        found, weights, cost = self._calibrations[rule.title, draw]
        self.snn.corrections.replace_(weights)
        for values, calibrated in zip(tensors, found, strict=True):
            values.copy_(calibrated)
        return cost

    def of_authors(self, repository: str, draw: int) -> Measurement:
        """Accuracy of the authors' own network after their own calibration, with our weights."""

        def measure() -> Measurement:
            authors, levels = Authors(repository), trained.description(self.name)["model"]["levels"]
            pair = authors.networks(self.ann, levels, self.num_steps)
            batches = self.data.calibration(200, 3, draw)
            cost = authors.calibrate(*pair, self.num_steps, batches, alpha=0.4)
            accuracy = authors_accuracy(pair[1], self.loader, self.num_steps)
            return Measurement(tuple(accuracy.tolist()), *cost)

        return self.measured(AUTHORS, draw, measure)


def _corrupted(
    loader: Iterable[tuple[Tensor, Tensor]], data: trained.Cifar10, kind: str, strength: float
) -> Iterator[tuple[Tensor, Tensor]]:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1).to(data.device) for values in (data.data.mean, data.data.std))
    torch.manual_seed(0)
    for normalised, labels in loader:
        pixels = CORRUPTIONS[kind](normalised * std + mean, strength)
        yield (pixels - mean) / std, labels
