"""Plan a study: what a true difference takes in seeds, test images, runs, hours, disk and energy.

The variances are those of a pilot: another study's finished runs, or the study's own; without any, what the size of the
test set gives (`power.guessed`). Ranges are of 80 %: the variances' (`power`), and for hours also the run times'.
Nothing here starts a run or writes a file.
"""

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from referee.plan import Plan
from referee.statistics.power import growing, guessed, measured

from vitlab.evaluation.cost import Cost
from vitlab.evaluation.predictions import correct
from vitlab.runs.directory import RunDirectory
from vitlab.studies.file.metric import Metric
from vitlab.studies.file.runs import Run, images_of, plan
from vitlab.studies.file.state import conflicting
from vitlab.studies.file.study import LEAST_SEEDS, LOOK_FROM, RESERVED_SLUGS, Study, read_study, slug
from vitlab.studies.training.local import allot

ACCURACY = 0.9  # assumed where no run has measured it


class PastRun(NamedTuple):
    """A finished run of a study's folder."""

    folder: Path  # of its variant
    outcome: np.ndarray  # (N,) bool; or (1,), its score, higher being better
    seconds: float
    images: int  # seen in training
    size: int  # of the run directory, in bytes


class RunCost(NamedTuple):
    """What a run of one variant takes."""

    seconds: np.ndarray  # of past runs, (S,)
    size: float  # bytes
    joules: float | None  # of its training steps; None if never measured


@dataclass(frozen=True, kw_only=True)
class Planned(Plan):
    """A study, what is known of its variances, and what its runs take."""

    study: Study
    finished: int  # runs of the study
    seen: int  # seeds of the variant that has fewest
    costs: list[RunCost]  # by variant; empty if no run has measured them

    @property
    def watched(self) -> "Planned":
        """The same study, looked at again and again, so that it may stop early."""
        if self.looks:
            return self
        level = growing((self.first_look,), True, self.study.test, self.study.margin is not None)
        return replace(self, pilot=self.pilot._replace(level=level))

    def disk(self, seeds: int) -> float:
        """Return the bytes of all run directories."""
        return self.runs(seeds) * sum(cost.size for cost in self.costs)

    def kwh(self, seeds: int) -> float | None:
        """Return the energy of all training steps; None unless measured for every variant."""
        joules = [cost.joules for cost in self.costs if cost.joules is not None]
        return self.runs(seeds) * sum(joules) / 3.6e6 if joules and len(joules) == len(self.costs) else None

    @property
    def first_look(self) -> int:
        """The seeds at which a study that may stop early is first looked at; one with results has been looked at."""
        if self.looks:
            return self.looks[0]
        return max(LEAST_SEEDS, self.seen) if self.seen > 1 else LOOK_FROM

    def affordable(self, hours: float) -> int:
        """Return the seeds of each variant that can be trained within some hours."""
        once = self.hours(0).point  # tuning
        return math.floor((hours - once) / (self.hours(1).point - once) + 1e-9)


def plan_study(
    path: Path,
    root: Path = Path("runs"),
    pilot: Path | None = None,
    accuracy: float | None = None,
) -> Planned:
    """Read what is known about a study before its runs.

    Args:
        path: The study's YAML.
        root: Folder of all runs.
        pilot: Folder of another study, or its YAML; None: the study's own runs, or without any a guess.
        accuracy: Assumed for the guess, as a fraction; None: that of finished runs, else ACCURACY.

    Raises:
        ValueError, FileNotFoundError: a user's mistake, with value, place and remedy.
    """
    study = read_study(path)
    if study.along:
        raise ValueError(
            f"{path}: `plan` takes a study without axes, because each place needs a different number of seeds. Remove "
            "`along` to plan one place; `compare` prints the time and disk space of all places before the first run."
        )
    runs = plan(study, root)
    drafts, metric = runs[: len(study.variants)], runs[0].metric
    images = images_of(runs[0])
    test_images, K = len(images.labels("test")), len(study.variants)
    stale = {run.directory for run in conflicting(runs)} if study.determined else set()
    past = read_past(root / slug(study.name), metric, [slug(variant) for variant in study.variants], stale)
    others = [] if pilot is None else _others(pilot, root, metric)

    known = measured(_by_variant(others or past), K, test_images if metric.is_accuracy else None)
    if known is not None:
        source = f"{len(others or past)} finished runs in {(others or past)[0].folder.parent}"
    elif pilot is not None:
        raise ValueError(f"--pilot {pilot}: estimating a variance needs at least two seeds of two variants.")
    elif not metric.is_accuracy:
        raise ValueError(
            f"{path}: how {metric.name} varies over seeds is not known before two seeds of a variant are finished.\n"
            "Train two seeds, or name another study with --pilot."
        )
    else:
        if accuracy is None:
            accuracy = float(np.mean([run.outcome.mean() for run in past])) if past else ACCURACY
        accuracy = float(np.clip(accuracy, 1 / test_images, 1 - 1 / test_images))
        known, source = guessed(K, test_images, accuracy), f"a guess for {100 * accuracy:.3g} % accuracy"
    costs = _costs(drafts, study, past, others)
    seen = min(sum(run.folder == draft.folder for run in past) for draft in drafts)
    looks = study.looks or ((seen,) if seen > 1 else ())
    if looks:
        known = known._replace(level=growing(looks, bool(study.looks), study.test, study.margin is not None))
    once = study.tuning.runs(0) if study.tuning else 0
    per_seed = 1 + (study.tuning.runs(1) - once if study.tuning else 0)
    return Planned(
        metric=metric,
        pilot=known,
        source=source,
        unit="image",
        looks=study.looks,
        seconds=[cost.seconds for cost in costs] or None,
        per_seed=per_seed,
        once=once,
        jobs=allot(runs, study.jobs).jobs,
        study=study,
        finished=len(past),
        seen=seen,
        costs=costs,
    )


