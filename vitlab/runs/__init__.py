"""What is kept of a run: records, checkpoints, metrics, pictures; and how it is read, and continued to the bit."""

from vitlab.runs.directory import RunDirectory as RunDirectory
