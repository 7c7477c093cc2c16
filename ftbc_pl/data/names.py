"""What the names of classes and splits say: whether a number means the same class, whether images are new."""

from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_warn

__all__ = ["check_class_names", "warn_of_seen_images"]


def warn_of_seen_images(seen: Sequence[str] | None, split: str | None) -> None:
    """Warn where the split to test on is one that the network was trained on, or whose images chose its best epoch.

    Args:
        seen: Names of such splits, the one with the training images first.
        split: Name of the split to test on.
    """
    if split is None or not seen or split not in seen:
        return
    use = "trained" if split == seen[0] else "chose the best epoch of"
    rank_zero_warn(
        f"The images of {split} {use} this network: its accuracy on them is no test accuracy, but better than on new "
        "images. Test on others (data.test_split), or train with these left out."
    )


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
