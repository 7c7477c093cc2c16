"""Save and load spiking networks: tensors as safetensors, everything else as JSON. Neither can run code."""

from ftbc_pl.io.recipe import recipe
from ftbc_pl.io.snn import load_calibration, load_snn, save_snn

__all__ = ["load_calibration", "load_snn", "recipe", "save_snn"]
