"""Save and load spiking networks."""

import os
import secrets
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ftbc_pl.calibration import CalibrationReport
from ftbc_pl.conversion import SpikingNetwork, convert
from ftbc_pl.conversion.copies import copied, unwrapped
from ftbc_pl.files import write_json_atomic
from ftbc_pl.folders import atomic_folder_update, recover
from ftbc_pl.functional.exit import NEVER
from ftbc_pl.functional.readout import mean_readout
from ftbc_pl.io.description import FORMAT, VERSION, checksums, read_description
from ftbc_pl.io.recipe import rebuild, recipe
from ftbc_pl.io.tensors import check_fingerprints, check_values, fingerprint, take_types_
from ftbc_pl.models.images import IMAGES, checked, remember_images, remembered
from ftbc_pl.simulation.corrections import Changed


def save_snn(snn: SpikingNetwork, path: str | os.PathLike[str], *, report: CalibrationReport | None = None) -> None:
    """Write `<path>.safetensors` and `<path>.json`, both or neither; those of an earlier save are replaced.

    Args:
        snn: A spiking network, calibrated or not.
        path: Path without suffix, such as `out/snn`; the folder is made.
        report: What the calibration did, kept in the JSON file.

    Raises:
        ValueError: The network can't work (NaN, a threshold that is not above 0), so it could not be loaded.
        OSError: The disk is full; files that were there are as they were.
    """
    tensors_path, json_path = _paths(path)
    try:
        check_values(snn)
    except ValueError as error:
        raise ValueError(f"The spiking network was not saved to {json_path.parent}: {error}.") from error
    # Ties the two files together, so that a mixture of two saves is noticed.
    token = secrets.token_hex(8)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in snn.state_dict().items()}
    description = {
        "format": FORMAT,
        "version": VERSION,
        "token": token,
        "network": recipe(snn.network),
        "conversion": snn.options.to_dict() | _input(snn),
        "time_chunk": snn.time_chunk,
        "channels_last": _is_channels_last(snn.network),
        "sites": [[call.name, call.record.operation, call.kind.value] for call in snn.calls],
        "report": None if report is None else report.to_dict(),
        "tensors": {name: fingerprint(value) for name, value in tensors.items()},
    }
    images = checked(remembered(snn.network))
    if images:
        description[IMAGES] = images
    if snn.corrections.changed:
        description["corrections"] = [list(one) for one in snn.corrections.changed]
    description["checksums"] = checksums(description)
    with atomic_folder_update(json_path.parent, (tensors_path.name, json_path.name)) as aside:
        safetensors.torch.save_file(tensors, aside / tensors_path.name, metadata={"format": FORMAT, "token": token})
        write_json_atomic(aside / json_path.name, description)


def load_snn(path: str | os.PathLike[str], ann: nn.Module | None = None) -> SpikingNetwork:
    """Read what `save_snn` wrote; outputs are bit-equal to those before.

    `shorten_(snn, 4)` then lets it stop after four timesteps, say.

    Args:
        path: Path without suffix, either of the two files, or a folder that holds `snn.json`.
        ann: A network of the architecture that was converted, for networks that timm does not know; its weights are
            not used, and it is left as it is.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is truncated, foreign, changed, or belongs to another network.
    """
    tensors_path, json_path = _paths(path)
    _finish_save(json_path.parent)
    description = read_description(json_path)
    tensors = _read_tensors(tensors_path, description)
    network = _network(description, json_path, ann)
    if description["version"] >= 3:  # checksums tell that the types are those that were saved
        take_types_(network, tensors, "network.")
    snn = _converted(network, description, json_path, "its name builds" if ann is None else "the one handed in")
    if description["version"] >= 3:
        take_types_(snn, tensors)
    _make_corrections_(snn, description, tensors, tensors_path)
    if "uncalibrated_readout" in tensors:
        snn.uncalibrated_readout = torch.zeros_like(snn.readout_weights)
    # Some modules of torchvision look at the version that state_dict() writes beside the tensors.
    state = snn.state_dict()
    state_with_versions = type(state)(tensors)
    state_with_versions._metadata = state._metadata  # type: ignore[attr-defined]
    for name, value in tensors.items():
        if name in state and value.dtype != state[name].dtype:
            raise ValueError(
                f"{tensors_path} does not fit the network: {name} is {value.dtype}, not {state[name].dtype}."
            )
    try:
        snn.load_state_dict(state_with_versions)
        check_values(snn)
    except RuntimeError as error:
        raise ValueError(f"{tensors_path} does not fit the network: {error}") from error
    except ValueError as error:
        raise ValueError(f"{tensors_path} is no working network: {error}. Calibrate it again.") from error
    snn.time_chunk = description["time_chunk"]
    return snn


def load_calibration(path: str | os.PathLike[str]) -> CalibrationReport | None:
    """Read what the calibration of a saved network did; None if it was not calibrated."""
    json_path = _paths(path)[1]
    _finish_save(json_path.parent)
    report = read_description(json_path)["report"]
    return None if report is None else CalibrationReport.from_dict(report)


