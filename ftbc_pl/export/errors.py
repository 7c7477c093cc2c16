"""The error of a network that a format can't say."""

from collections.abc import Sequence

from ftbc_pl.simulation import SpikingNetwork


class ExportError(ValueError):
    """A spiking network can't be written in a format; lists every offending operation.

    Attributes:
        problems: One sentence per operation: module path, operation, what would avoid it.
    """

    def __init__(self, format: str, problems: Sequence[str]) -> None:
        """Create the error from the sentences of all operations."""
        self.problems = list(problems)
        count = "1 operation" if len(self.problems) == 1 else f"{len(self.problems)} operations"
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"{format} can't say {count} of this network:\n{lines}")


def check_schedule(snn: SpikingNetwork, format: str) -> None:
    """Check that sites fire at every step.

    Raises:
        ExportError: They wait for the currents of all steps.
    """
    if snn.options.schedule == "accumulate":
        raise ExportError(
            format,
            [
                "(network): its sites wait for the currents of all timesteps (schedule accumulate), the neurons of a "
                "file fire at every step: convert and calibrate with schedule='stream'"
            ],
        )


class InexpressibleError(ValueError):
    """One operation has no counterpart; the message says what would avoid it."""
