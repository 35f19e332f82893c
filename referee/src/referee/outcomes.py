"""The table that everything is judged from: one row for each run and item, or one for each run.

    variant   seed   item   outcome                 whether the run is right on the item, or its score there
    variant   seed   score                          of a run on a whole test set

Columns may have the names that timm, lm-eval, Inspect, OpenML, Hugging Face and scikit-learn write (`NAMES`). An
outcome is read from the first of these that a table has: whether the item is right, prediction and label, probabilities
or logits and label, a score. A column that is recognized by such a name is a note of the table.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from referee.metric import Metric
from referee.statistics.comparison import Dependence

NAMES = {
    "variant": ("variant", "model", "model_name", "model_id", "method", "setup", "flow"),
    "seed": ("seed", "run", "repeat", "trial"),
    "item": ("item", "image", "filename", "file", "sample_id", "instance_id", "doc_id", "row_id", "id", "index"),
    "correct": ("correct", "is_correct", "outcome", "acc", "exact_match"),
    "prediction": ("prediction", "pred", "predicted", "predicted_label", "y_pred", "preds"),
    "label": ("label", "target", "truth", "y_true", "gold", "labels", "target_index"),
    "probabilities": ("logits", "probabilities", "probs", "prob", "logit"),
    "score": ("score", "value", "top1", "accuracy", "loss", "nll", "val_loss"),
    "group": ("group",),
    "block": ("block",),
}
FRACTIONS = ("accuracy", "acc", "top1", "top5", "f1", "exact_match", "correct")
RIGHT = {"true": 1.0, "false": 0.0, "correct": 1.0, "incorrect": 0.0, "c": 1.0, "i": 0.0, "p": 0.5, "n": 0.0}


@dataclass(frozen=True, eq=False)
class Run:
    """One trained model on the test items."""

    variant: str
    seed: str
    outcomes: np.ndarray  # by item, (N,) bool or float; (1,) float for a run of which only the score is known
    items: np.ndarray = field(default_factory=lambda: np.array([], dtype=str))  # their names, (N,); empty for a score
    labels: np.ndarray | None = None
    predictions: np.ndarray | None = None
    groups: np.ndarray | None = None
    name: str = ""  # in messages; empty: variant and seed
    block: str = ""  # the machine, site or version that it ran in

    def __str__(self) -> str:
        return self.name or f"{self.variant}, seed {self.seed}"

    @property
    def is_finite(self) -> bool:
        """Whether the run has a result."""
        return bool(len(self.outcomes)) and bool(np.isfinite(self.outcomes.astype(float)).all())


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The runs of all variants, which are in the order of the table."""

    runs: list[Run]
    metric: Metric
    notes: list[str] = field(default_factory=list)  # what was taken without being told
    planned: list[str] = field(default_factory=list)  # variants that come first, with or without runs
    unit: str = "item"  # what the runs are tested on, in sentences
    overlap: float = 1.0  # see `Dependence`

    @cached_property
    def variants(self) -> list[str]:
        return list(dict.fromkeys([*self.planned, *(run.variant for run in self.runs)]))

    @property
    def by_item(self) -> bool:
        """Whether the outcomes of single items are known."""
        return any(len(run.items) for run in self.runs)

    @cached_property
    def groups(self) -> np.ndarray | None:
        """The group of each item, (N,) from 0; None where none is told or there is a single one."""
        told = next((run.groups for run in self.runs if run.groups is not None and run.is_finite), None)
        groups = None if told is None else np.unique(told.astype(str), return_inverse=True)[1]
        return groups if groups is not None and groups.max() else None

    @cached_property
    def blocks(self) -> dict[str, dict[str, str]] | None:
        """The block of each run by variant and seed; None where there is a single one."""
        known = [run for run in self.runs if run.is_finite]
        if len({run.block for run in known}) < 2:
            return None
        return {name: {run.seed: run.block for run in known if run.variant == name} for name in self.variants}

    @property
    def dependence(self) -> Dependence:
        """What items have to do with each other."""
        return Dependence(self.groups, self.overlap)

    def of(self, variant: str) -> list[Run]:
        """Return the runs of a variant that have a result."""
        return [run for run in self.runs if run.variant == variant and run.is_finite]


