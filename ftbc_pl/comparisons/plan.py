"""What is compared: rules, timesteps and draws, checked before anything is loaded."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from ftbc_pl.options import CalibrationOptions, ConversionOptions, SimulationOptions
from ftbc_pl.registry import SOLVERS

BUILT_IN = ("heuristic", "exact", "balanced")
# Their bias at t comes from the steps up to t alone. Others may look at T, as balanced does, whose horizon it is.
_CAUSAL = (None, "heuristic", "exact")
# What a comparison goes over, so that it is no option of its calibrations.
_VARIED = ("num_steps", "solver", "weights", "readout")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Rule:
    """A way of calibrating.

    Attributes:
        solver: Rule of the temporal bias; None: the network as it was converted.
        weights: What becomes of the weights of the layers.
    """

    solver: str | None
    weights: str = "keep"

    @property
    def name(self) -> str:
        """The solver, with the weights where these are fitted."""
        return f"{self.solver or 'uncalibrated'}{'' if self.weights == 'keep' else f', weights {self.weights}'}"

    @property
    def is_causal(self) -> bool:
        """Whether one calibration at T gives what one at t would give, for every t ≤ T, where thresholds allow it."""
        return self.solver in _CAUSAL and self.weights == "keep"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is compared.

    Attributes:
        num_steps: The timesteps T, in ascending order.
        rules: The rules; the first is the network as it was converted.
        draws: Number of choices of the calibration images.
        conversion: Options of all conversions but T.
        calibration: Options of all calibrations.
        simulation: How the networks are run.
    """

    num_steps: tuple[int, ...]
    rules: tuple[Rule, ...]
    draws: int
    conversion: Mapping[str, Any]
    calibration: Mapping[str, Any]
    simulation: SimulationOptions

    @classmethod
    def of(
        cls,
        num_steps: Iterable[int],
        solvers: Iterable[str],
        weights: Iterable[str],
        draws: int,
        options: Mapping[str, Any],
    ) -> "Plan":
        """Put a plan together and check it.

        Args:
            num_steps: The timesteps T.
            solvers: Names of solvers.
            weights: What becomes of the weights, for each solver.
            draws: Number of choices of the calibration images.
            options: Those of conversion, calibration and simulation that all have in common. What some solver does not
                take, as `passes`, goes to those that do.

        Raises:
            TypeError: A keyword is no option.
            ValueError: An option or a combination is out of range.
        """
        varied = [name for name in _VARIED if name in options]
        if varied:
            raise TypeError(
                f"compare has no option {varied[0]!r}: it goes over num_steps, solvers and weights, and shows every "
                "readout."
            )
        classes = (ConversionOptions, CalibrationOptions, SimulationOptions)
        known = [{field.name for field in fields(part)} - set(_VARIED) for part in classes]
        wrong = sorted(options.keys() - set().union(*known))
        if wrong:
            raise TypeError(
                f"compare has no option {wrong[0]!r}. Its options are {', '.join(sorted(set().union(*known)))}."
            )
        conversion, calibration, simulation = (
            {name: value for name, value in options.items() if name in names} for names in known
        )
        steps = tuple(sorted(set(num_steps)))
        rules = [Rule(solver, kind) for solver in dict.fromkeys(solvers) for kind in dict.fromkeys(weights)]
        plan = cls(
            num_steps=steps,
            rules=(Rule(None), *rules),
            draws=draws,
            conversion=conversion,
            calibration=calibration,
            simulation=SimulationOptions(**simulation),
        )
        plan._check()
        return plan

    @property
    def num_batches(self) -> int:
        """Calibration batches of each draw."""
        return int(self.calibration.get("num_batches", CalibrationOptions.num_batches))

    def options(self, rule: Rule) -> dict[str, Any]:
        """The options with which `calibrate_` follows a rule."""
        specific = {name for kind in SOLVERS.classes() for name in kind.options}  # type: ignore[attr-defined]
        left_out = specific - set(SOLVERS[str(rule.solver)].options)
        own = {name: value for name, value in self.calibration.items() if name not in left_out}
        return own | {"solver": rule.solver, "weights": rule.weights, "readout": "least_squares"}

    def _check(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}.")
        if not self.num_steps or len(self.rules) == 1:
            raise ValueError("compare needs at least one number of timesteps and one solver.")
        conversions = [ConversionOptions(num_steps=steps, **self.conversion) for steps in self.num_steps]
        specific = {name for kind in SOLVERS.classes() for name in kind.options}  # type: ignore[attr-defined]
        taken = {name for rule in self.rules[1:] for name in SOLVERS[str(rule.solver)].options}
        for name in sorted(specific - taken):
            if self.calibration.get(name, default := getattr(CalibrationOptions, name)) != default:
                raise ValueError(f"{name} is an option of none of the solvers that are compared: leave it out.")
        for rule in self.rules[1:]:
            chosen = CalibrationOptions(**self.options(rule))
            for conversion in conversions:
                chosen.check_horizon(conversion.prediction_steps)


def listed(given: Any, kind: Callable[[str], _T], what: str) -> list[_T] | None:
    """A list from `1,2,4`, one value, or a list; None stays None.

    Args:
        given: What was given.
        kind: What each entry is made.
        what: What the entries should be, for the error.

    Raises:
        ValueError: An entry can't be made that.
    """
    if given is None:
        return None
    if isinstance(given, str):
        given = given.split(",")
    entries = given if isinstance(given, list | tuple) else [given]
    try:
        return [kind(str(entry).strip()) for entry in entries]
    except ValueError as error:
        raise ValueError(f"expected {what}, got {','.join(map(str, entries))}") from error
