"""The tuning runs of a study, and the settings that each variant takes from them.

Near-ties are ties, and variants take as few different values as ties allow: the best of M noisy scores is partly luck,
which would pass for a difference of the variants. Scores of M values × T tuning seeds for each of K variants have

    s²    = mean over variants and values of the variance over tuning seeds (T − 1 degrees of freedom each)
    error = √(2 s²/T)      the standard error of the difference of two values of a variant

Values within one error of a variant's best tie with it. The value that ties for the most variants, and of those the
best in sum, is taken by all of them; the remaining variants repeat this. A variant whose best value ties with no other
variant's takes its own best.

With one tuning seed the variance of an accuracy p on n validation images takes the place of s²: p (1 − p)/n.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from vitlab.config import Config, merge, nest
from vitlab.runs.directory import METRICS, RunDirectory
from vitlab.studies.file.fairness import Images
from vitlab.studies.file.metric import Metric
from vitlab.studies.file.runs import Run, complete, with_seed
from vitlab.studies.file.study import Choice, Study, Trial, slug
from vitlab.studies.training.run_all import Train, read_progress


def error_of_difference(scores: np.ndarray, images: int | None = None) -> float:
    """Return the standard error of the difference of two values, from scores (K, M, T), nan where a run failed.

    `images` is the number of validation images if the scores are accuracies; without, one seed does not show the noise.
    """
    complete = scores[np.isfinite(scores).all(axis=2)]  # (C, T)
    if not len(complete):
        return 0.0
    seeds = scores.shape[2]
    if seeds > 1:
        return math.sqrt(2 * float(complete.var(axis=1, ddof=1).mean()) / seeds)
    return math.sqrt(2 * float((complete * (1 - complete)).mean()) / images) if images else 0.0


def choose(means: np.ndarray, error: float) -> list[int]:
    """Return the index of the value that each variant takes, from means (K, M), higher being better.

    Values that are worse than the best by no more than `error` tie with it. Where a run failed, the mean is nan.
    """
    best = np.nanmax(means, axis=1, keepdims=True)
    ties = means >= best - error - 1e-12 * np.abs(best)  # (K, M); False for nan
    chosen = np.full(len(means), -1)
    while (waiting := chosen < 0).any():
        counts = ties[waiting].sum(axis=0)
        sums = np.where(ties[waiting], means[waiting], 0).sum(axis=0)
        value = int(np.argmax(np.where(counts == counts.max(), sums, -np.inf)))
        chosen[waiting & ties[:, value]] = value
    return chosen.tolist()


Cell = tuple[str, int | None]  # a variant, and the seed of the study that takes the chosen settings; None: all


def refuse_unfit_images(study: Study, metric: Metric, images: Images) -> None:
    labels = images.labels("test")
    if metric.one_class and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
        raise ValueError(f"{study.path}: labels {labels.dtype} {labels.shape} are not one class per image.")
    if study.tuning and set(images.image_names("val")) & set(images.image_names("test")):
        raise ValueError(f"{study.path}: tune: the validation images are also the test images. Set data.test_fraction.")


def plan_tuning(study: Study, root: Path, decided: Mapping[str, Config]) -> dict[Cell, list[list[Run]]]:
    """Return the tuning runs for each choice, by candidate and seed. They use no test images."""
    tuning, completed, runs = study.tuning, dict[tuple[str, str], Run](), dict[Cell, list[list[Run]]]()
    if tuning is None:
        return {}
    for seed, variant in product(study.seeds if tuning.within_seeds else [None], study.variants):
        runs[variant, seed] = []
        for name, tried in tuning.candidates.items():
            if (known := (variant, name)) not in completed:  # the seeds of a study try the same settings
                folder = study.folder(root) / "tuning" / slug(variant) / slug(name)
                run = complete(study, variant, root, merge(decided.get(variant, {}), nested(tried)))
                config = merge(run.config, {"run": {"root": str(folder.parent), "name": folder.name, "test": False}})
                title = f"{variant} with {folder.name}"
                completed[known] = replace(run, variant=title, config=config, folder=folder)
            seeds = tuning.seeds or [] if seed is None else [seed]
            runs[variant, seed].append([with_seed(study, completed[known], each) for each in seeds])
    return runs


def nested(settings: Mapping[str, Any]) -> Config:
    return reduce(merge, (nest(key, value) for key, value in settings.items()), {})


def tune(
    study: Study, root: Path, decided: Mapping[str, Config], train: Train, images: Images
) -> tuple[list[Choice], dict[tuple[str, int], Config]]:
    """Train all trials; return the choices, and by variant and seed of the study the override of its settings."""
    tuning = study.tuning
    if tuning is None:
        return [], {}
    runs = plan_tuning(study, root, decided)
    train([run for cell in runs.values() for candidate in cell for run in candidate])
    size, choices = len(images.labels("val")), list[Choice]()
    for seed in study.seeds if tuning.within_seeds else [None]:
        tried, candidates = [runs[variant, seed] for variant in study.variants], tuning.candidates.values()
        metric, seeds = tried[0][0][0].metric, [run.seed for run in tried[0][0]]
        scores = np.array([[list(map(_score, each)) for each in own] for own in tried], dtype=float)  # (K, M, T)
        means = scores.mean(axis=2)  # nan where a run failed
        known = np.flatnonzero(np.isfinite(means).any(axis=1)).tolist()
        if not known:
            continue
        error = error_of_difference(scores[known], size if metric.is_accuracy else None)
        for index, best in zip(known, choose(metric.sign * means[known], error), strict=True):
            own = [float(mean) if math.isfinite(mean) else None for mean in means[index]]
            trials = [Trial(settings, mean) for settings, mean in zip(candidates, own, strict=True)]
            choices.append(Choice(list(study.variants)[index], trials, metric, best, error, seeds, seed))
    chosen = {(choice.variant, choice.seed): nested(choice.chosen.settings) for choice in choices}
    for variant, seed in runs:
        if (variant, seed) not in chosen:
            of, scored = "" if seed is None else f" with seed {seed}", next(iter(runs.values()))[0][0].metric.validation
            raise ValueError(f"{study.path}: tune: no run of {variant} finished{of} with a {scored}; see its logs.")
    return choices, {
        (variant, of_study): override
        for (variant, seed), override in chosen.items()
        for of_study in (study.seeds if seed is None else [seed])
    }


def _score(run: Run) -> float | None:
    """Return the validation score of a finished run as the study compares it; None without one, or its logarithm."""
    if RunDirectory(run.directory).shortfalls:
        return None
    score = read_progress(run.directory / METRICS, run.metric).score
    if run.metric.is_log and score is not None:
        score = math.log(score) if score > 0 else None
    return score if score is not None and math.isfinite(score) else None
