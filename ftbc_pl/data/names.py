"""Whether the classes of the data are those that a network was trained with: a number means a class by its name."""

from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_warn

__all__ = ["check_class_names"]


def check_class_names(trained: Sequence[str] | None, found: Sequence[str] | None, only_warn: bool) -> None:
    """Check that names and order of the classes are those of the training.

    Nothing is said where one of the two does not know its names, or where their number differs, which is an error of
    its own.

    Args:
        trained: Names of the classes that the network was trained with, by their numbers.
        found: Names of the classes of the data, by their numbers.
        only_warn: Whether images are only predicted, for which the network's names serve.

    Raises:
        ValueError: They are not, and the accuracy would be that of other classes.
    """
    if not trained or not found or len(trained) != len(found) or list(trained) == list(found):
        return
    number = next(number for number, (one, other) in enumerate(zip(trained, found, strict=True)) if one != other)
    said = f"class {number} of the data is {found[number]}, of the network {trained[number]}"
    if only_warn:
        rank_zero_warn(f"The data have other classes than the network was trained with ({said}): its names are taken.")
        return
    raise ValueError(
        f"expected the classes that the network was trained with, by name and in their order, got others ({said}); "
        f"name the class folders as they were named for the training, or train on these"
    )
