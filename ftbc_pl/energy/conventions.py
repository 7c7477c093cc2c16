"""What one operation costs: named conventions with their sources. Numbers of two conventions are never mixed."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Convention:
    """Joules of one operation.

    Attributes:
        name: What results call it.
        mac: Energy of a multiplication with addition, in joules.
        accumulate: Energy of the addition of a weight that a spike causes, in joules.
        source: Where the numbers are from.
    """

    name: str
    mac: float
    accumulate: float
    source: str

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: One is not above 0.
        """
        if not (self.mac > 0 and self.accumulate > 0):
            raise ValueError(
                f"Expected energies above 0, got mac={self.mac} and accumulate={self.accumulate}: give joules, such as "
                "4.6e-12."
            )


CONVENTIONS = {
    convention.name: convention
    for convention in (
        Convention(
            name="45nm",
            mac=4.6e-12,
            accumulate=0.9e-12,
            source="32-bit floating point in 45 nm: Horowitz, Computing's energy problem, ISSCC 2014",
        ),
        Convention(
            name="neuromorphic",
            mac=12.5e-12,
            accumulate=77e-15,
            source="12.5 pJ a FLOP (a multiplication with addition is one) and 77 fJ a synaptic operation, as QCFS "
            "(Bu et al., ICLR 2022) has it",
        ),
    )
}


def convention_of(given: str | Convention) -> Convention:
    """The convention of a name, or the one given.

    Raises:
        ValueError: There is none of that name.
    """
    if isinstance(given, Convention):
        return given
    if given not in CONVENTIONS:
        raise ValueError(
            f"Expected a convention among {', '.join(map(repr, CONVENTIONS))}, got {given!r}; or pass an "
            "ftbc_pl.energy.Convention of your own."
        )
    return CONVENTIONS[given]
