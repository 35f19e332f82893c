"""Whether a test repeats the one that a finished run ended with, and so may write over its results.

Studies and reports read these. What another test finds is kept beside them, in `OTHER`.
"""

from pathlib import Path

from vitlab.config import Config, conflicts
from vitlab.data import ImageDataModule
from vitlab.experiment.same_images import other_images
from vitlab.runs.directory import RunDirectory

OTHER = "other_test"


def departures(directory: Path, weights: Path | None, config: Config, data: ImageDataModule) -> list[str]:
    """Return, in words, in which weights, settings and images a test differs from that of a finished run."""
    run, reasons = RunDirectory(directory), []
    if weights is None or weights.resolve() != run.last_checkpoint.resolve():
        reasons.append(f"weights: {weights.name if weights else 'the initial ones'}")
    others = other_images(directory, data, ("test",))
    for key, old, new in conflicts(run.config, config):
        if key != "data.init_args.root" or others is None:  # else the images tell
            reasons.append(f"{key}: {old} there, {new} now")
    return reasons + (others or [])
