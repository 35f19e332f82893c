"""Compare variants of an experiment: a grid of runs, what they cost, statistics, a report."""

from vitlab import exported

_PLACES = {
    "results": ["measure_baselines"],
    "api": ["Study"],
    "report.sections": ["gallery", "interesting"],
}
__all__, __getattr__ = exported("vitlab.studies", _PLACES)
