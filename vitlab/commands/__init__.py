"""The commands of `python -m vitlab`, one file each."""
