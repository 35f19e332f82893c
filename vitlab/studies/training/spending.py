"""How long each variant of a study trains, by its budget, and where runs of other lengths branch off.

A budget is converted into epochs before training starts, so that schedules span the whole training. Where whole epochs
would miss it, each is shortened by the same number of batches. The lengths are stored in the study's folder and reused.

Until its cooldown begins, a run with `WarmupStableDecay` is the same run whatever its length (Hägele et al. 2024, arXiv
2405.18392). With `branch: true` the longest run of each variant and seed keeps its state where shorter ones begin to
cool down, and these continue from there: to the bit the runs that are trained from their beginning.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from vitlab.atomic_files import read_json, write_text
from vitlab.config import ABSENT, Config, flatten, merge, nest
from vitlab.studies.file.runs import SCHEDULE, Run, comparable
from vitlab.studies.file.study import BUDGET_TOLERANCE, VALIDATION, WARMUP, Budget, Study

ImagesOf = Callable[[Run], int]  # the number of training images
FlopsOf = Callable[[Config], float]  # of a training step, by image; called only for a budget in FLOPs
MISSED = 0.02  # of the budget, by which whole epochs may miss it
BY_LENGTH = ("grow", "weight_decay_end", "momentum_teacher")  # settings that change over the whole run


class Epoch(NamedTuple):
    batches: int  # of each process
    images: int  # of a batch, over all processes
    step: int = 1  # batches of an optimizer step


class Length(NamedTuple):
    epochs: int
    batches: int | None = None  # of each epoch; None: all


def epoch_of(config: Config, images: int) -> Epoch:
    """Return one epoch over `images` training images, without the last ones that fill no optimizer step."""
    trainer = config.get("trainer", {})
    devices = trainer.get("devices")
    if isinstance(devices, list):
        devices = len(devices)
    elif str(devices) == "-1":
        devices = max(1, torch.cuda.device_count())
    devices = int(devices) if str(devices).isdigit() else 1  # of `auto`, which a study gives one
    processes = (trainer.get("num_nodes") or 1) * devices
    batch, step = processes * config["data"]["init_args"]["batch_size"], trainer.get("accumulate_grad_batches") or 1
    batches, limit = images // (batch * step) * step, trainer.get("limit_train_batches")
    if limit is not None:
        batches = min(batches, limit) if type(limit) is int else int(limit * batches)
    return Epoch(max(batches, step), batch, step)


def length_of(budget: Budget, per_image: float, epoch: Epoch) -> Length:
    """Return the length of a run that spends the budget, if an image costs `per_image` in its unit."""
    epochs = budget.amount / (epoch.batches * epoch.images * per_image)
    if epochs < 0.5:
        raise ValueError(f"a budget of {budget} is {epochs:.2g} epochs. Raise it.")

    def missed(length: Length) -> float:
        images = epoch.images * (length.batches or epoch.batches)
        return abs(length.epochs * (images * per_image) / budget.amount - 1)

    def shortened(epochs: int) -> Length:
        images = budget.amount / epochs / per_image
        return Length(epochs, epoch.step * max(1, round(images / (epoch.images * epoch.step))))

    least = math.ceil(epochs)
    lengths = [Length(math.floor(epochs + 0.5)), *map(shortened, range(least, least + 4))]
    length = next((each for each in lengths if missed(each) <= MISSED), min(lengths, key=missed))
    if missed(length) > BUDGET_TOLERANCE:
        raise ValueError(
            f"a budget of {budget} is {epochs:.3g} epochs of {epoch.batches} batches, and whole optimizer steps miss "
            f"it by {missed(length):.0%}. Change it, or give a budget in epochs."
        )
    return length


def spend_budget(
    study: Study, drafts: Sequence[Run], images: ImagesOf, flops_per_image: FlopsOf, folder: Path
) -> dict[str, Config]:
    """Return overrides that set each variant's length, and scale its warm-up in proportion.

    `drafts` are a run of each variant, of any length.
    """
    budget, drafts = study.budget, [run for run in drafts if run.variant not in study.frozen]
    if budget is None or not study.converts_budget:
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
        "budget": str(budget),
        "configs": {run.variant: comparable(run.config) for run in drafts},
        "images": known.get("images") if begun else {run.variant: images(run) for run in drafts},
    }
    if {key: known.get(key) for key in inputs} != json.loads(json.dumps(inputs)):
        known = {**inputs, "per_image": {}, "epochs": {}, "batches": {}, "validated": {}}
        for run in drafts:
            per_image = flops_per_image(run.config) if budget.kind == "flops" else 1.0
            try:
                length = length_of(budget, per_image, epoch_of(run.config, images(run)))
            except ValueError as error:
                raise ValueError(f"{study.path}: {error}") from None
            trainer, validated = run.config.get("trainer", {}), None
            every, planned = trainer.get(VALIDATION, 1), trainer.get("max_epochs")
            if every is not None and planned not in (None, -1):  # as often as the draft, not after each short epoch
                validated = max(1, round(every * length.epochs / planned))
            of_run = {"per_image": per_image, **length._asdict(), "validated": validated}
            for key, value in of_run.items():
                known[key][run.variant] = value
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


def branching_step(run: Run, images: int) -> int:
    """Return the steps of a run before its cooldown; refuse what makes a run of another length another one there."""
    flat, epoch = flatten(run.config), epoch_of(run.config, images)
    schedule = str(flat.get(f"{SCHEDULE}.class_path", "none"))
    if not schedule.endswith("WarmupStableDecay"):
        raise ValueError(f"branch: {run.variant} needs the schedule WarmupStableDecay, not {schedule}.")
    for key, value in flat.items():
        if {*BY_LENGTH} & {*key.split(".")} and value not in (None, ABSENT):
            raise ValueError(f"branch: {key} of {run.variant} changes over the whole run. Remove it.")
    per_epoch = epoch.batches // epoch.step
    before = math.floor((1 - flat[f"{SCHEDULE}.init_args.cooldown"]) * run.epochs * per_epoch)
    warmup = flat[f"{SCHEDULE}.init_args.warmup_epochs"] * per_epoch
    if before <= warmup:
        raise ValueError(f"branch: {run} cools down after {before} steps, before its warm-up ends. Give more epochs.")
    return before
