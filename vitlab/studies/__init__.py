"""Compare variants of an experiment: a grid of runs, what they cost, statistics, a report."""
