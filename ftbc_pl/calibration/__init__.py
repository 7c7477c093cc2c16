"""Forward Temporal Bias Correction of a converted network."""

from ftbc_pl.calibration.calibrate import CalibrationOptions, calibrate_
from ftbc_pl.calibration.report import CalibrationReport, SiteReport

__all__ = ["CalibrationOptions", "CalibrationReport", "SiteReport", "calibrate_"]
