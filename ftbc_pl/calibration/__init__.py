"""Forward Temporal Bias Correction of a converted network."""

from ftbc_pl.calibration.calibrate import calibrate_
from ftbc_pl.calibration.readout import uncalibrated_readout
from ftbc_pl.calibration.report import CalibrationReport
from ftbc_pl.calibration.solvers import register_solver
from ftbc_pl.options import CalibrationOptions

__all__ = ["CalibrationOptions", "CalibrationReport", "calibrate_", "register_solver", "uncalibrated_readout"]
