"""What was measured, in words: the same in the terminal, in the titles of figures and in the report."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ftbc_pl.evaluation.advice import NOTHING_TO_MEND
from ftbc_pl.reports.results import RunResults
from ftbc_pl.sites import RATE_EXACT, waiting

_FEW_IMAGES = 100  # below which an accuracy may be off by ten points
_MOSTLY = 0.5  # of the energy


def table_steps(num_steps: int) -> list[int]:
    """Powers of two up to T, and T itself: 1, 2, 4, 8, 10 for T = 10."""
    powers = [1 << i for i in range(num_steps.bit_length())]
    return powers if powers[-1] == num_steps else [*powers, num_steps]


def percent(accuracy: float, results: RunResults) -> str:
    """An accuracy of 0..1 with its standard error: `90.3 ± 0.9 %`."""
    return f"{100 * accuracy:.1f} ± {100 * results.standard_error(accuracy):.1f} %"


def image_count(results: RunResults) -> str:
    """What the accuracies were measured on: `10,000 test images`."""
    return f"{results.images:,} {results.split} image{'' if results.images == 1 else 's'}"


def summary_line(results: RunResults) -> str:
    """One sentence: accuracy of ANN and SNN at T, where measured, and what the calibration cost."""
    head = (
        f"Accuracy on {image_count(results)}: ANN {percent(results.ann_accuracy, results)}, "
        f"SNN {percent(results.accuracy_final, results)} at T = {results.num_steps}{latency(results)}"
    )
    if results.calibration is None:
        return f"{head}, not calibrated."
    cost = results.calibration
    passes = f"{cost['forward_passes']} forward pass{'' if cost['forward_passes'] == 1 else 'es'}"
    fitted = ", fitted weights" if results.weights else ""
    made = f"calibrated {'earlier ' if results.calibrated_earlier else ''}({cost['solver']}{fitted})"
    return f"{head}, {made} with {cost['images']:,} images, {passes}, {cost['seconds']:.1f} s."


def latency(results: RunResults) -> str:
    """How long the answer takes, behind an accuracy at T; nothing where it takes T steps."""
    if results.schedule != "accumulate" or results.latency is None:
        return ""
    return f" ({waiting(results.latency)})"


def closing_lines(results: RunResults) -> list[str]:
    """What was measured beside the accuracy: energy (two lines), early exit, what needs mending, what is unsure."""
    unsure = [lost_by_calibration(results), few_images(results)]
    lines = [*_energy_lines(results), *_exit_lines(results), *diagnosis_lines(results), *unsure]
    return [line for line in lines if line]


def lost_by_calibration(results: RunResults) -> str:
    """A sentence where the calibration lowers the accuracy at T by more than its standard error; else nothing."""
    if results.calibration is None:
        return ""
    lost = results.accuracy_uncalibrated[-1] - results.accuracy_final
    if lost <= (error := gain_error(results)):
        return ""
    return (
        f"At T = {results.num_steps} the calibration lowers the accuracy by {100 * lost:.1f} ± {100 * error:.1f} points"
        f" (it had {results.calibration['images']:,} images): give it more, like those here, or another solver."
    )


def gain_error(results: RunResults) -> float:
    """Standard error of the gain by calibration at T, as if the images were others for each accuracy: no less."""
    both = results.accuracy_uncalibrated[-1], results.accuracy_final
    return math.hypot(*map(results.standard_error, both))


def few_images(results: RunResults) -> str:
    """A sentence where the accuracies are those of so few images that small differences are chance; else nothing."""
    if results.images >= _FEW_IMAGES:
        return ""
    points = 100 / math.sqrt(results.images)  # two standard errors of an accuracy of one half
    return f"{image_count(results).capitalize()} are few: differences below {points:.0f} points say nothing."


def diagnosis_lines(results: RunResults) -> list[str]:
    """The sites that need mending, or that there is nothing to mend, since no accuracy is lost at T."""
    if results.diagnosis is None:
        return []
    lost = results.ann_accuracy - results.accuracy_final
    is_dead = any(site.get("dead") == 1 for site in results.diagnosis.get("sites", ()))  # in the ANN as well
    if results.images < _FEW_IMAGES or lost > results.standard_error(results.ann_accuracy) or is_dead:
        return list(results.diagnosis["advice"])
    return [f"At T = {results.num_steps} no accuracy is lost beyond its standard error: {NOTHING_TO_MEND}."]


def _energy_lines(results: RunResults) -> list[str]:
    if results.energy is None:
        return []
    cost = results.energy
    before = cost.get("uncalibrated")
    uncalibrated = "" if before is None else f" ({before['sops'][-1]:,.0f} without calibration)"
    first = (
        f"{cost['sops'][-1]:,.0f} synaptic operations{uncalibrated} and {cost['macs'][-1]:,.0f} MACs for an image at "
        f"T = {results.num_steps}, the ANN has {cost['ann_macs']:,.0f} MACs; counted on {cost['images']:,} images."
    )
    ratios = [f"{100 * part['ratio'][-1]:.1f} % ({name})" for name, part in cost["conventions"].items()]
    second = f"Energy, as a share of the ANN's: {', '.join(ratios)}. {cost['not_counted']}{_repeated_macs(results)}"
    return [first, second]


def _repeated_macs(results: RunResults) -> str:
    """What multiplies at every step and how to avoid it, where most of the energy at T goes there."""
    cost: Any = results.energy
    name, part = next(iter(cost["conventions"].items()))
    macs = cost["macs"][-1] - cost.get("static_macs", cost["macs"][-1])
    share = macs * part["mac"] / max(part["joules"][-1], macs * part["mac"], 1e-30)
    if share <= _MOSTLY:
        return ""
    operations = results.conversion.get("operations", {}).get(RATE_EXACT, {})
    behind = f"rate-exact sites ({', '.join(operations)})" if operations else "other layers, without neurons in between"
    pooling = "; average pooling keeps spikes, train with model.pooling avg" if _pools(operations) else ""
    return (
        f" {100 * share:.0f} % of the energy ({name}) are MACs of layers behind {behind}: these get values, no spikes, "
        f"and multiply at every step{pooling} (docs/energy.md)."
    )


def _pools(operations: Iterable[str]) -> bool:
    return any("max_pool" in name for name in operations)


def _exit_lines(results: RunResults) -> list[str]:
    if results.early_exit is None:
        return []
    found = results.early_exit
    energy = "".join(f", {100 * ratio:.1f} % of the ANN's energy ({name})" for name, ratio in exit_ratios(results))
    return [
        f"Early exit: {percent(found['accuracy'], results)} after {found['mean_steps']:.2f} steps in the mean, 90 % of "
        f"the images within {found['percentile_90']}; {100 * found['loss']:.2f} % of the decisions differ from those "
        f"at T{energy}."
    ]


def exit_ratios(results: RunResults) -> list[tuple[str, float]]:
    """Mean energy with early exit as a share of the ANN's, by convention; empty where it was not measured."""
    return list((results.early_exit or {}).get("ratio", {}).items())


