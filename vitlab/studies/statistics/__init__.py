"""How sure a difference between variants is. Pure functions on arrays."""
