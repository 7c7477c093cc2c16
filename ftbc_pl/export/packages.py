"""Packages that only users of the export need."""

from importlib import import_module
from typing import Any


def required(name: str) -> Any:
    """Import a package.

    Raises:
        ImportError: It is not installed; says how to install it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"expected the package {name!r} for this export: pip install 'ftbc_pl[export]'") from error
