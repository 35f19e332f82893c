"""What is kept of a run: records, checkpoints, metrics; and how it is read, and continued to the bit."""

from vitlab import exported

__all__, __getattr__ = exported("vitlab.runs", {"directory": ["RunDirectory"]})
