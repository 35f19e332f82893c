"""The trials of a study's search: trained before the comparison, and the best of each variant by validation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vitlab.config import Config, merge, nest
from vitlab.runs.directory import METRICS, RunDirectory
from vitlab.studies.execution.local import Train, conflicting
from vitlab.studies.execution.progress import read_progress
from vitlab.studies.grid import Run, complete
from vitlab.studies.metric import TOP1, Metric
from vitlab.studies.search_space import Search
from vitlab.studies.study import Study

FOLDER = "search"  # in the study's folder


class Searched(NamedTuple):
    """The trials of a variant."""

    variant: str
    settings: list[dict[str, Any]]  # by trial and key
    validation: list[float | None]  # scores, of a pruned trial where it ended; None: the run failed
    test: list[float | None]  # None: failed or pruned
    metric: Metric = TOP1

    @property
    def chosen(self) -> int:
        """The finished trial with the best validation score, the first one of equal ones."""
        known = zip(self.validation, self.test, strict=True)
        scores = [-np.inf if score is None or test is None else self.metric.sign * score for score, test in known]
        return int(np.argmax(scores))

    @property
    def override(self) -> Config:
        """The settings of the chosen trial."""
        return _override(self.settings[self.chosen])


def search(study: Study, root: Path, decided: Mapping[str, Config], train: Train) -> list[Searched]:
    """Train the trials that are missing, and return those of every variant.

    Args:
        decided: By variant, overrides from the budget.

    Raises:
        ValueError: no trial of a variant finished.
    """
    assert study.search is not None
    drafts = {variant: _draft(study, root, variant, decided.get(variant, {})) for variant in study.variants}
    done: dict[str, list[Run]] = {variant: [] for variant in drafts}
    while True:
        drawn = {variant: study.search.settings(_signed(runs)) for variant, runs in done.items()}
        missing = [
            (variant, _trial(study, drafts[variant], number, settings))
            for number in range(study.search.trials)
            for variant, each in drawn.items()
            for settings in each[number : number + 1]
            if number >= len(done[variant])
        ]
        if not missing:
            break
        if study.search.after is None:
            train([run for _, run in missing])
        else:
            _train_the_best(study.search, missing, train)
        for variant, run in missing:
            done[variant].append(run)
    found = []
    for variant, runs in done.items():
        kept = _kept(study.search, runs)
        validation = [_validation(run) if run in kept else _early(study.search, run) for run in runs]
        found.append(Searched(variant, drawn[variant], validation, list(map(_test, runs)), runs[0].metric))
    for each in found:
        if not any(None not in scores for scores in zip(each.validation, each.test, strict=True)):
            raise ValueError(
                f"{study.path}: search: no trial of {each.variant} finished with {each.metric.validation} and "
                f"{each.metric.test}; see its logs."
            )
    return found


def _train_the_best(search: Search, trials: Sequence[tuple[str, Run]], train: Train) -> None:
    """Train all trials for some epochs, and the best of each variant, as many of one as of another, to their end."""
    paused = {"run": {"checkpoint": {"pause_after": search.after}}}
    begun = [replace(run, config=merge(run.config, paused)) for _, run in trials]
    others = conflicting(begun)  # with other settings than now: refused, or retrained
    if beginning := [run for run in begun if run in others or _early(search, run) is None]:
        train(beginning)
    variants = dict.fromkeys(variant for variant, _ in trials)
    best = [run for variant in variants for run in _kept(search, [run for of, run in trials if of == variant])]
    if best:
        train(best)


def _kept(search: Search, runs: Sequence[Run]) -> list[Run]:
    """Return those of a variant's trials that are trained to their end: the best after some epochs, or all."""
    if search.after is None:
        return list(runs)
    known = [(score, run) for run in runs if (score := _early(search, run)) is not None]
    known.sort(key=lambda pair: -pair[1].metric.sign * pair[0])
    return [run for _, run in known[: search.keep]]


def _early(search: Search, run: Run) -> float | None:
    """Return the validation score after the epochs by which trials are pruned, or of a trial that ended before them."""
    assert search.after is not None
    file = run.directory / METRICS
    if not file.is_file():
        return None
    table = pd.read_csv(file)
    if run.metric.validation not in table:
        return None
    scores = table.loc[table["epoch"] == search.after - 1, run.metric.validation].dropna()
    return _finite(scores.iloc[-1]) if len(scores) else _validation(run)


def _draft(study: Study, root: Path, variant: str, decided: Config) -> Run:
    """Return a run of a variant, complete and checked, in the folder of its trials."""
    assert study.search is not None
    (first, *_) = study.search.settings([])
    return replace(
        complete(study, variant, root, merge(decided, _override(first))),
        folder=study.folder(root) / FOLDER / study.folder(root, variant).name,
    )


def _trial(study: Study, draft: Run, number: int, settings: Mapping[str, Any]) -> Run:
    assert study.search is not None
    folder, seed = draft.folder / f"trial-{number + 1:02d}", study.search.seeds[number]
    own: Config = {"seed_everything": seed, "run": {"root": str(draft.folder), "name": folder.name}}
    config = merge(draft.config, merge(_override(settings), own))
    return replace(draft, variant=f"{draft.variant}, trial {number + 1}", seed=seed, config=config, folder=folder)


def _override(settings: Mapping[str, Any]) -> Config:
    return reduce(merge, (nest(key, value) for key, value in settings.items()), {})


def _signed(runs: Sequence[Run]) -> list[float | None]:
    scores = [(run.metric.sign, _validation(run)) for run in runs]
    return [None if score is None else sign * score for sign, score in scores]


def _validation(run: Run) -> float | None:
    if RunDirectory(run.directory).shortfalls:
        return None
    return _finite(read_progress(run.directory / METRICS, run.metric).score)


def _test(run: Run) -> float | None:
    if RunDirectory(run.directory).shortfalls:
        return None
    metrics = RunDirectory(run.directory).metrics
    return _finite(metrics.get(run.metric.test))


def _finite(score: float | None) -> float | None:
    return None if score is None or not math.isfinite(score) else float(score)
