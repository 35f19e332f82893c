"""What is kept of a run: records, checkpoints, metrics, pictures; and how it is continued to the bit."""
