"""Evaluate the models of a study on corrupted images, and keep every measurement for the next call.

`robustness.csv` has one row per run, corruption, strength and number of images: `variant`, `seed`, `corruption`
(`CLEAN` for clean images), `measure` (what the strength is), `strength`, `images`, `top1` in [0, 1], and `predictions`,
a fingerprint of the run that was measured.
"""

import hashlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from vitlab.atomic_files import write_text
from vitlab.runs.directory import PREDICTIONS, RunDirectory
from vitlab.studies.baselines import stratified_sample

log = logging.getLogger("vitlab")

CLEAN = "none"
"""The `corruption` of clean images."""
FILE = "robustness.csv"
CELL = ["variant", "seed", "corruption", "strength", "images"]
SEED = 0  # of the image sample: the same for every model


class FinishedRun(NamedTuple):
    """A run of a study, by its directory."""

    variant: str
    seed: int
    directory: Path


Evaluate = Callable[[FinishedRun, Sequence[str], np.ndarray, Callable[[int], None]], Mapping[tuple[str, float], float]]
"""(run, corruptions, positions of the test images, progress) → accuracy by corruption and strength, with `CLEAN`."""


def measure_study(
    runs: Sequence[FinishedRun], evaluate: Evaluate, measures: Mapping[str, str], images: int | None, out: Path
) -> pd.DataFrame:
    """Return the rows of all runs and corruptions, after measuring those that are missing in `out`.

    Rows are written after each model, so an interrupted call continues with the next one.

    Args:
        measures: What the strength is, by corruption.
        images: Number of test images, stratified by class and the same for all runs; None: all.
    """
    labels = RunDirectory(runs[0].directory).predictions.labels
    chosen = stratified_sample(labels, images or len(labels), np.random.default_rng(SEED))
    requested = {CLEAN, *measures}

    def known_rows(run: FinishedRun) -> pd.DataFrame:
        known = current(read_kept(out), [run])
        return known[(known["images"] == len(chosen)) & known["corruption"].isin(requested)]

    waiting = [run for run in runs if set(known_rows(run)["corruption"]) != requested]
    if len(waiting) < len(runs):
        log.info("%d of %d models are already measured: %s", len(runs) - len(waiting), len(runs), out / FILE)
    seconds = 0.5 if sys.stderr.isatty() else 30.0  # between two updates
    with tqdm(total=len(waiting) * len(chosen), unit=" images", mininterval=seconds, disable=not waiting) as bar:
        for number, run in enumerate(waiting):
            bar.set_description(f"{run.variant}, seed {run.seed} (model {number + 1} of {len(waiting)})")

            def progress(done: int, before: int = number * len(chosen)) -> None:
                bar.update(before + done - bar.n)

            known = set(known_rows(run)["corruption"])
            top1 = evaluate(run, [name for name in measures if name not in known], chosen, progress)
            rows = pd.DataFrame([(*kind, value) for kind, value in top1.items()], columns=[*CELL[2:4], "top1"])
            measure = rows["corruption"].map(lambda name: measures.get(name, ""))
            rows = rows.assign(variant=run.variant, seed=run.seed, images=len(chosen), measure=measure)
            keep(rows.assign(predictions=fingerprint(run.directory)), out)
    return pd.concat([known_rows(run) for run in runs], ignore_index=True)


def keep(rows: pd.DataFrame, out: Path) -> None:
    """Add rows to `robustness.csv`; a new row replaces the old one of the same cell."""
    table = pd.concat([read_kept(out), rows], ignore_index=True).drop_duplicates(CELL, keep="last")
    write_text(out / FILE, table.to_csv(index=False))


def read_kept(out: Path) -> pd.DataFrame:
    """Return the rows that `keep` wrote, an empty table if there are none."""
    path = out / FILE
    if not path.is_file():
        return pd.DataFrame(columns=[*CELL, "top1", "measure", "predictions"])
    table = pd.read_csv(path, dtype={"variant": str, "predictions": str}, keep_default_na=False)
    return table if "predictions" in table else table.assign(predictions="")  # written by an older version


def current(table: pd.DataFrame, runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """Return the rows that were measured on these runs' present models."""
    fingerprints = {(run.variant, run.seed): fingerprint(run.directory) for run in runs}
    cells = zip(table["variant"], table["seed"].astype(int), table["predictions"], strict=True)
    return table[np.array([fingerprints.get((v, s)) == measured for v, s, measured in cells], dtype=bool)]


def fingerprint(run: Path) -> str:
    """Return a hash of a run's predictions, which retraining changes; empty if they are missing."""
    path = run / PREDICTIONS
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""
