"""The error of a network that can't be converted."""

from collections.abc import Sequence
from typing import Self


class ConversionError(ValueError):
    """A network can't become a spiking network as it is; lists every offending site.

    Attributes:
        problems: One sentence per site: module path, source line, operation, what to do.
    """

    def __init__(self, problems: Sequence[str], message: str | None = None) -> None:
        """Create the error from the sentences of all sites; `message` is for other than a list of them."""
        self.problems = list(problems)
        sites = "site" if len(self.problems) == 1 else "sites"
        listed = f"{len(self.problems)} {sites} can't be converted:\n" + "\n".join(f"  {p}" for p in problems)
        super().__init__(listed if message is None else message)

    @classmethod
    def of_network(cls, problem: str) -> Self:
        """Create the error of a network as a whole, in one line, from a sentence without its full stop."""
        return cls([f"(network): {problem}"], f"The network can't be converted: {problem}.")
