"""Parts of a data set that stand for the whole."""

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

_SEED = 0  # no option: two evaluations of the same part must see the same images

__all__ = ["hold_out", "spread_over_classes", "takes_part"]


def takes_part(limit: int | float | None, batches: int) -> bool:
    """Whether a limit of Lightning's trainer leaves out some of a loader's batches.

    Args:
        limit: Number of batches (int) or fraction of them (float); None: no trainer, no limit.
        batches: Number of batches there are.
    """
    if limit is None:
        return False
    return 0 < limit < (batches if isinstance(limit, int) else 1.0)


def spread_over_classes(labels: Tensor) -> Tensor:
    """An order of the images of which every beginning has the mixture of classes of the whole.

    The k-th of the n images of a class, in a random order, stands at (k + ½)/n of the way, so that the first m of N
    images hold m·n/N of that class, to the nearest one or so.

    Args:
        labels: Classes `(N,)`, or any numbers.

    Returns:
        Indices `(N,)`, the same ones at every call.
    """
    generator = torch.Generator().manual_seed(_SEED)
    shuffled = torch.randperm(len(labels), generator=generator, device=generator.device)
    _, classes, counts = labels[shuffled].unique(return_inverse=True, return_counts=True)
    by_class = classes.argsort(stable=True)
    ranks = torch.empty_like(by_class)
    first = counts.cumsum(0) - counts
    ranks[by_class] = torch.arange(len(labels), device=ranks.device) - first.repeat_interleave(counts)
    # The shuffled order decides between classes whose images fall on the same place.
    return shuffled[((ranks + 0.5) / counts[classes]).argsort(stable=True)]


def hold_out(labels: Tensor, amount: int | float, seed: int) -> tuple[Tensor, Tensor]:
    """Split images into those to keep and those to hold out, with the same mixture of classes in both.

    Args:
        labels: Classes `(N,)`.
        amount: Fraction (below 1) or number (from 1) of images to hold out; 0 holds out none.
        seed: The same seed gives the same split, in every process and on every machine.

    Returns:
        Sorted indices of the images kept and of those held out.

    Raises:
        ValueError: `amount` is out of range, or too small or too large to hold out some of each class and keep some.
    """
    if not 0 <= amount < (1 if amount % 1 > 0 else len(labels)):
        raise ValueError(
            f"expected val_split as a fraction in 0..1 or a number below {len(labels)} images, got {amount}; "
            f"lower it, or name the data set's own validation split by val_split_name"
        )
    if amount >= 1:
        # The command line reads every number as a fraction first.
        amount = int(amount)
    everything = torch.arange(len(labels))
    if amount == 0:
        return everything, everything[:0]
    try:
        kept, held_out = train_test_split(
            everything.numpy(), test_size=amount, random_state=seed, stratify=labels.numpy()
        )
    except ValueError as error:
        raise ValueError(
            f"can't hold out val_split={amount} of {len(labels)} images with every class in both parts ({error}); "
            f"change val_split (0 holds out none), or name the data set's own validation split by val_split_name"
        ) from error
    return torch.from_numpy(kept).sort().values, torch.from_numpy(held_out).sort().values
