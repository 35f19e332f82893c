"""Per-image predictions, k-NN, linear and low-shot probes of frozen features, and the cost of models."""

from typing import Any

from vitlab import exported

_PLACES = {
    "features": ["extract"],
    "predictions": ["correct", "probabilities", "read_predictions"],
    "probe": ["SPLITS", "probe_features"],
}
__all__ = [name for names in _PLACES.values() for name in names]


def __getattr__(name: str) -> Any:
    return exported("vitlab.evaluation", _PLACES, name)
