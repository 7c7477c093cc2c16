"""Parts of a data set that stand for the whole."""

import torch
from torch import Tensor

_SEED = 0  # no option: two evaluations of the same part must see the same images

__all__ = ["spread_over_classes", "takes_part"]


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
