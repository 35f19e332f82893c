"""Per-image predictions, k-NN, linear and low-shot probes of frozen features, and the cost of models."""

from vitlab import exported

_PLACES = {
    "features": ["extract"],
    "predictions": ["correct", "probabilities", "read_predictions"],
    "probe": ["SPLITS", "probe_features"],
}
__all__, __getattr__ = exported("vitlab.evaluation", _PLACES)
