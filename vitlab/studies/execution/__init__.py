"""Start the runs of a study: here, on SLURM, or as files for other tools."""
