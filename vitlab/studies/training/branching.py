"""Runs of several lengths for little more than the longest one costs: with a constant rate, they begin alike.

Until its cooldown begins, a run with `WarmupStableDecay` is the same run whatever its length (Hägele et al. 2024, arXiv
2405.18392). A study with `along: {epochs: [2, 4, 8]}` and `branch: true` trains the longest run of each variant and
seed, which keeps its state at the steps where the shorter ones begin to cool down. Each shorter run continues from
there, as after an interruption, and equals to the bit the run that is trained from its beginning.
"""

from dataclasses import replace
from math import floor

from vitlab.config import ABSENT, flatten, merge
from vitlab.studies.file.budget import epoch_of
from vitlab.studies.file.runs import SCHEDULE, Run

BY_LENGTH = ("grow", "weight_decay_end", "momentum_teacher")  # settings that change over the whole run


def branching_step(run: Run, images: int) -> int:
    """Return the optimizer steps of a run before its cooldown; `images` are those for training.

    Raises:
        ValueError: another length would be another run before that.
    """
    flat, epoch = flatten(run.config), epoch_of(run.config, images)
    schedule = str(flat.get(f"{SCHEDULE}.class_path", "none"))
    if not schedule.endswith("WarmupStableDecay"):
        raise ValueError(
            f"branch: {run.variant} has the schedule {schedule}. Give all variants vitlab.optim.WarmupStableDecay."
        )
    for key, value in flat.items():
        if set(BY_LENGTH) & set(key.split(".")) and value not in (None, ABSENT):
            raise ValueError(f"branch: {key} of {run.variant} changes over the whole run. Remove it.")
    per_epoch = epoch.batches // epoch.step
    before = floor((1 - flat[f"{SCHEDULE}.init_args.cooldown"]) * run.epochs * per_epoch)
    warmup = flat[f"{SCHEDULE}.init_args.warmup_epochs"] * per_epoch
    if before <= warmup:
        raise ValueError(f"branch: {run} cools down after {before} steps, before its warm-up ends. Give more epochs.")
    return before


def keeping(trunk: Run, steps: list[int]) -> Run:
    """Return a run that keeps its state after some steps."""
    return replace(trunk, config=merge(trunk.config, {"run": {"checkpoint": {"keep": steps}}}))
