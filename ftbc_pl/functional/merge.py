"""How statistics of parts of the calibration images become those of all of them.

Functions that need a statistic of all images take a `Merge` and leave it to the caller where the other parts
are; nothing in this package knows of processes.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Merge(NamedTuple):
    """Makes statistics of the whole from those of one part.

    Attributes:
        add: Returns the sum over all parts of a tensor that each part has.
        maximum: Returns the element-wise maximum over all parts.
    """

    add: Callable[[Tensor], Tensor]
    maximum: Callable[[Tensor], Tensor]


def _itself(values: Tensor) -> Tensor:
    return values


ALONE = Merge(_itself, _itself)  # this part is the whole
