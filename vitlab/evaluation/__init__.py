"""Judge trained models by what they say about each image, and by the neighbours their features have."""
