"""The setting that a study tunes before its runs, stored in its folder."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitlab.atomic_files import read_json, write_text
from vitlab.config import Config, nest
from vitlab.runs.directory import METRICS, RunDirectory
from vitlab.studies.baselines import Images
from vitlab.studies.execution.local import Train
from vitlab.studies.execution.progress import read_progress
from vitlab.studies.grid import Run, plan_tuning
from vitlab.studies.metric import TOP1, Metric
from vitlab.studies.statistics.near_ties import choose, error_of_difference
from vitlab.studies.study import Study


class Trial(NamedTuple):
    """One value of the tuned setting, for one variant."""

    value: Any
    score: float | None  # the metric on the validation images, mean over the tuning seeds; None if a run failed


class Choice(NamedTuple):
    """The result of tuning a variant, or within seeds of a variant with one seed."""

    variant: str
    trials: list[Trial]
    metric: Metric = TOP1
    taken: int | None = None  # index of the value that the variant is trained with; None: the best, as of old
    error: float = 0.0  # standard error of the difference of two values
    seeds: Sequence[int] = ()  # of the tuning runs
    seed: int | None = None  # of the study, whose run has this value; None: all of them

    @property
    def best(self) -> Trial:
        """The trial with the best score, the first one of equal ones."""
        finished = [trial for trial in self.trials if trial.score is not None]
        return max(finished or self.trials, key=lambda trial: self.metric.sign * (trial.score or 0.0))

    @property
    def chosen(self) -> Trial:
        """The trial whose value the variant is trained with."""
        return self.best if self.taken is None else self.trials[self.taken]

    @property
    def ties(self) -> list[Trial]:
        """The trials within a standard error of the best one, itself included."""
        best = self.best.score
        if best is None:
            return [self.best]
        return [t for t in self.trials if t.score is not None and abs(best - t.score) <= self.error]

    @property
    def at_the_edge(self) -> bool:
        """Whether an outermost value is the single best one, so that a better one may lie beyond it."""
        alone = [trial.score for trial in self.trials].count(self.best.score) == 1
        return alone and self.best in (self.trials[0], self.trials[-1])


def refuse_unfit_images(study: Study, metric: Metric, images: Images) -> None:
    """Raise ValueError for labels without the metric, or for tuning or a search on test images."""
    labels = images.labels("test")
    if metric.one_class and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
        raise ValueError(
            f"{study.path}: the labels are {labels.dtype} of shape {labels.shape}; the objective's task ranks by "
            f"{'top-1 accuracy' if metric.is_accuracy else metric.name}, which needs one class per image."
        )
    chooses = "tune" if study.tuning else "search" if study.search else None
    if chooses and set(images.image_names("val")) & set(images.image_names("test")):
        raise ValueError(
            f"{study.path}: {chooses}: the validation images of this data set are also its test images.\n"
            "Tuning on them would bias the result. Hold out other images, e.g. with data.init_args.test_fraction."
        )


def tune(
    study: Study,
    root: Path,
    decided: Mapping[str, Config],
    train: Train,
    images: Images,
    cells: Collection[tuple[str, int]] | None = None,
) -> tuple[list[Choice], dict[tuple[str, int], Config]]:
    """Train with every value; return the choices, and by variant and seed of the study the override of its value.

    Args:
        decided: By variant, overrides from the budget.
        cells: Within seeds, the variants and seeds whose tuning runs are trained; None: all. Whatever was trained
            before is chosen from too.

    Raises:
        ValueError: no tuning run of a variant finished.
    """
    tuning = study.tuning
    if tuning is None:
        return [], {}
    trials = plan_tuning(study, root, decided)
    asked = trials if cells is None or not tuning.within_seeds else {cell: trials[cell] for cell in cells}
    folder = study.folder(root) / "tuning"
    choices = _earlier_choices(study, trials, folder / "choices.json")
    if choices is None:
        if asked:
            train([run for runs in asked.values() for run in runs])
        groups = [[seed] for seed in tuning.seeds] if tuning.within_seeds else [tuning.seeds]
        size = len(images.labels("val"))
        choices = [choice for seeds in groups for choice in _choices(study, trials, seeds, size)]
        _write(folder / "choices.json", _record(study, choices))
    overrides = {
        (choice.variant, seed): nest(tuning.key, choice.chosen.value)
        for choice in choices
        for seed in (study.seeds if choice.seed is None else [choice.seed])
    }
    for variant, seed in asked:
        if (variant, seed if tuning.within_seeds else study.seeds[0]) not in overrides:
            of = f" with seed {seed}" if tuning.within_seeds else ""
            raise ValueError(f"{study.path}: tune: no tuning run of {variant} finished{of}; see its logs.")
    return choices, overrides


def tuned_later(study: Study) -> bool:
    """Whether each look tunes the seeds that it adds, so that no seed is tuned in vain."""
    return study.tuning is not None and study.tuning.within_seeds and bool(study.looks)


def _choices(
    study: Study, trials: Mapping[tuple[str, int], list[Run]], seeds: Sequence[int], images: int
) -> list[Choice]:
    """Choose from the runs of some tuning seeds, for the variants of which one is finished."""
    assert study.tuning is not None
    metric = next(iter(trials.values()))[0].metric
    scores = np.array(
        [[[_validation_score(run) for run in trials[v, seed]] for seed in seeds] for v in study.variants], dtype=float
    ).swapaxes(1, 2)  # (K, M, T)
    means = scores.mean(axis=2)  # nan where a run failed
    known = np.isfinite(means).any(axis=1)
    if not known.any():
        return []
    error = error_of_difference(scores[known], images if metric.is_accuracy else None)
    taken = dict(zip(np.flatnonzero(known).tolist(), choose(metric.sign * means[known], error), strict=True))
    return [
        Choice(
            variant,
            [Trial(value, _or_none(mean)) for value, mean in zip(study.tuning.values, means[index], strict=True)],
            metric,
            taken[index],
            error,
            seeds,
            seeds[0] if study.tuning.within_seeds else None,
        )
        for index, variant in enumerate(study.variants)
        if index in taken
    ]


def _or_none(mean: float) -> float | None:
    return float(mean) if np.isfinite(mean) else None


def _record(study: Study, choices: Sequence[Choice]) -> Config:
    assert study.tuning is not None
    return {
        "key": study.tuning.key,
        "choices": [
            {
                "variant": choice.variant,
                **({"seed": choice.seed} if choice.seed is not None else {}),
                "tuning_seeds": list(choice.seeds),
                "trials": [list(trial) for trial in choice.trials],
                "standard_error": choice.error,
                "near_ties": [trial.value for trial in choice.ties],
                "best": choice.best.value,
                "chosen": choice.chosen.value,
            }
            for choice in choices
        ],
    }


def _earlier_choices(study: Study, trials: Mapping[tuple[str, int], list[Run]], record: Path) -> list[Choice] | None:
    """Return what an earlier version chose for this study: each variant's own best, mostly of one tuning seed.

    None: a version that treats near-ties as ties chose, or nothing was chosen yet, or other values or seeds were tried.
    """
    tuning = study.tuning
    assert tuning is not None
    stored = read_json(record, missing={})
    if "choices" in stored or set(stored) != set(study.variants) or tuning.within_seeds:
        return None
    tried = [[Trial(*trial) for trial in stored[variant]["trials"]] for variant in study.variants]
    if any([trial.value for trial in each] != tuning.values for each in tried):
        return None
    metric = next(iter(trials.values()))[0].metric
    folders = [run.folder for seed in tuning.seeds[:1] for v in study.variants for run in trials[v, seed]]
    finished = {int(path.parent.name[5:]) for folder in folders for path in folder.glob("seed-*/summary.json")}
    if tuning.seeds_given and not finished.issuperset(tuning.seeds):
        return None
    seeds = tuning.seeds if tuning.seeds_given else sorted(finished)
    return [Choice(v, each, metric, seeds=seeds) for v, each in zip(study.variants, tried, strict=True)]


def _validation_score(run: Run) -> float | None:
    return None if RunDirectory(run.directory).shortfalls else read_progress(run.directory / METRICS, run.metric).score


def _write(path: Path, content: Config) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
