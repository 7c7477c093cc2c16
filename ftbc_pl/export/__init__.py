"""Spiking networks for other software: NIR for neuromorphic tools, ONNX for runtimes."""

from ftbc_pl.export.command import export
from ftbc_pl.export.errors import ExportError
from ftbc_pl.export.nir import export_nir
from ftbc_pl.export.onnx import export_onnx

__all__ = ["ExportError", "export", "export_nir", "export_onnx"]
