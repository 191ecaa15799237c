"""Networks: two encoders, aligned, subtracted, decoded. Knows neither data nor training."""

from segdiff.models.change_detector import ChangeDetector, Settings, build_change_detector

__all__ = ["ChangeDetector", "Settings", "build_change_detector"]
