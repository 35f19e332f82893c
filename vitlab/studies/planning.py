"""Plan a study: what a true difference takes in seeds, test images, runs, hours, disk and energy.

The variances are those of the study's finished runs; without any, what the size of the test set gives
(`power.guessed`). Ranges are of 80 %: the variances' (`power`), and for hours also the run times'.
Nothing here starts a run or writes a file.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from referee.formats import SPACE, counted, two_digits
from referee.plan import Plan, describe_need, in_range, sizes_table, variances
from referee.statistics.power import Range, growing, guessed, measured
from referee.verdict import Variant

from vitlab.config import Config
from vitlab.runs.directory import RunDirectory
from vitlab.studies.compare import begun_study
from vitlab.studies.file.format import engineering
from vitlab.studies.file.registration import Outcome, conflicting, is_finished
from vitlab.studies.file.runs import images_of, never_reached, plan
from vitlab.studies.file.study import LEAST_SEEDS, LOOK_FROM, Study
from vitlab.studies.report.verdict import few_images
from vitlab.studies.results import StudyResults, read_results
from vitlab.studies.training.executors import allot

ACCURACY = 0.9  # assumed where no run has measured it
CONTEXT = 6e8  # bytes that each process of a GPU takes besides its tensors


@dataclass(frozen=True, kw_only=True)
class Planned(Plan):
    """A study, what is known of its variances, and what its runs take."""

    study: Study
    finished: int  # runs of the study
    seen: int  # seeds of the variant that has fewest
    bytes: list[float]  # of a run directory, by variant; empty unless each has a finished run
    joules: list[float]  # of a run's training, by variant; nan where it was not measured
    memory: float  # bytes, of the largest training
    schedules: list[str]  # what runs are too short for

    def kwh(self, seeds: int) -> float:
        """Return the energy of all trainings; nan unless measured for every variant."""
        return self.runs(seeds) * sum(self.joules) / 3.6e6


def plan_study(path: Path, root: Path = Path("runs"), data: Config | None = None) -> Planned:
    """Read what is known about a study before its runs; `root` is the folder of all runs, `data` as in `compare`."""
    study = begun_study(path, root, data)
    if study.along:
        raise ValueError(f"{path}: `plan` takes a study without an axis. Remove `along` to plan one place.")
    runs = plan(study, root)
    stale = [] if study.tuning or study.converts_budget else conflicting(runs)  # what the file does not determine
    done = [Outcome(run, None) for run in runs if is_finished(run) and run not in stale]
    finished, _ = read_results(done, study.folds)
    past = {name: [result for result in finished if result.run.variant == name] for name in study.variants}
    metric, folds = runs[0].metric, study.folds or 1
    test_images = sum(len(images_of(run).labels("test")) for run in runs[:folds])
    results = StudyResults(study, [], finished, [], None, [], metric=metric)
    variants = [Variant(name, i, results.outcomes.of(name), metric) for i, name in enumerate(past) if past[name]]
    resized = test_images if results.by_image else None
    known = measured([v.outcomes for v in variants], len(past), resized, results.outcomes.dependence)
    source = f"{folds * len(finished)} finished runs in {study.folder(root)}"
    if known is None:
        if not metric.is_accuracy:
            raise ValueError(f"{path}: train two seeds of a variant, from which the variance of {metric.name} follows.")
        accuracy = float(np.mean([result.score for result in finished])) if finished else ACCURACY
        accuracy = float(np.clip(accuracy, 1 / test_images, 1 - 1 / test_images))
        known = guessed(len(study.variants), test_images, accuracy)
        source = f"a guess for {100 * accuracy:.3g} % accuracy"
    seen = min(map(len, past.values()))
    costs = [*past.values()] if seen else []
    if looks := study.looks or ((seen,) if seen > 1 else ()):
        known = known._replace(level=growing(looks, bool(study.looks), study.test, study.margin is not None))
    once, slots = study.tuning.runs(0) if study.tuning else 0, allot(runs, study.jobs)
    sharing = math.ceil(slots.jobs / max(1, len(slots.gpus)))  # a device
    return Planned(
        metric=metric,
        pilot=known,
        source=source,
        unit="image",
        looks=study.looks,
        seconds=[np.array([each.wall_seconds / folds for each in own]) for own in past.values()] if seen else None,
        per_seed=folds + (study.tuning.runs(1) - once if study.tuning else 0),
        once=once,
        jobs=slots.jobs,
        study=study,
        finished=folds * len(finished),
        seen=seen,
        bytes=[fmean(RunDirectory(each).size for run in own for each in run.directories) for own in costs],
        joules=[fmean(run.cost("train_joules") for run in own) / sharing / folds for own in costs],
        memory=max((run.cost("train_peak_bytes") for own in costs for run in own), default=math.nan),
        schedules=[] if study.converts_budget else never_reached(runs),
    )


def describe(planned: Planned, difference: float | None) -> str:
    """Return the plan to find a difference, in the metric's unit; None: with the seeds of the file."""
    if difference is None:
        seeds = len(planned.study.seeds)
        shown = {"runs": f"{planned.runs(seeds) * len(planned.study.variants):,}"}
        for name, row in _rows(planned).items():
            shown[name] = shown.get(name, "") + row(Range(seeds, seeds, seeds))
        most = "at most " if planned.looks else ""
        title = f"The study as it is written, {most}{counted(seeds, 'seed')} of each variant, takes"
        takes = "\n".join([title, *(f"  {name:<22} {text}" for name, text in shown.items())])
        advice = "Give --difference, like 1.0, for the seeds that find it."
    else:
        takes, advice, watched = describe_need(planned, difference, _rows(planned)), "", planned
        first = max(LEAST_SEEDS, planned.seen) if planned.seen > 1 else LOOK_FROM  # one with results has been looked at
        if planned.looks:
            first = planned.looks[0]
        else:  # the same study, looked at again and again, so that it may stop early
            level = growing((first,), True, planned.study.test, planned.study.margin is not None)
            watched = replace(planned, pilot=planned.pilot._replace(level=level))
        need = watched.need(difference)
        last = None if need.images else need.seeds.high
        if last is not None:  # seeds can find the difference, in a study that ends as soon as it is settled
            start = planned.study.seeds[0] if planned.study.looks else 1
            begins = "" if start == 1 else f", first: {start}"
            found = f"{{from: {first}, to: {last}{begins}}}" if last > first else str([*range(start, start + last)])
            advice = f"Write `seeds: {found}` in the study's file."
    parts = [
        f"{planned.study.name}: {variances(planned, planned.seen)}",
        takes,
        sizes_table(planned),
        *planned.schedules,
        advice,
        *(few_images(planned.study, planned.pilot.test_images) if planned.pilot.test_images > 1 else ()),
    ]
    return "\n\n".join(filter(None, parts)).replace(SPACE, " ")