def _network(description: dict[str, Any], json_path: Path, ann: nn.Module | None) -> nn.Module:
    if ann is not None:
        network = copied(unwrapped(ann)).cpu()
    elif description["network"] is None:
        raise ValueError(f"{json_path} holds a network that timm does not know: pass ann= with its architecture.")
    else:
        try:
            network = rebuild(description["network"])
        except ValueError as error:
            raise ValueError(f"{json_path} can't be loaded: {error}.") from error
    if description["channels_last"]:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    remember_images(network, checked(description.get(IMAGES)))
    return network


def _converted(network: nn.Module, description: dict[str, Any], json_path: Path, other: str) -> SpikingNetwork:
    """Convert without measuring anything, and compare the sites with those that were saved."""
    options = dict(description["conversion"])
    dtype = getattr(torch, options.pop("input_dtype", "float32"))
    example = torch.zeros(2, *options.pop("input_size"), dtype=dtype)
    try:
        snn = convert(network, example=example, check=False, measure=False, **options)
    except Exception as error:  # the code of the network decides
        raise ValueError(
            f"{json_path} describes another network than {other}: {error} Pass ann= with the architecture that was "
            "saved."
        ) from error
    found = [[call.name, call.record.operation, call.kind.value] for call in snn.calls]
    if found != description["sites"]:
        differing = next((a, b) for a, b in zip([*found, None], [*description["sites"], None], strict=False) if a != b)
        raise ValueError(
            f"{json_path} describes another network: it has the site {differing[1]}, the network handed in "
            f"{differing[0]}. Pass ann= with the architecture that was saved."
        )
    return snn


def _make_corrections_(
    snn: SpikingNetwork, description: dict[str, Any], tensors: dict[str, Tensor], path: Path
) -> None:
    """Give the network the buffers of the weights that were fitted."""
    content = {}
    for one in (Changed(*entry) for entry in description.get("corrections", ())):
        names = [f"corrections.{name}" for name in one.buffers]
        missing = [name for name in names if name not in tensors]
        if missing:
            raise ValueError(f"{path} does not fit the network: the tensor {missing[0]} is missing.")
        content[one] = [tensors[name].clone() for name in names]
    snn.corrections.replace_(content)
    if description["channels_last"]:
        snn.corrections.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _input(snn: SpikingNetwork) -> dict[str, Any]:
    """Size and type of the images that a network takes; the type only where it is not the usual one."""
    dtype = str(snn.input_dtype).removeprefix("torch.")
    return {"input_size": list(snn.input_size)} | ({} if dtype == "float32" else {"input_dtype": dtype})


def _paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    base = Path(path)
    if base.is_dir():
        base = base / "snn"
    elif base.suffix in (".safetensors", ".json"):
        base = base.with_suffix("")
    return base.with_name(base.name + ".safetensors"), base.with_name(base.name + ".json")


def _finish_save(folder: Path) -> None:
    """Finish a save that was killed between its two files."""
    try:
        if folder.is_dir():
            recover(folder)
    except OSError as error:
        raise ValueError(f"{folder} holds a save that was interrupted and can't be finished: {error}.") from error


def _read_tensors(path: Path, description: dict[str, Any]) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"The tensors of the spiking network are missing: {path}.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:  # the file decides
        raise ValueError(f"{path} is truncated or no safetensors file: {error}. Save the network again.") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} holds tensors, but not those of a spiking network; expected format {FORMAT!r}.")
    if metadata.get("token") != description["token"]:
        raise ValueError(f"{path} and its .json come from two different saves. Save the network again.")
    if description["version"] >= 3:
        try:
            check_fingerprints(tensors, description["tensors"])
        except ValueError as error:
            raise ValueError(f"{path} is not as it was saved: {error}. Save the network again.") from error
    conversion = description["conversion"]
    steps = 1 if conversion.get("schedule") == "accumulate" else conversion["num_steps"]  # with a prediction
    simulated = {value.shape[0] for name, value in tensors.items() if name.endswith(".temporal_bias") and value.ndim}
    if description["version"] == 1 and simulated == {steps}:  # before the readout, predictions were plain means
        tensors.setdefault("readout_weights", mean_readout(steps).float())
    shape = tuple(tensors["readout_weights"].shape) if "readout_weights" in tensors else None
    if shape != (steps, steps):  # before memory for that many steps is asked for
        raise ValueError(f"{path} does not fit the network: readout_weights is {shape}, expected ({steps}, {steps}).")
    tensors.setdefault("exit_thresholds", torch.full((steps,), NEVER))  # files of before early exit
    return tensors


def _is_channels_last(network: nn.Module) -> bool:
    return any(
        p.ndim == 4 and not p.is_contiguous() and p.is_contiguous(memory_format=torch.channels_last)
        for p in network.parameters()
    )
