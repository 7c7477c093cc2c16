"""The one short table that a run prints when it ends."""

from collections.abc import Sequence

from ftbc_pl.reports.results import RunResults


def table_steps(num_steps: int) -> list[int]:
    """Powers of two up to T, and T itself: 1, 2, 4, 8, 10 for T = 10."""
    powers = [1 << i for i in range(num_steps.bit_length())]
    return powers if powers[-1] == num_steps else [*powers, num_steps]


def accuracy_table(results: RunResults, steps: Sequence[int] | None = None) -> str:
    """Accuracy in percent at selected steps, and one line that sums the run up.

    Args:
        results: what the run measured.
        steps: the steps to show, each in 1..T; the powers of two and T unless given.

    Raises:
        ValueError: a step is not in 1..T.
    """
    steps = table_steps(results.num_steps) if steps is None else list(steps)
    outside = [step for step in steps if not 1 <= step <= results.num_steps]
    if outside:
        raise ValueError(f"expected steps in 1..{results.num_steps}, got {outside[0]}")
    columns = {"T": [str(step) for step in steps]}
    columns["uncalibrated"] = [percent(results.accuracy_uncalibrated[step - 1]) for step in steps]
    if results.accuracy_calibrated is not None:
        columns["calibrated"] = [percent(results.accuracy_calibrated[step - 1]) for step in steps]
    columns["ANN"] = [percent(results.ann_accuracy)] * len(steps)
    widths = [max(len(name), *map(len, cells)) for name, cells in columns.items()]
    rows = [list(columns), ["-" * width for width in widths], *zip(*columns.values(), strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*lines, "", summary_line(results)])


def summary_line(results: RunResults) -> str:
    """One sentence: accuracy of ANN and SNN at T, where measured, and what the calibration cost."""
    head = (
        f"Accuracy on {image_count(results)}: ANN {percent(results.ann_accuracy)}, "
        f"SNN {percent(results.accuracy_final)} at T = {results.num_steps}"
    )
    if results.calibration is None:
        return f"{head}, not calibrated."
    cost = results.calibration
    passes = f"{cost['forward_passes']} forward pass{'' if cost['forward_passes'] == 1 else 'es'}"
    return f"{head}, calibrated ({cost['solver']}) with {cost['images']:,} images, {passes}, {cost['seconds']:.1f} s."


def image_count(results: RunResults) -> str:
    """What the accuracies were measured on: `10,000 test images`."""
    return f"{results.images:,} {results.split} image{'' if results.images == 1 else 's'}"


def percent(accuracy: float) -> str:
    """An accuracy of 0..1 as text: 0.9034 is 90.3 %."""
    return f"{100 * accuracy:.1f} %"
