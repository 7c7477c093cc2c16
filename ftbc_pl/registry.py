"""Names for parts that users may add to: solvers of the temporal bias, and activations."""

import difflib
import importlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T", bound=type)


class Registry:
    """Classes by name.

    A name may say where it is registered, as `module:name`: the module is imported first. So a class of the user's
    own can be named in YAML without any other line.
    """

    def __init__(self, what: str, home: str) -> None:
        """Create the registry.

        Args:
            what: What its classes are, for error messages.
            home: Module that registers the classes of this package; imported when the first name is looked up.
        """
        self.what = what
        self.home = home
        self._classes: dict[str, type] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate a class to make it known as `name`.

        Raises:
            ValueError: The name is taken by another class, or holds a colon.
        """
        if ":" in name:
            raise ValueError(f"expected the name of a {self.what} without a colon, got {name!r}")

        def decorate(cls: T) -> T:
            known = self._classes.setdefault(name, cls)
            if known.__qualname__ != cls.__qualname__ or known.__module__ != cls.__module__:
                raise ValueError(f"the {self.what} {name!r} is {known.__module__}.{known.__qualname__} already")
            self._classes[name] = cls  # the same class again, where a notebook runs a cell twice
            return cls

        return decorate

    def __getitem__(self, name: str) -> Any:
        """The class called `name` or `module:name`.

        Raises:
            ValueError: There is none, or its module can't be imported.
        """
        module, _, own = str(name).rpartition(":")
        importlib.import_module(self.home)
        if module:
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ValueError(f"can't import the module of the {self.what} {name!r}: {error}") from error
        if own not in self._classes:
            similar = difflib.get_close_matches(own, self._classes, n=1)
            hint = f"Did you mean {similar[0]!r}? " if similar else ""
            raise ValueError(
                f"{self.what} must be one of {', '.join(self)}, got {name!r}. {hint}One of your own is named "
                "as module:name, the module being where it is registered."
            )
        return self._classes[own]

    def __iter__(self) -> Iterator[str]:
        importlib.import_module(self.home)
        return iter(list(self._classes))

    def classes(self) -> tuple[type, ...]:
        """All classes, in the order in which they were registered."""
        return tuple(self._classes[name] for name in self)


SOLVERS = Registry("solver", "ftbc_pl.calibration.solvers")
ACTIVATIONS = Registry("activation", "ftbc_pl.layers")