def facts(results: RunResults) -> dict[str, str]:
    """What the accuracies are those of, in the order in which a reader asks; what is not known is left out."""
    found = {
        "network": _class_name(_setting(results, "model.network")),
        "activation": _activation(results),
        "data": _data(results),
        "images": image_count(results),
        "solver": "not calibrated" if results.calibration is None else str(results.calibration["solver"]),
        "readout": _readout(results),
        "schedule": latency(results).strip(" ()").removeprefix("schedule "),
        "checkpoint": _text(_setting(results, "ckpt_path")),
        "saved network": _text(_setting(results, "snn_path")),
    }
    return {name: value for name, value in found.items() if value}


def title(results: RunResults) -> str:
    """Two lines that say what a figure shows: network, activation, data and images; solver, readout and checkpoint."""
    known = facts(results)
    activation = f" ({known['activation']})" if "activation" in known else ""
    data = f" on {known['data']}" if "data" in known else ""
    first = f"{known.get('network', 'network')}{activation}{data}: {known['images']}"
    second = [known["solver"] if results.calibration is None else f"solver {known['solver']}"]
    second += [f"readout {known['readout']}"] if "readout" in known else []
    second += [known["schedule"]] if "schedule" in known else []
    second += [f"{name} {Path(known[name]).name}" for name in ("checkpoint", "saved network") if name in known]
    return f"{first}\n{', '.join(second)}"


def curve_name(key: str) -> str:
    """What a curve of the results is called: `readout only` is the network without bias, its steps weighed."""
    return key.replace("_", " ")


def curve_label(results: RunResults, key: str) -> str:
    """Name of one of the results' curves, with the solver and the readout behind it."""
    if key != "calibrated":
        readout = "least_squares" if key == "readout_only" else "mean"
        return f"SNN, {curve_name(key)} (readout {readout})"
    known = facts(results)
    readout = f", readout {known['readout']}" if "readout" in known else ""
    return f"SNN, {key} ({known['solver']}{readout})"


def _setting(results: RunResults, path: str) -> Any:
    """The setting at a path such as `model.network`, None where there is none: settings come from any version."""
    value: Any = results.settings
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _class_name(value: Any) -> str:
    """A name as it is, and the class alone of a `class_path`."""
    if isinstance(value, Mapping):
        return _text(value.get("class_path")).rpartition(".")[2]
    return _text(value)


def _activation(results: RunResults) -> str:
    """The activations that spike, as the conversion found them, else as the settings have it."""
    operations = results.conversion.get("operations", {})
    spiking = operations.get("spiking") if isinstance(operations, Mapping) else None
    asked, levels = _setting(results, "model.activation"), _setting(results, "model.levels")
    name = ", ".join(map(str, spiking)) if spiking else _text(asked)
    return f"{name}, L = {levels}" if name == asked == "qcfs" and levels else name


def _data(results: RunResults) -> str:
    """The data module, and which data set it reads."""
    module = _class_name(_setting(results, "data"))
    root = _text(_setting(results, "data.init_args.root"))
    name = _text(_setting(results, "data.init_args.name"))
    which = Path(root).name if name in ("", "folder") else name
    return f"{module} ({which})" if module and which else module or which


def _readout(results: RunResults) -> str:
    if results.calibration is None:
        return "mean"  # only a calibration changes it
    if "readout" in results.calibration:
        return _text(results.calibration["readout"])
    weights = results.calibration.get("readout_weights")
    if weights and _setting(results, "snn_path") is not None:
        # The settings are those of this evaluation, not those of the calibration that the network was saved after.
        return "mean" if len(set(weights)) == 1 else "weighted"
    return _text(_setting(results, "ftbc.readout"))
