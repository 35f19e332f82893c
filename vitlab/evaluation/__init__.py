"""Per-image predictions, k-NN, linear and low-shot probes of frozen features, and the cost of models."""
