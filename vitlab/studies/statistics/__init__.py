"""Significance of differences between variants. Pure functions on arrays."""
