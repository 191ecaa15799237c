"""Networks: two encoders, aligned, subtracted, decoded. Knows neither data nor training."""

from segdiff.model_files import Settings
from segdiff.models.alignment import AlignFeatures
from segdiff.models.architectures import build_change_detector
from segdiff.models.change_detector import ChangeDetector
from segdiff.models.difference import Difference
from segdiff.models.encoders import Encoder, build_encoder
from segdiff.models.fc_siam import load_torch_state
from segdiff.models.first_look import build_first_look
from segdiff.models.heads import DeepSupervision
from segdiff.models.semantic_change import build_semantic_change_detector
from segdiff.models.subtraction import subtract_models

__all__ = [
    "AlignFeatures",
    "ChangeDetector",
    "DeepSupervision",
    "Difference",
    "Encoder",
    "Settings",
    "build_change_detector",
    "build_encoder",
    "build_first_look",
    "build_semantic_change_detector",
    "load_torch_state",
    "subtract_models",
]
