"""Networks: two encoders, aligned, subtracted, decoded. Knows neither data nor training."""

from segdiff.models.change_detector import ChangeDetector, Settings, build_change_detector
from segdiff.models.subtraction import subtract_models

__all__ = ["ChangeDetector", "Settings", "build_change_detector", "subtract_models"]
