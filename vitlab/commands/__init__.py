"""The commands of `python -m vitlab`."""
