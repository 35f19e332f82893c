"""The length of training that a study's budget buys each variant, and where runs of other lengths branch off.

A budget's lengths are stored in the study's folder and reused, so that restarting a study continues the same study.

Until its cooldown begins, a run with `WarmupStableDecay` is the same run whatever its length (Hägele et al. 2024, arXiv
2405.18392). A study with `along: {epochs: [2, 4, 8]}` and `branch: true` trains the longest run of each variant and
seed, which keeps its state at the steps where the shorter ones begin to cool down. Each shorter run continues from
there, as after an interruption, and equals to the bit the run that is trained from its beginning.
"""

import json
from collections.abc import Callable, Sequence
from math import floor
from pathlib import Path

from vitlab.atomic_files import read_json, write_text
from vitlab.config import ABSENT, Config, flatten, merge, nest
from vitlab.studies.file.budget import epoch_of
from vitlab.studies.file.runs import SCHEDULE, Run
from vitlab.studies.file.study import LENGTH, VALIDATION, WARMUP, Study

RATES = ("lr", "muon_lr", "weight_decay")  # of an optimizer
BY_LENGTH = ("grow", "weight_decay_end", "momentum_teacher")  # settings that change over the whole run


def spend_budget(
    study: Study,
    drafts: Sequence[Run],
    images: Callable[[Run], int],
    flops_per_image: Callable[[Config], float],
    folder: Path,
) -> dict[str, Config]:
    """Return overrides that set each variant's length, and scale its warm-up in proportion.

    Args:
        drafts: One run of each variant, of any length.
        images: Returns the training images of a run.
        flops_per_image: Counts those of a training step; called only for a budget in FLOPs.
    """
    drafts = [run for run in drafts if run.variant not in study.frozen]
    if not study.converts_budget:
        return {}
    for run in drafts:
        flat = flatten(run.config)
        if flat.get(WARMUP) and flat.get("trainer.max_epochs") is None:
            raise ValueError(f"{study.path}: budget: set trainer.max_epochs in the base, by which {WARMUP} scales.")
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
        known = {**inputs, **_lengths(study, drafts, images, flops_per_image)}
        write_text(record, json.dumps(known, indent=2, ensure_ascii=False) + "\n")
    overrides = {}
    for run in drafts:
        epochs = known["epochs"][run.variant]
        trainer = {"max_epochs": epochs}
        for key, values in ("limit_train_batches", "batches"), (VALIDATION, "validated"):
            if (value := known.get(values, {}).get(run.variant)) is not None:
                trainer[key] = value
        warmup = flatten(run.config).get(WARMUP)
        scaled = nest(WARMUP, warmup * epochs / run.epochs) if warmup else {}
        overrides[run.variant] = merge({"trainer": trainer}, scaled)
    return overrides


def _lengths(
    study: Study,
    drafts: Sequence[Run],
    images: Callable[[Run], int],
    flops_per_image: Callable[[Config], float],
) -> Config:
    """Return the cost of an image, the epochs, their batches and those between validations of each variant.

    Each is validated about as often as its draft. Few images make many short epochs: validated after each, a run would
    mostly validate, and `best` would be the best of more states.
    """
    assert study.budget is not None
    in_flops = study.budget.kind == "flops"
    per_image = {run.variant: flops_per_image(run.config) if in_flops else 1.0 for run in drafts}
    try:
        lengths = {
            run.variant: study.budget.length(per_image[run.variant], epoch_of(run.config, images(run)))
            for run in drafts
        }
    except ValueError as error:
        raise ValueError(f"{study.path}: {error}") from None
    validated: dict[str, int | None] = {}  # None: as the draft
    for run in drafts:
        trainer = run.config.get("trainer", {})
        every, planned = trainer.get(VALIDATION, 1), trainer.get("max_epochs")
        known = every is not None and planned not in (None, -1)
        validated[run.variant] = max(1, round(every * lengths[run.variant].epochs / planned)) if known else None
    return {
        "per_image": per_image,
        "epochs": {variant: length.epochs for variant, length in lengths.items()},
        "batches": {variant: length.batches for variant, length in lengths.items()},
        "validated": validated,
    }


def _decisive(config: Config) -> Config:
    """Return what of a draft decides how long a budget lasts: not rates and schedule."""
    model, trainer = config["model"], config.get("trainer", {})
    arguments = {key: value for key, value in model["init_args"].items() if key != "schedule"}
    if "optimizer" in arguments:
        optimizer = arguments["optimizer"].get("init_args", {})
        settings = {key: value for key, value in optimizer.items() if key not in RATES}
        arguments["optimizer"] = {**arguments["optimizer"], "init_args": settings}
    data = config["data"]["init_args"]
    images = {key: value for key, value in data.items() if not key.startswith("train_images")}
    return {
        "model": {**model, "init_args": arguments},
        "data": {**config["data"], "init_args": images},
        "trainer": {key: value for key, value in trainer.items() if key not in LENGTH},
        "compile": config.get("run", {}).get("compile", False),
        "images": data.get("train_images"),
        **{key: trainer.get(key) for key in LENGTH},
    }


def branching_step(run: Run, images: int) -> int:
    """Return the optimizer steps of a run before its cooldown; `images` are those for training.

    Refuses settings by which a run of another length would be another run before that.
    """
    flat, epoch = flatten(run.config), epoch_of(run.config, images)
    schedule = str(flat.get(f"{SCHEDULE}.class_path", "none"))
    if not schedule.endswith("WarmupStableDecay"):
        raise ValueError(f"branch: {run.variant} needs the schedule WarmupStableDecay, not {schedule}.")
    for key, value in flat.items():
        if set(BY_LENGTH) & set(key.split(".")) and value not in (None, ABSENT):
            raise ValueError(f"branch: {key} of {run.variant} changes over the whole run. Remove it.")
    per_epoch = epoch.batches // epoch.step
    before = floor((1 - flat[f"{SCHEDULE}.init_args.cooldown"]) * run.epochs * per_epoch)
    warmup = flat[f"{SCHEDULE}.init_args.warmup_epochs"] * per_epoch
    if before <= warmup:
        raise ValueError(f"branch: {run} cools down after {before} steps, before its warm-up ends. Give more epochs.")
    return before
