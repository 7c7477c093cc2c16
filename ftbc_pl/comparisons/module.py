"""The LightningModule that runs a comparison in Lightning's validation or test loop, on all its devices."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from ftbc_pl.comparisons.measure import computed, fill, is_missing
from ftbc_pl.comparisons.store import Store
from ftbc_pl.comparisons.table import ComparisonTable
from ftbc_pl.conversion.batch import images_and_labels
from ftbc_pl.evaluation import TimestepAccuracy
from ftbc_pl.evaluation.predictions import single_output
from ftbc_pl.run import run_device


class ComparingClassifier(LightningModule):
    """Measures the ANN in the loop, and the spiking networks at the loop's end, on the images of the loop.

    Attributes:
        network: The ANN, whose configuration tells data modules the size and normalisation of the images.
        table: What is measured.
    """

    def __init__(
        self,
        network: nn.Module,
        table: ComparisonTable,
        store: Store,
        batches: Callable[[Trainer], Iterator[Any]],
        calibration: Callable[[Trainer], Any],
        check: Callable[[Trainer], None],
    ) -> None:
        """Create the module.

        Args:
            network: The ANN.
            table: What to measure.
            store: Where it is written.
            batches: Gives the loop's batches once more.
            calibration: Gives the loader of the calibration images of all draws.
            check: Looks at network and data before anything is measured.
        """
        super().__init__()
        self.network, self.table = network.float().eval(), table
        self._store, self._batches, self._calibration, self._check = store, batches, calibration, check
        self._accuracy = TimestepAccuracy(1)
        self._images: Any = None  # to calibrate with

    def setup(self, stage: str) -> None:
        """Claim the folder once all processes are there."""
        self._check(self.trainer)
        self._store.open(self.table)

    def on_validation_start(self) -> None:
        """See before anything is measured that there are calibration images for all draws."""
        self._images = self._calibration(self.trainer) if is_missing(self.table) else None

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Count the correct predictions of the ANN."""
        if self.table.ann is None:
            images, labels = images_and_labels(batch)
            with torch.autocast(self.device.type, enabled=False):
                self._accuracy.update(single_output(self.network(images)).unsqueeze(0), labels)

    @torch.inference_mode(False)
    def on_validation_epoch_end(self) -> None:
        """Measure the spiking networks, in plain code: calibrations are no step of a loop."""
        trainer, table = self.trainer, self.table
        if table.ann is None:
            (table.ann,), table.images = computed(self._accuracy)
            self._store.add(table)
        shows = trainer.progress_bar_callback is not None
        ann = self.network.to(run_device(trainer))
        fill(table, ann, partial(self._batches, trainer), lambda: self._images, self._store, shows)

    on_test_start = on_validation_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end