def from_frame(
    frame: pd.DataFrame, metric: str | None = None, lower: bool = False, columns: Mapping[str, str] | None = None
) -> Outcomes:
    """Read a table of items or of scores.

    Args:
        frame: One row for each run and item, or for each run.
        metric: The column of the score, or the name of the metric.
        lower: Whether a lower score is better.
        columns: by what they hold (`NAMES`), where a name is not a usual one.

    Raises:
        ValueError: a column is missing, or a row cannot be read; the message names it and the remedy.
    """
    columns = {} if columns is None else dict(columns)
    if metric in frame.columns:
        columns.setdefault("score", str(metric))
    by_row = columns.get("item") == "row" and "row" not in frame.columns
    if by_row:
        del columns["item"]
    known, notes = _known_columns(frame, columns)
    if "group" in known and "group" not in columns:
        if _groups_items(frame, known):
            notes.append("group: the column group, whose items are taken to be alike.")
        else:
            del known["group"]
    table = pd.DataFrame({kind: frame[name] for kind, name in known.items()}, index=frame.index)
    for kind in ("variant", "seed", "item", "label", "group", "block"):
        if kind in table and (empty := table[kind].isna()).any():
            raise ValueError(
                f"{_row(frame.index[empty][0])} has no {kind} in column {known[kind]}: {int(empty.sum())} such rows.\n"
                "Words like NA, None and null read as empty. Name it otherwise, or remove the rows."
            )
    table["variant"] = table["variant"].astype(str) if "variant" in table else "the model"
    table["seed"] = _as_names(table["seed"]) if "seed" in table else "1"
    table["outcome"], name = _outcomes(table, known, "score" in columns)
    renames = name in ("score", "value") if name == known.get("score") else metric in FRACTIONS
    if metric not in (None, name) and "score" not in columns and not renames:
        raise ValueError(f"--metric {metric}: there is no such column. There are {_listed(frame)}.")
    if name == known.get("score") and "score" not in columns and name not in FRACTIONS and not lower:
        notes.append(f"{name}: higher is better; if not, give --lower.")
    missing = int(table["prediction"].isna().sum()) if "prediction" in table and name == "accuracy" else 0
    if missing and "correct" not in table:
        notes.append(f"{missing} rows have no prediction, and count as wrong.")
    if by_row:
        table["item"] = table.groupby(["variant", "seed"], sort=False).cumcount()
    if "item" not in table and table.duplicated(["variant", "seed"]).any():
        first = frame.index[table.duplicated(["variant", "seed"])][0]
        raise ValueError(
            f"{_row(first)} is a second one of {table['variant'][first]}, seed {table['seed'][first]}, and no column "
            f"names the items: {_listed(frame)}.\nGive it as --item COLUMN, or --item row for the number of the row."
        )
    scored = Metric(metric or name, "min" if lower else "max", _is_fraction(table["outcome"], metric or name))
    if scored.is_fraction and table["outcome"].max() > 1:
        most = table.groupby("variant", sort=False)["outcome"].max()
        if (most <= 1).any() and 100 * most.min() > most.max() / 2:  # else a variant may be at chance
            raise ValueError(
                f"{scored.name}: {most.idxmin()} has at most {most.min():g}, {most.idxmax()} {most.max():g}. Give all "
                "as fractions, or all in per cent."
            )
        table["outcome"] /= 100
        notes.append(f"{scored.name} is in per cent.")
    if "block" in table and (table.groupby(["variant", "seed"])["block"].nunique() > 1).any():
        raise ValueError(
            f"A run has rows of several blocks; --block {known['block']} is a column with one value a run."
        )
    if "group" in table and table["group"].nunique() == 1:
        only = f"--group {known['group']}: its only value is {table['group'].iloc[0]}"
        raise ValueError(f"{only}. Give a column of several groups, or leave it out.")
    right_or_wrong = bool(table["outcome"].dropna().isin((0, 1)).all())
    runs = [_run(rows, key, right_or_wrong) for key, rows in table.groupby(["variant", "seed"], sort=False)]
    return Outcomes(runs, scored, notes)