def _rows(planned: Planned) -> dict[str, Callable[[Range], str]]:
    """Return the rows on runs, hours, disk and energy, from the seeds of each variant."""
    rows: dict[str, Callable[[Range], str]] = {}
    if planned.finished:
        rows["runs"] = lambda seeds: f"; {planned.finished} are finished"
    if planned.seconds is None:
        return rows | {"hours, disk, energy": lambda seeds: "known once a run has finished"}
    at_a_time = f", {counted(planned.jobs, 'run')} at a time"
    if torch.cuda.is_available() and planned.memory > 0:
        _, whole = torch.cuda.mem_get_info()
        fit = int(whole / (planned.memory + CONTEXT))
        at_a_time += f"; {fit} of {engineering(planned.memory, 'B')} fit on a GPU (`jobs`)"
    rows["hours"] = lambda seeds: in_range(seeds, lambda n, end: two_digits(planned.hours(n)[end])) + at_a_time
    rows["disk"] = lambda seeds: in_range(seeds, lambda n, end: engineering(planned.runs(n) * sum(planned.bytes), "B"))
    rows["kWh of trainings"] = lambda seeds: in_range(seeds, lambda n, end: two_digits(planned.kwh(n)))
    if math.isnan(planned.kwh(1)):
        rows["kWh of trainings"] = lambda seeds: "not measured"
    return rows
