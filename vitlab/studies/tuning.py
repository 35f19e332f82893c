"""What a study determines before its runs: the epochs that a budget allows each variant, and the tuned setting.

Both are stored in the study's folder and reused, so that restarting a study continues the same study.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from vitlab.atomic_files import write_text
from vitlab.config import Config, flatten, merge
from vitlab.evaluation.cost import Cost
from vitlab.experiment.run_directory import shortfalls
from vitlab.studies.baselines import Images
from vitlab.studies.execution.local import Outcome
from vitlab.studies.execution.progress import read_progress
from vitlab.studies.metric import TOP1, Metric
from vitlab.studies.study import WARMUP, Run, Study, nest, plan_tuning, slug

Measure = Callable[[Sequence[Run]], tuple[dict[str, Cost], dict[str, str]]]
Train = Callable[[list[Run]], list[Outcome]]


class Trial(NamedTuple):
    """One value of the tuned setting, for one variant."""

    value: Any
    score: float | None  # the metric on the validation images, mean over the tuning seeds; None if a run failed


class Choice(NamedTuple):
    """The result of tuning a variant: the value with the best score, the first one of ties."""

    variant: str
    trials: list[Trial]
    metric: Metric = TOP1

    @property
    def best(self) -> Trial:
        """The chosen trial."""
        finished = [trial for trial in self.trials if trial.score is not None]
        return max(finished or self.trials, key=lambda trial: self.metric.sign * (trial.score or 0.0))

    @property
    def at_the_edge(self) -> bool:
        """Whether an outermost value is the single best one, so that a better one may lie beyond it."""
        alone = [trial.score for trial in self.trials].count(self.best.score) == 1
        return alone and self.best in (self.trials[0], self.trials[-1])


def spend_budget(
    study: Study, drafts: Sequence[Run], images: Images, measure: Measure, folder: Path
) -> dict[str, Config]:
    """Return overrides that set each variant's number of epochs, and scale its warm-up in proportion.

    Args:
        drafts: One run of each variant, with any number of epochs.
        measure: Measures the cost of runs; called only if the budget depends on it.

    Raises:
        ValueError: the budget is below half an epoch, a required cost could not be measured, or the warm-up cannot be
            scaled because the base does not set the number of epochs.
    """
    if study.budget is None or study.budget.kind == "epochs":
        return {}
    record = folder / "budget.json"
    spent_by = {run.variant: {"model": run.config["model"], "data": run.config["data"]} for run in drafts}
    inputs = {"budget": str(study.budget), "configs": spent_by}
    known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    if {key: known.get(key) for key in inputs} != inputs:
        costs, failures = measure(drafts) if study.budget.measured else ({}, {})
        for variant, why in failures.items():
            raise ValueError(f"{study.path}: {study.budget}: the cost of {variant} could not be measured ({why}).")
        size = len(images.labels("train"))
        try:
            epochs = {run.variant: study.budget.epochs(size, costs.get(run.variant)) for run in drafts}
        except ValueError as error:
            raise ValueError(f"{study.path}: {error}") from None
        known = {**inputs, "epochs": epochs}
        _write(record, known)
    return {run.variant: _trained_for(study, run, known["epochs"][run.variant]) for run in drafts}


def _trained_for(study: Study, draft: Run, epochs: int) -> Config:
    """Return the override for another number of epochs, with the warm-up scaled in proportion."""
    override: Config = {"trainer": {"max_epochs": epochs}}
    flat = flatten(draft.config)
    warmup, planned = flat.get(WARMUP), flat.get("trainer.max_epochs")
    if not warmup:
        return override
    if planned is None:
        raise ValueError(
            f"{study.path}: budget: {WARMUP} is {warmup}, but trainer.max_epochs is not set,\n"
            "so the budget cannot scale the warm-up. Set trainer.max_epochs in the base."
        )
    return merge(override, nest(WARMUP, warmup * epochs / planned))


def refuse_unfit_images(study: Study, metric: Metric, images: Images) -> None:
    """Raise ValueError for labels without the metric, or for tuning on test images."""
    labels = images.labels("test")
    if metric.one_class and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
        raise ValueError(
            f"{study.path}: the labels are {labels.dtype} of shape {labels.shape}; the objective's task ranks by "
            f"{'top-1 accuracy' if metric.is_accuracy else metric.name}, which needs one class per image."
        )
    if study.tuning is not None and set(images.image_names("val")) & set(images.image_names("test")):
        raise ValueError(
            f"{study.path}: tune: the validation images of this data set are also its test images.\n"
            "Tuning on them would bias the result. Hold out other images, e.g. with data.init_args.test_fraction."
        )


def tune(
    study: Study, root: Path, decided: Mapping[str, Config], train: Train
) -> tuple[list[Choice], dict[str, Config]]:
    """Train every variant with every value; return the choices, and `decided` extended by them.

    Raises:
        ValueError: no tuning run of a variant finished.
    """
    if study.tuning is None:
        return [], dict(decided)
    trials = plan_tuning(study, root, decided)  # by value, then by seed and variant
    train([run for runs in trials for run in runs])
    choices, overrides = [], {}
    for position, variant in enumerate(study.variants):
        tried = []
        for value, runs in zip(study.tuning.values, trials, strict=True):
            scores = [_validation_score(run) for run in runs[position :: len(study.variants)]]
            known = [score for score in scores if score is not None]
            tried.append(Trial(value, fmean(known) if len(known) == len(scores) else None))
        choice = Choice(variant, tried, trials[0][0].metric)
        choices.append(choice)
        overrides[variant] = merge(decided.get(variant, {}), nest(study.tuning.key, choice.best.value))
    record = {choice.variant: {"variant": choice.variant, "trials": choice.trials} for choice in choices}
    _write(root / slug(study.name) / "tuning" / "choices.json", record)
    for choice in choices:
        if choice.best.score is None:
            raise ValueError(f"{study.path}: tune: no tuning run of {choice.variant} finished; see its logs.")
    return choices, overrides


def _validation_score(run: Run) -> float | None:
    return None if shortfalls(run.directory) else read_progress(run.directory / "metrics.csv", run.metric).score


def _write(path: Path, content: Config) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
