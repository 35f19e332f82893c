"""Test a study's models on spoilt images, one after the other; what is measured is kept and not measured again.

`robustness.csv` has a row a run, corruption, strength and number of images: `variant`, `seed`, `corruption` (`CLEAN`
for the images as they are), `measure` (what its strengths are), `strength`, `images`, `top1` from 0 to 1, and
`predictions`, the fingerprint of the run that was measured.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import tee
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vitlab.atomic_files import write_text
from vitlab.data import ImageDataModule
from vitlab.data.corruptions import Corruption, corrupted
from vitlab.evaluation.predictions import read_predictions
from vitlab.models import ImageModel
from vitlab.studies.baselines import stratified_sample
from vitlab.studies.format import clock

log = logging.getLogger("vitlab")

CLEAN = "none"
"""What the column `corruption` says of the images as they are."""
FILE = "robustness.csv"
CELL = ["variant", "seed", "corruption", "strength", "images"]
SEED = 0  # of the choice of images: the same for every model
SECONDS = 10.0  # between two lines about how far it is

Batches = Iterable[tuple[list[Tensor], Tensor]]


class FinishedRun(NamedTuple):
    """A run of a study, by its directory."""

    variant: str
    seed: int
    directory: Path


Load = Callable[[FinishedRun], tuple[ImageModel, ImageDataModule]]


def measure_study(
    runs: Sequence[FinishedRun],
    load: Load,
    corruptions: Sequence[Corruption],
    images: int | None,
    device: torch.device,
    out: Path,
) -> pd.DataFrame:
    """Return the rows of all runs and corruptions, after measuring those that `out` does not hold yet.

    Args:
        load: Returns a run's model, in eval mode on the device, and its data.
        images: So many test images, of each class in proportion and the same for all runs; None: all.
    """
    labels = read_predictions(runs[0].directory / "predictions.parquet").labels
    chosen = stratified_sample(labels, images or len(labels), np.random.default_rng(SEED))
    asked = [CLEAN, *(corruption.name for corruption in corruptions)]

    def rows_of(run: FinishedRun) -> pd.DataFrame:
        known = current(read_kept(out), [run])
        return known[(known["images"] == len(chosen)) & known["corruption"].isin(asked)]

    waiting = [run for run in runs if set(rows_of(run)["corruption"]) != set(asked)]
    if len(waiting) < len(runs):
        log.info("%d of %d models are measured already: %s", len(runs) - len(waiting), len(runs), out / FILE)
    start = time.monotonic()
    for number, run in enumerate(waiting):
        known = set(rows_of(run)["corruption"])
        missing = [corruption for corruption in corruptions if corruption.name not in known]
        told = -SECONDS

        def tell(seen: int, run: FinishedRun = run, before: int = number * len(chosen)) -> None:
            nonlocal told
            passed, done = time.monotonic() - start, before + seen
            if passed - told >= SECONDS:
                left = clock(passed / done * (len(waiting) * len(chosen) - done))
                log.info("%s, seed %d: %d of %d images, about %s left in all", *run[:2], seen, len(chosen), left)
                told = passed

        log.info("%s, seed %d (%d of %d models)", *run[:2], number + 1, len(waiting))
        model, data = load(run)
        batches = only(data.batches("test", device), chosen)
        top1 = accuracies(model, batches, missing, data.mean, data.std, tell)
        measures = {corruption.name: corruption.measure for corruption in corruptions}
        rows = [
            {
                "variant": run.variant,
                "seed": run.seed,
                "corruption": name,
                "strength": strength,
                "images": len(chosen),
                "top1": value,
                "measure": measures.get(name, ""),
                "predictions": fingerprint(run.directory),
            }
            for (name, strength), value in top1.items()
        ]
        keep(pd.DataFrame(rows), out)
    return pd.concat([rows_of(run) for run in runs], ignore_index=True)


def accuracies(
    model: ImageModel,
    batches: Batches,
    corruptions: Sequence[Corruption],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    tell: Callable[[int], None] = lambda seen: None,
) -> dict[tuple[str, float], float]:
    """Return the accuracy by corruption and strength, and of the images as they are; each image is decoded once.

    Args:
        model: In eval mode.
        tell: Called with the number of images that are done, after each batch.
    """
    kinds = [(corruption, strength) for corruption in corruptions for strength in corruption.strengths]
    clean, *copies = tee(batches, 1 + len(kinds))
    spoilt = [corrupted(copy, *kind, mean, std) for copy, kind in zip(copies, kinds, strict=True)]
    right = dict.fromkeys([(CLEAN, 0.0), *((corruption.name, strength) for corruption, strength in kinds)], 0)
    seen = 0
    with torch.inference_mode(), model.biases_kept():
        for batch in clean:
            # One after the other: a batch spoilt in every way at once would not fit into memory.
            for kind, stream in zip(right, [iter([batch]), *spoilt], strict=True):
                (images,), labels = next(stream)
                right[kind] += int((model(images).argmax(dim=1) == labels).sum())
            seen += len(labels)
            tell(seen)
    return {kind: count / seen for kind, count in right.items()}


def only(batches: Batches, chosen: np.ndarray) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield of each batch the images whose places in the split are chosen."""
    first = 0
    for (images,), labels in batches:
        here = chosen[(chosen >= first) & (chosen < first + len(labels))] - first
        first += len(labels)
        if len(here):
            rows = torch.from_numpy(here).to(labels.device)
            yield [images[rows]], labels[rows]


def keep(rows: pd.DataFrame, out: Path) -> None:
    """Add rows to `robustness.csv`; of the same cell the new one counts."""
    table = pd.concat([read_kept(out), rows], ignore_index=True).drop_duplicates(CELL, keep="last")
    write_text(out / FILE, table.to_csv(index=False))


def read_kept(out: Path) -> pd.DataFrame:
    """Return what `keep` wrote; without a row where there is nothing."""
    path = out / FILE
    if not path.is_file():
        return pd.DataFrame(columns=[*CELL, "top1", "measure", "predictions"])
    table = pd.read_csv(path, dtype={"variant": str, "predictions": str}, keep_default_na=False)
    return table if "predictions" in table else table.assign(predictions="")  # an older version's


def current(table: pd.DataFrame, runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """Return the rows that are of these runs as they are now."""
    now = {(run.variant, run.seed): fingerprint(run.directory) for run in runs}
    measured = zip(table["variant"], table["seed"], table["predictions"], strict=True)
    ours = [now.get((variant, int(seed))) == known for variant, seed, known in measured]
    return table[np.array(ours, dtype=bool)]


def fingerprint(run: Path) -> str:
    """Return a digest of a run's predictions, which another training of it changes; nothing where they are gone."""
    path = run / "predictions.parquet"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""
