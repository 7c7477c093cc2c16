"""The error of a network that can't be converted."""

from collections.abc import Sequence


class ConversionError(ValueError):
    """A network can't become a spiking network as it is; lists every offending site.

    Attributes:
        problems: One sentence a site: module path, source line, operation, what to do.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        """Create the error from the sentences of all sites."""
        self.problems = list(problems)
        sites = "site" if len(self.problems) == 1 else "sites"
        super().__init__(f"{len(self.problems)} {sites} can't be converted:\n" + "\n".join(f"  {p}" for p in problems))
