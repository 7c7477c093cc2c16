"""A comparison in plain code, without a Trainer."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from ftbc_pl.comparisons.measure import fill
from ftbc_pl.comparisons.plan import BUILT_IN, Plan
from ftbc_pl.comparisons.store import Store, comparison_key
from ftbc_pl.comparisons.table import ComparisonTable
from ftbc_pl.conversion.copies import copied


def compare(
    ann: nn.Module,
    loader: Iterable[Any],
    calibration: Iterable[Any],
    *,
    num_steps: Iterable[int] = (1, 2, 4, 8),
    solvers: Iterable[str] = BUILT_IN,
    weights: Iterable[str] = ("keep",),
    draws: int = 3,
    output_dir: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
    **options: Any,
) -> ComparisonTable:
    """Compare ways of calibrating a network: accuracy of each at each T, over several draws of calibration images.

    Every solver is shown with both readouts, and so is the network as it was converted: what the readout gives and
    what the bias gives can be told apart. A solver whose result at t depends on no later step (`exact`, `heuristic`)
    is run once, at the largest T, where thresholds do not depend on T either; all others are run for each T.

    Args:
        ann: The trained network, where it is to run; it is left as it is.
        loader: Batches of (images, labels) to evaluate on, gone through once for each calibration; in a distributed
            run each process hands in its own images.
        calibration: Batches of training images without augmentation, of which each draw takes the next `num_batches`;
            in a distributed run each process hands in its share of each batch.
        num_steps: The timesteps T.
        solvers: Names of solvers, as `calibrate_` takes them.
        weights: `keep` and `ridge`: what becomes of the weights of the layers.
        draws: Number of draws.
        output_dir: Folder for table and picture; measurements are written there as they are made, and the same call
            goes on with them; it knows the network and the options, but not whether the images are the same, only
            their number. Left out: nothing is written.
        overwrite: Whether another comparison in that folder may be dropped.
        progress: Whether to show progress bars.
        **options: Further options of `convert`, `calibrate_` and of how the network is run, such as `threshold`,
            `num_batches`, `alpha`, `time_chunk`.

    Returns:
        The table: `str(table)`, `table.markdown()`, `table.csv()`, `table.rows()`.

    Raises:
        FileExistsError: The folder holds another comparison.
        TypeError: A keyword is no option, or the loader can be gone through only once.
        ValueError: An option is out of range, or there are fewer calibration batches than the draws need.
    """
    plan = Plan.of(num_steps, solvers, weights, draws, options)
    if isinstance(loader, Iterator):
        raise TypeError("compare goes through the images once for each calibration: hand in a loader or a list.")
    ann = copied(ann).eval()
    size = len(getattr(loader, "dataset", loader)) if hasattr(loader, "__len__") else None  # type: ignore[arg-type]
    store = Store(output_dir, comparison_key(ann, plan, images=size), overwrite)
    table = ComparisonTable(plan)
    store.open(table)
    try:
        fill(table, ann, lambda: loader, lambda: calibration, store, progress)
        store.finish(table)
    finally:
        store.close()
    return table
