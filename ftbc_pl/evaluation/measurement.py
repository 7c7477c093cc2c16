"""Everything that the evaluation of a run measures: accuracies, energy, early exit, and where the accuracy is lost.

Accuracy and early exit are measured on all images. Spikes are counted in the forwards that measure the accuracy, on
batches that are spread evenly over the images; a few images of these batches go through one more forward that compares
every site with the ANN. So all of it costs a small part of the evaluation, whatever the number of images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ftbc_pl.distributed import in_any_process, process_place
from ftbc_pl.energy import EnergyCost, EnergyMeter
from ftbc_pl.evaluation.comparison import Accuracies, Comparison
from ftbc_pl.evaluation.diagnosis import Diagnosis, DiagnosisMeter
from ftbc_pl.evaluation.exit import ExitMeter, ExitResult
from ftbc_pl.simulation import SpikingNetwork

COUNTED_IMAGES = 1000  # at least, where there are as many
COUNTED_BATCHES = 16
DIAGNOSED_IMAGES = 128  # at most, but one of each batch
_DIAGNOSED_SHARE = 16  # one image of so many of a batch is diagnosed at most


@dataclass(frozen=True)
class Measured:
    """What the evaluation of a run has measured; None where a part was not.

    Attributes:
        accuracies: Accuracy of the ANN and of the spiking network, at every timestep.
        energy: What the network costs.
        energy_uncalibrated: What it costs without its calibration, on the same images.
        early_exit: What early exit does.
        diagnosis: Where the accuracy is lost.
    """

    accuracies: Accuracies
    energy: EnergyCost | None = None
    energy_uncalibrated: EnergyCost | None = None
    early_exit: ExitResult | None = None
    diagnosis: Diagnosis | None = None


class Measurement:
    """Measures a spiking network beside its ANN, batch by batch."""

    def __init__(
        self, snn: SpikingNetwork, comparison: Comparison, analysis: bool = True, batches: int | None = None
    ) -> None:
        """Start with no images.

        Args:
            snn: The spiking network.
            comparison: Counts the correct predictions.
            analysis: Whether to count spikes and to compare the sites with the ANN as well.
            batches: Number of batches that this process will get; None: not known.
        """
        comparison.reset()
        self.snn, self.comparison, self.batches = snn, comparison, batches
        self.index = 0
        self.meters = _Meters(snn, comparison.is_calibrated) if analysis else None
        stops = comparison.is_calibrated and bool(snn.exit_thresholds.isfinite().any())
        self.exits = ExitMeter(snn.exit_thresholds) if stops else None

    @torch.no_grad()
    def update(self, images: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            images: (B, ...).
            labels: (B,), or any other form that `TimestepAccuracy` knows.

        Raises:
            ValueError: The network has several outputs, or labels, images and outputs don't fit.
        """
        meters = self.meters if self._is_counted(len(images)) else None
        self.index += 1
        logits = self.comparison.update(self.snn, images, labels, *(meters.forwards() if meters else ()))
        if meters is not None:
            meters.diagnose(images, self._diagnosed(len(images)))
        if self.exits is not None:
            self.exits.update(logits, labels)

    def compute(self) -> Measured:
        """What all processes have measured.

        Raises:
            ValueError: There were no images.
        """
        accuracies = self.comparison.compute()
        exits = None if self.exits is None else self.exits.compute()
        analysis = {} if self.meters is None else self.meters.compute()
        return Measured(accuracies, early_exit=exits, **analysis)

    def _is_counted(self, batch_size: int) -> bool:
        """Whether spikes are counted in this batch: in the first ones, or in some that are spread over all batches."""
        if self.batches is None:
            return self.index < COUNTED_BATCHES
        wanted = self._counted_batches(batch_size)
        return self.index * wanted // self.batches != (self.index - 1) * wanted // self.batches

    def _counted_batches(self, batch_size: int) -> int:
        _, processes = process_place()
        wanted = max(COUNTED_BATCHES, -(-COUNTED_IMAGES // (batch_size * processes)))
        return wanted if self.batches is None else min(wanted, self.batches)

    def _diagnosed(self, batch_size: int) -> int:
        """Number of images of a batch that are compared with the ANN at every site."""
        _, processes = process_place()
        share = -(-DIAGNOSED_IMAGES // (self._counted_batches(batch_size) * processes))
        return max(1, min(share, batch_size // _DIAGNOSED_SHARE))


class _Meters:
    """Counters of one spiking network. What goes wrong in them costs a warning and their figures, not the accuracy."""

    def __init__(self, snn: SpikingNetwork, calibrated: bool) -> None:
        self.snn, self.problem = snn, ""
        self.uncalibrated = EnergyMeter(snn)
        self.calibrated = EnergyMeter(snn) if calibrated else None
        self.diagnosis = DiagnosisMeter(snn)

    def forwards(self) -> tuple[Callable[[Tensor], Any], ...]:
        """Simulations without and with the calibration, in which spikes are counted."""
        meters = (self.uncalibrated, self.calibrated)
        return tuple(self._counting(meter) for meter in meters if meter is not None)

    def _counting(self, meter: EnergyMeter) -> Callable[[Tensor], Any]:
        def simulate(images: Tensor) -> Any:
            counted = self._try(lambda: meter(images))
            # Both find the same fan-out.
            self.uncalibrated.found = self.uncalibrated.found or meter.found
            if self.calibrated is not None:
                self.calibrated.found = self.uncalibrated.found
            return self.snn(images) if counted is None else counted

        return simulate

    def diagnose(self, images: Tensor, count: int) -> None:
        """Compare the sites with the ANN for some images of a batch, spread evenly over it."""
        step = len(images) // count
        self._try(lambda: self.diagnosis.update(images[: count * step : step]))

    def compute(self) -> dict[str, Any]:
        """Costs and diagnosis over all processes; empty if something went wrong in any of them."""
        if in_any_process(bool(self.problem), self.snn.device):
            return {}
        before = self.uncalibrated.compute()
        if self.calibrated is None:
            return {"energy": before, "diagnosis": self.diagnosis.compute()}
        cost = self.calibrated.compute()
        return {"energy": cost, "energy_uncalibrated": before, "diagnosis": self.diagnosis.compute()}

    def _try(self, measure: Callable[[], Any]) -> Any:
        if self.problem:
            return None
        try:
            return measure()
        except Exception as error:  # any operation of any network may be one that can't be followed
            self.problem = f"{type(error).__name__}: {error}"
            rank_zero_warn(f"No energy and no diagnosis of this network: {self.problem}. Its accuracy is measured.")
            return None
