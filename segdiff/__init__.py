"""segdiff finds what changed between two pictures of the same place or thing."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from segdiff.inference.predictor import Detector, Prediction, load, predict_folder

__all__ = ["Detector", "Prediction", "__version__", "load", "predict_folder"]


def __getattr__(name: str) -> Any:
    """The Python contract, imported on first use: TensorFlow takes seconds to import."""
    if name in {"Detector", "Prediction", "load", "predict_folder"}:
        from segdiff.inference import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'segdiff' has no attribute {name!r}")
