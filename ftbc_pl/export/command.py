"""A saved spiking network as a file for other software: what the command line does."""

import os
from pathlib import Path
from typing import Literal, get_args

from lightning.pytorch.utilities import rank_zero_info

from ftbc_pl.export.nir import export_nir
from ftbc_pl.export.onnx import export_onnx
from ftbc_pl.io import load_snn

Format = Literal["nir", "onnx"]


def export(
    snn_path: str | os.PathLike[str], format: Format, output: str | os.PathLike[str], overwrite: bool = False
) -> None:
    """Write a saved spiking network in another format.

    Args:
        snn_path: Folder or file of the saved network.
        format: `nir` or `onnx`.
        output: The file.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        ValueError: The format is unknown, the saved network is damaged, or the format can't say it.
        FileExistsError: The file is there, and `overwrite` is not set.
        FileNotFoundError: There is no saved network.
        ImportError: A package is not installed.
    """
    if format not in get_args(Format):
        raise ValueError(f"expected the format {' or '.join(get_args(Format))}, got {format!r}")
    if Path(output).exists() and not overwrite:
        raise FileExistsError(
            f"expected a new file to write, got {output}, which exists: name another, or pass --overwrite true."
        )
    snn = load_snn(snn_path)
    (export_nir if format == "nir" else export_onnx)(snn, output)
    rank_zero_info(f"Wrote {output}.")
