"""The next point of a sweep: that of the grid, or the one that Optuna proposes.

A proposal depends on the runs so far and on its own number alone, so that a sweep that was stopped goes on as if it had
not been.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ftbc_pl.sweeps.file import Choice, Interval, SweepFile


def next_point(sweep: SweepFile, points: Sequence[Mapping[str, Any]], values: Sequence[float | None]) -> dict[str, Any]:
    """Choose the parameters of the next run.

    Args:
        sweep: What is gone over.
        points: Parameters of the runs so far.
        values: Their metrics; None where a run failed.

    Raises:
        ImportError: The method needs Optuna, which is not installed.
    """
    number = len(points)
    if sweep.method == "grid":
        return sweep.grid()[number]
    optuna = _optuna(sweep.method)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = {"random": optuna.samplers.RandomSampler, "bayes": optuna.samplers.TPESampler}
    study = optuna.create_study(direction=sweep.goal, sampler=samplers[sweep.method](seed=number))
    spaces = {name: _distribution(optuna, part) for name, part in sweep.parameters.items()}
    for point, value in zip(points, values, strict=True):
        state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
        params = {name: _raw(part, point[name]) for name, part in sweep.parameters.items()}
        study.add_trial(optuna.trial.create_trial(state=state, value=value, params=params, distributions=dict(spaces)))
    found = study.ask(fixed_distributions=spaces).params
    return {name: _plain(part, found[name]) for name, part in sweep.parameters.items()}


def check_installed(sweep: SweepFile) -> None:
    """Check before the first run that the method can be followed.

    Raises:
        ImportError: It needs Optuna, which is not installed.
    """
    if sweep.method != "grid":
        _optuna(sweep.method)


def _optuna(method: str) -> Any:
    try:
        import optuna  # here, since a grid does without
    except ImportError as error:
        raise ImportError(f"method {method} needs the package 'optuna': pip install 'ftbc_pl[sweep]'") from error
    return optuna


def _distribution(optuna: Any, part: Choice | Interval) -> Any:
    if isinstance(part, Choice):
        return optuna.distributions.CategoricalDistribution(range(len(part.values)))
    if part.whole:
        return optuna.distributions.IntDistribution(int(part.low), int(part.high), step=int(part.step or 1))
    return optuna.distributions.FloatDistribution(part.low, part.high, log=part.log, step=part.step)


def _raw(part: Choice | Interval, value: Any) -> Any:
    # by their places, since Optuna takes no lists or dicts as values
    return part.values.index(value) if isinstance(part, Choice) else value


def _plain(part: Choice | Interval, found: Any) -> Any:
    return part.values[found] if isinstance(part, Choice) else found