def _known_columns(frame: pd.DataFrame, columns: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the column of each kind, and a note on those that were recognized by a name of many."""
    for kind, name in columns.items():
        if kind not in NAMES:
            raise ValueError(f"columns: {kind} is no kind of column. Give one of {', '.join(NAMES)}.")
        if name not in frame.columns:
            raise ValueError(f"--{kind} {name}: there is no such column. There are {_listed(frame)}.")
    known, notes = dict(columns), []
    for kind, names in NAMES.items():
        if kind in known or (kind == "correct" and {"score", "prediction"} & known.keys()):
            continue
        present = [name for name in names if name in frame.columns and name not in known.values()]
        if present:
            known[kind] = present[0]
            if present[0] != kind:
                notes.append(f"{kind}: the column {present[0]}.")
    return known, notes


def _groups_items(frame: pd.DataFrame, known: Mapping[str, str]) -> bool:
    """Whether a column that nobody named has a group of each item, and more than one."""
    groups = frame[known["group"]]
    if "item" not in known or groups.isna().any() or groups.nunique() < 2:
        return False
    return bool((frame.groupby(known["item"])[known["group"]].nunique() == 1).all())


def _outcomes(table: pd.DataFrame, known: Mapping[str, str], scored: bool) -> tuple[pd.Series, str]:
    """Return the outcome of each row, of the score where it was asked for, and the name of the metric."""
    kinds = {"score"} if scored else {*table.columns}
    if "correct" in kinds:
        return _numbers(table["correct"], known["correct"]), "accuracy"
    if kinds >= {"prediction", "label"}:
        same = _as_names(table["prediction"]) == _as_names(table["label"])
        return same.astype(float), "accuracy"
    if kinds >= {"probabilities", "label"}:
        guesses = pd.Series([_guess(row) for row in table["probabilities"]], table.index, dtype=float)
        if (wrong := guesses < 0).any():
            row, column = table.index[wrong][0], known["probabilities"]
            raise ValueError(
                f"{_row(row)}, column {column}: {table['probabilities'][row]} is no list of a number for each class. "
                "Give --prediction COLUMN or --score COLUMN instead."
            )
        labels = _numbers(table["label"], known["label"], {})
        return (guesses == labels).astype(float).where(guesses.notna()), "accuracy"
    if "score" in kinds:
        return _numbers(table["score"], known["score"]), known["score"]
    raise ValueError(
        "No column has outcomes. Give one of --correct COLUMN (1 or 0), --prediction and --label COLUMN, or "
        f"--score COLUMN. There are: {', '.join(map(str, known.values()))}."
    )


def _guess(row: Any) -> float:
    """Return the class with the largest logit or probability; nan where one is nan or none is there, -1 of no list."""
    try:
        numbers = np.asarray(json.loads(row) if isinstance(row, str) else row, dtype=float)
    except (ValueError, TypeError):
        return -1.0
    if np.isnan(numbers).any():
        return math.nan
    return float(numbers.argmax()) if numbers.ndim == 1 and len(numbers) > 1 else -1.0


def _row(name: Any) -> str:
    """Return which row a name of the index means, in words: of one table, or of a file of several."""
    return f"{name[0]}, row {name[1]}" if isinstance(name, tuple) else f"Row {name}"


def _numbers(values: pd.Series, column: str, known: Mapping[str, float] = RIGHT) -> pd.Series:
    """Return a column as numbers; known words like C, I, true and false are 1 and 0, an empty cell is nan."""
    if values.dtype == bool:
        return values.astype(float)
    words = values.map(lambda value: known.get(value.lower(), value) if isinstance(value, str) else value)
    numbers = pd.to_numeric(words, errors="coerce").astype(float)
    if (wrong := numbers.isna() & values.notna()).any():
        row = values.index[wrong][0]
        raise ValueError(f"{_row(row)}, column {column}: {values[row]!r} is not a number. Remove the row or mend it.")
    return numbers


def _as_names(values: pd.Series) -> pd.Series:
    """Return labels as text, each whole number without a decimal point, true and false as 1 and 0."""
    names = values.astype(str).replace({"True": "1", "False": "0"})
    return names.str.replace(r"^(-?\d+)\.0$", r"\1", regex=True)


def _is_fraction(outcomes: pd.Series, name: str) -> bool:
    values = outcomes.dropna()
    return bool(values.isin((0, 1)).all()) or (name in FRACTIONS and bool(values.between(0, 100).all()))


def _run(rows: pd.DataFrame, key: Any, right_or_wrong: bool) -> Run:
    """Return a run; of a table that says right or wrong for each item its outcomes are bool, so that all runs agree."""
    variant, seed = map(str, key)
    outcomes = rows["outcome"].to_numpy()
    block = str(rows["block"].iloc[0]) if "block" in rows else ""
    if "item" not in rows:
        return Run(variant, seed, outcomes, block=block)
    if right_or_wrong and not np.isnan(outcomes).any():
        outcomes = outcomes.astype(bool)
    items = _as_names(rows["item"]).to_numpy()
    order = np.argsort(items, kind="stable")
    kinds = ("label", "prediction", "group")
    labels, predictions, groups = (rows[kind].to_numpy()[order] if kind in rows else None for kind in kinds)
    return Run(variant, seed, outcomes[order], items[order], labels, predictions, groups, block=block)


def _listed(frame: pd.DataFrame) -> str:
    return ", ".join(map(str, frame.columns))


def in_order(seeds: Iterable[str]) -> list[str]:
    """Return seeds by number, those that are not numbers by name."""
    return sorted(seeds, key=lambda seed: (not seed.isdecimal(), int(seed) if seed.isdecimal() else 0, seed))
