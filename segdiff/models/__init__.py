"""Networks: two encoders, aligned, subtracted, decoded. Knows neither data nor training."""

from segdiff.models.architectures import build_change_detector
from segdiff.models.change_detector import ChangeDetector, Settings
from segdiff.models.fc_siam import load_torch_state
from segdiff.models.subtraction import subtract_models

__all__ = ["ChangeDetector", "Settings", "build_change_detector", "load_torch_state", "subtract_models"]
