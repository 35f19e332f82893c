"""Which differences between variants are more than chance. Pure functions on arrays."""
