"""Data: images in three disjoint roles, and training images to calibrate with."""

from ftbc_pl.data.base import ClassificationData
from ftbc_pl.data.digits import DigitsData
from ftbc_pl.data.images import ImageData

__all__ = ["ClassificationData", "DigitsData", "ImageData"]
