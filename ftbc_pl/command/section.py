"""The section ftbc of the command line."""

from typing import Any

from ftbc_pl.callbacks import FTBC
from ftbc_pl.options import RunOptions


def ftbc_section(**options: Any) -> FTBC:
    """Make the callback of the options that YAML can hold: a loader of calibration images is none of them.

    Args:
        **options: Those of `ftbc_pl.options.RunOptions`.
    """
    return FTBC(**RunOptions(**options).to_dict())
