"""The runs of a study come into being. Nothing here reads a result."""
