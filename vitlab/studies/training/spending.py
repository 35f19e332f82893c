"""The length of training that a study's budget buys each variant.

It is stored in the study's folder and reused, so that restarting a study continues the same study.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from vitlab.atomic_files import read_json, write_text
from vitlab.config import Config, flatten, merge, nest
from vitlab.evaluation.cost import Cost
from vitlab.studies.file.budget import Budget, Length, epoch_of
from vitlab.studies.file.runs import Run
from vitlab.studies.file.study import LENGTH, VALIDATION, WARMUP, Study
from vitlab.studies.training.costs import costly

Measure = Callable[[Sequence[Run]], tuple[dict[str, Cost], dict[str, str]]]


def spend_budget(
    study: Study, drafts: Sequence[Run], images: Callable[[Run], int], measure: Measure, folder: Path
) -> dict[str, Config]:
    """Return overrides that set each variant's length, and scale its warm-up in proportion.

    Args:
        drafts: One run of each variant, of any length.
        images: Returns the training images of a run.
        measure: Measures the cost of runs; called only for a budget in FLOPs.

    Raises:
        ValueError: the budget is below half an epoch, a required cost could not be measured, or the warm-up cannot be
            scaled because the base does not set the number of epochs.
    """
    drafts = [run for run in drafts if run.variant not in study.frozen]
    if not study.converts_budget:
        return {}
    for run in drafts:
        _refuse_unknown_warmup(study, run)
    record = folder / "budget.json"
    known = read_json(record, missing={})
    places = [folder / "tuning", *(run.folder for run in drafts)]
    begun = any(True for place in places for _ in place.rglob("seed-*"))
    inputs = {
        "budget": str(study.budget),
        "configs": {run.variant: _decisive(run.config) for run in drafts},
        "images": known.get("images") if begun else {run.variant: images(run) for run in drafts},
    }
    if {key: known.get(key) for key in inputs} != json.loads(json.dumps(inputs)):
        known = {**inputs, **_lengths(study, drafts, images, measure)}
        write_text(record, json.dumps(known, indent=2, ensure_ascii=False) + "\n")
    batches, validated = known.get("batches", {}), known.get("validated", {})
    overrides = {}
    for run in drafts:
        overrides[run.variant] = _trained_for(run, Length(known["epochs"][run.variant], batches.get(run.variant)))
        if every := validated.get(run.variant):
            overrides[run.variant] = merge(overrides[run.variant], nest(f"trainer.{VALIDATION}", every))
    return overrides


def _lengths(study: Study, drafts: Sequence[Run], images: Callable[[Run], int], measure: Measure) -> Config:
    """Return the cost of an image, the epochs, their batches and those between validations of each variant."""
    assert study.budget is not None
    try:
        per_image = _cost_of_an_image(study.budget, drafts, measure)
        lengths = {
            run.variant: study.budget.length(per_image[run.variant], epoch_of(run.config, images(run)))
            for run in drafts
        }
    except ValueError as error:
        raise ValueError(f"{study.path}: {error}") from None
    return {
        "per_image": per_image,
        "epochs": {variant: length.epochs for variant, length in lengths.items()},
        "batches": {variant: length.batches for variant, length in lengths.items()},
        "validated": {run.variant: _interval(run, lengths[run.variant].epochs) for run in drafts},
    }


def _cost_of_an_image(budget: Budget, drafts: Sequence[Run], measure: Measure) -> dict[str, float]:
    """Return what a training image of each variant costs, in the unit of the budget."""
    if budget.kind == "images":
        return {run.variant: 1.0 for run in drafts}
    costs, failures = measure(drafts)
    for variant, why in failures.items():
        raise ValueError(f"{budget}: the cost of {variant} could not be measured ({why}).")
    return {variant: float(cost.train_flops) for variant, cost in costs.items()}


def _decisive(config: Config) -> Config:
    """Return what of a draft decides how long a budget lasts."""
    data, trainer = config["data"]["init_args"], config.get("trainer", {})
    length = {key: trainer.get(key) for key in LENGTH}
    return {**costly(config), "images": data.get("train_images"), **length}


def _refuse_unknown_warmup(study: Study, draft: Run) -> None:
    """Raise ValueError for a warm-up that is not a fraction of the epochs."""
    flat = flatten(draft.config)
    if flat.get(WARMUP) and flat.get("trainer.max_epochs") is None:
        raise ValueError(
            f"{study.path}: budget: {WARMUP} is {flat[WARMUP]}, but trainer.max_epochs is not set,\n"
            "so the budget cannot scale the warm-up. Set trainer.max_epochs in the base."
        )


def _trained_for(draft: Run, length: Length) -> Config:
    """Return the override for another length, with the warm-up scaled in proportion."""
    override: Config = {"trainer": {"max_epochs": length.epochs}}
    if length.batches is not None:
        override["trainer"]["limit_train_batches"] = length.batches
    warmup = flatten(draft.config).get(WARMUP)
    return merge(override, nest(WARMUP, warmup * length.epochs / draft.epochs)) if warmup else override


def _interval(draft: Run, epochs: int) -> int | None:
    """Return after how many epochs a run is validated, so that it is validated about as often as the draft.

    Few images make many short epochs: validated after each, a run would mostly validate, and `best` would be the best
    of more states. None: as the draft.
    """
    trainer = draft.config.get("trainer", {})
    every, planned = trainer.get(VALIDATION, 1), trainer.get("max_epochs")
    if every is None or planned in (None, -1):
        return None
    return max(1, round(every * epochs / planned))
