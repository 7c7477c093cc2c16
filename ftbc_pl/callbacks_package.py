"""Imports the top-level package `callbacks` of this distribution, or says what stands in its way.

The name is common: a file or folder `callbacks` in the working directory comes before the installed package.
"""

import callbacks

try:
    from callbacks.ftbc import FTBC
    from callbacks.predictions import PredictionWriter
except ModuleNotFoundError as error:
    if error.name is None or not error.name.startswith("callbacks"):
        raise
    found = getattr(callbacks, "__file__", None) or list(getattr(callbacks, "__path__", []))
    raise ImportError(
        f"The package `callbacks` of ftbc_pl is shadowed by {found}: rename that file or folder, or run from another "
        "directory."
    ) from error

__all__ = ["FTBC", "PredictionWriter"]
