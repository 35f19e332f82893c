"""Short runs of a study's own training, from which the length of its runs in minutes is calculated.

A rehearsal loads, trains, validates and writes checkpoints as the study's runs do, as many at a time as these, in the
same order. Two epochs show how many are a minute or a quarter of the budget, whichever is less; if these are more, they
are trained too, and averaged. The folder is removed once the lengths are recorded.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from vitlab.config import merge, nest
from vitlab.runs.directory import RunDirectory
from vitlab.studies.budget import Pace
from vitlab.studies.execution.local import Train
from vitlab.studies.grid import Run
from vitlab.studies.study import VALIDATION, slug

LEAST = 2  # epochs; the first is slower
ENOUGH = 60.0  # seconds to average over
SHARE = 0.25  # of the budget, if that is less
FOLDER = "rehearsal"  # in the study's


def rehearse(
    drafts: Sequence[Run], seconds: float, images: Mapping[str, int], jobs: int, folder: Path, train: Train
) -> dict[str, Pace]:
    """Train rehearsals, and return the pace of each variant in seconds.

    Args:
        drafts: One run of each variant.
        seconds: The budget.
        images: Of an epoch, by variant.
        jobs: Parallel runs of the study.
        folder: The study's.
        train: Trains runs, or continues them.

    Raises:
        ValueError: a rehearsal failed.
    """
    paces = _train(drafts, dict.fromkeys(images, LEAST), jobs, folder / FOLDER / "first", train)
    epochs = {
        variant: round(min(ENOUGH, SHARE * seconds) / (pace.epoch + pace.image * images[variant]))
        for variant, pace in paces.items()
    }
    if max(epochs.values()) <= LEAST:
        return paces
    return _train(drafts, epochs, jobs, folder / FOLDER / "second", train)


def _train(drafts: Sequence[Run], epochs: Mapping[str, int], jobs: int, folder: Path, train: Train) -> dict[str, Pace]:
    copies = jobs // math.gcd(jobs, len(drafts))  # so that `jobs` runs train until the last one ends
    runs = [_short(run, seed, epochs[run.variant], folder) for seed in range(copies) for run in drafts]
    for run, failure in train(runs):
        if failure is not None:
            raise ValueError(f"the rehearsal of {run.variant} failed ({failure}); see {run.log_path}.")
    return {
        draft.variant: _mean([pace_of(run.directory) for run in runs if run.variant == draft.variant])
        for draft in drafts
    }


def _short(run: Run, seed: int, epochs: int, folder: Path) -> Run:
    """Return a rehearsal of a run: fewer epochs, with validation in its share of them, and no test."""
    every = run.config["trainer"].get(VALIDATION) or 1
    own = {"root": str(folder), "name": slug(run.variant), "test": False, "wandb": {"mode": "disabled"}}
    changes = merge(nest("trainer.max_epochs", every * math.ceil(max(LEAST, epochs) / every)), {"run": own})
    config = merge(run.config, changes) | {"seed_everything": seed}
    return Run(run.variant, seed, config, folder / slug(run.variant), run.metric)


def pace_of(directory: Path) -> Pace:
    """Return the pace of a finished run of two epochs or more, in seconds.

    Its `metrics.csv` has the images per second of each epoch without validation and checkpoints; these are the rest of
    its time.
    """
    run = RunDirectory(directory)
    summary, speeds = run.summary, run.history.groupby("epoch")["images_per_second"].mean()
    images = summary["images_seen"] / len(speeds)  # of an epoch
    seconds = images / speeds
    usual = float(seconds.iloc[1:].mean())
    aside = (summary["seconds"] - float(seconds.sum())) / len(seconds)
    return Pace(usual / images, max(0.0, aside), max(0.0, float(seconds.iloc[0]) - usual))


def _mean(paces: Sequence[Pace]) -> Pace:
    return Pace(*map(fmean, zip(*paces, strict=True)))
