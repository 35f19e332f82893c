"""What a study determines before its runs: the epochs that a budget allows each variant, and the tuned setting.

Both are stored beside the runs and reused, so that restarting a study continues the same study.
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
from vitlab.studies.budget import Epochs
from vitlab.studies.execution.local import Outcome
from vitlab.studies.execution.progress import read_progress
from vitlab.studies.study import WARMUP, Run, Study, nest, plan_tuning, slug
from vitlab.studies.workshop import Images, Workshop

Measure = Callable[[Sequence[Run]], tuple[dict[str, Cost], dict[str, str]]]
Train = Callable[[list[Run]], list[Outcome]]


class Trial(NamedTuple):
    """One value of the tuned setting, for one variant."""

    value: Any
    accuracy: float | None  # on the validation images, mean over the tuning seeds; None if a run failed


class Choice(NamedTuple):
    """The result of tuning a variant: the value with the highest accuracy, the first one of ties."""

    variant: str
    trials: list[Trial]

    @property
    def best(self) -> Trial:
        """The chosen trial."""
        return max(self.trials, key=lambda trial: -1.0 if trial.accuracy is None else trial.accuracy)

    @property
    def at_the_edge(self) -> bool:
        """Whether an outermost value is the single best one, so that a better one may lie beyond it."""
        alone = [trial.accuracy for trial in self.trials].count(self.best.accuracy) == 1
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
    if study.budget is None or isinstance(study.budget, Epochs):
        return {}
    record = folder / "budget.json"
    inputs = {"budget": str(study.budget), "configs": {run.variant: _spent_by(run.config) for run in drafts}}
    known = _read(record)
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
    warmup, of = flat.get(WARMUP), flat.get("trainer.max_epochs")
    if not warmup:
        return override
    if of is None:
        raise ValueError(
            f"{study.path}: budget: {WARMUP} is {warmup}, but trainer.max_epochs is not set,\n"
            "so the budget cannot scale the warm-up. Set trainer.max_epochs in the base."
        )
    return merge(override, nest(WARMUP, warmup * epochs / of))


def refuse_to_tune_on_test_images(study: Study, images: Images) -> None:
    """Raise ValueError if validation images are also test images."""
    if study.tuning is not None and set(images.image_names("val")) & set(images.image_names("test")):
        raise ValueError(
            f"{study.path}: tune: the validation images of this data set are also its test images.\n"
            "Tuning on them would bias the result. Hold out other images, e.g. with data.init_args.test_fraction."
        )


def refuse_what_has_no_top1(study: Study, images: Images) -> None:
    """Raise ValueError unless every label is the index of a single class."""
    labels = images.labels("test")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{study.path}: the labels are {labels.dtype} of shape {labels.shape}; a study ranks by top-1 accuracy, "
            "which needs one class per image. Train on such data with `fit`."
        )


def tune(
    study: Study, workshop: Workshop, root: Path, decided: Mapping[str, Config], train: Train
) -> tuple[list[Choice], dict[str, Config]]:
    """Train every variant with every value; return the choices, and `decided` extended by them.

    Raises:
        ValueError: no tuning run of a variant finished.
    """
    if study.tuning is None:
        return [], dict(decided)
    trials = plan_tuning(study, workshop, root, decided)
    train([run for runs in trials for run in runs])
    choices = read_choices(study, trials)
    _write(root / slug(study.name) / "tuning" / "choices.json", {c.variant: c._asdict() for c in choices})
    for choice in choices:
        if choice.best.accuracy is None:
            raise ValueError(f"{study.path}: tune: no tuning run of {choice.variant} finished; see its logs.")
    tuned = {choice.variant: study.tuning.override(choice.best.value) for choice in choices}
    return choices, {variant: merge(decided.get(variant, {}), tuned[variant]) for variant in study.variants}


def read_choices(study: Study, trials: Sequence[Sequence[Run]]) -> list[Choice]:
    """Return the choices from the directories of the tuning runs; `trials` is by value, then variant and seed."""
    assert study.tuning is not None
    choices = []
    for position, variant in enumerate(study.variants):
        tried = []
        for value, runs in zip(study.tuning.values, trials, strict=True):
            accuracies = [_validation_accuracy(run) for run in runs[position :: len(study.variants)]]
            known = [accuracy for accuracy in accuracies if accuracy is not None]
            tried.append(Trial(value, fmean(known) if len(known) == len(accuracies) else None))
        choices.append(Choice(variant, tried))
    return choices


def _validation_accuracy(run: Run) -> float | None:
    return None if shortfalls(run.directory) else read_progress(run.directory / "metrics.csv").top1


def _spent_by(config: Config) -> Config:
    """Return the part of a configuration that determines how fast a budget is spent."""
    return {"model": config["model"], "data": config["data"]}


def _read(path: Path) -> Config:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _write(path: Path, content: Config) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
