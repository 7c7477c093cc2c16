"""Forward Temporal Bias Correction of a converted network."""

from ftbc_pl.calibration.calibrate import calibrate_
from ftbc_pl.calibration.options import CalibrationOptions
from ftbc_pl.calibration.report import CalibrationReport, SiteReport

__all__ = ["CalibrationOptions", "CalibrationReport", "SiteReport", "calibrate_"]