def read_past(
    folder: Path, metric: Metric, variants: Sequence[str] | None = None, without: set[Path] | None = None
) -> list[PastRun]:
    """Return the complete runs below a study's folder that were tested on the same images as most.

    Args:
        variants: Folders to read; None: all.
        without: Run directories to leave out.
    """
    read = []
    for directory in sorted(folder.glob("*/seed-*")):
        name = directory.parent.name
        wanted = name not in RESERVED_SLUGS if variants is None else name in variants
        if wanted and directory not in (without or ()) and not RunDirectory(directory).shortfalls:
            with suppress(OSError, ValueError, KeyError):  # without a test, by another metric, not finite, damaged
                read.append(_read(directory, metric))
    usual = Counter(tested for _, tested in read).most_common(1)
    return [run for run, tested in read if tested == usual[0][0]]


def _read(directory: Path, metric: Metric) -> tuple[PastRun, object]:
    """Return a run, and what it was tested on."""
    run_directory = RunDirectory(directory)
    summary = run_directory.summary
    tested: object = None
    if metric.is_accuracy:
        predictions = run_directory.predictions
        values, outcome = predictions.logits, correct(predictions.logits, predictions.labels)
        tested = tuple(predictions.images), predictions.labels.tobytes()
    else:
        values = outcome = np.array([metric.sign * summary["metrics"][metric.test]])
    if not np.isfinite(values).all():
        raise ValueError(f"{directory}: its results are not finite numbers.")
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    seconds = float(summary["seconds"]) + float(summary.get("seconds_before", 0.0))
    run = PastRun(directory.parent, outcome, seconds, int(summary["images_seen"]), size)
    return run, tested


def _others(pilot: Path, root: Path, metric: Metric) -> list[PastRun]:
    if not pilot.exists():
        raise FileNotFoundError(f"--pilot {pilot} does not exist. Name a finished study's folder or its YAML file.")
    folder = pilot if pilot.is_dir() else root / slug(read_study(pilot).name)
    if not (folder / "verdict.json").is_file() and any(folder.glob("*/verdict.json")):
        raise ValueError(f"--pilot {pilot}: this study has axes, whose places are studies of their own. Name another.")
    runs = read_past(folder, metric)
    if not runs:
        raise ValueError(
            f"--pilot {pilot}: no finished run with a test {metric.label} is in {folder}.\n"
            "Name the folder of a finished study, like runs/quickstart, or its YAML file."
        )
    return runs


def _by_variant(runs: Sequence[PastRun]) -> list[np.ndarray]:
    """Return the outcomes of each variant, (S, N)."""
    folders = dict.fromkeys(run.folder for run in runs)
    return [np.stack([run.outcome for run in runs if run.folder == folder]) for folder in folders]


def _costs(drafts: Sequence[Run], study: Study, runs: Sequence[PastRun], others: Sequence[PastRun]) -> list[RunCost]:
    """Return what a run of each variant takes, from its own runs, else from others' by the images they saw.

    Nothing, if that is not known of every variant.
    """
    costs = []
    for draft in drafts:
        past = [run for run in runs if run.folder == draft.folder]
        if past:
            images, seconds = past[0].images, [run.seconds for run in past]
        else:
            past = [run for run in others if run.folder.name == draft.folder.name] or [*others]
            if not past or (study.budget is not None and study.budget.kind == "flops"):
                return []  # `compare` has not counted yet how many epochs this is
            images = draft.epochs * len(images_of(draft).labels("train"))
            seconds = [run.seconds * images / run.images for run in past]
        joules = _joules_per_image(draft.folder) or _joules_per_image(past[0].folder)
        size = float(np.mean([run.size for run in past]))
        costs.append(RunCost(np.array(seconds), size, joules * images if joules else None))
    return costs


def _joules_per_image(folder: Path) -> float | None:
    with suppress(FileNotFoundError, ValueError):  # never measured, or by an older version
        return Cost.read(folder / "cost.json").train_joules_per_image
    return None
