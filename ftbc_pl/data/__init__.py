"""Data: images in three disjoint roles, and training images to calibrate with."""

from .base import ClassificationData
from .digits import DigitsData
from .images import ImageData

__all__ = ["ClassificationData", "DigitsData", "ImageData"]
