"""Judge trained models by what they say about each image, and by the neighbors their features have."""
