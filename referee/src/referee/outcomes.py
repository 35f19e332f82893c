"""The table that everything is judged from: one row for each run and item, or one for each run.

    variant   seed   item   outcome                 whether the run is right on the item, or its score there
    variant   seed   score                          of a run on a whole test set

Columns may have the names that timm, lm-eval, Inspect, Hugging Face and scikit-learn write (`NAMES`), with any
capitals. An outcome is read from the first of these that a table has: whether the item is right, prediction and label,
probabilities or logits and label, a score. A column that is recognized by such a name is a note of the table.

Names of variants, seeds, items, classes, groups and blocks are text: 001 is not 1, and NA is a name. Numbers are read
where a number is asked for.
"""

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from referee.formats import counted, listed
from referee.metric import Metric, mode_of, names_fraction, words_of
from referee.statistics.contrast import Dependence

NAMES = {
    "variant": ("variant", "model", "model name", "model id", "method", "setup", "flow", "architecture", "algorithm",
                "model backbone", "backbone", "arch", "network", "classifier", "estimator", "approach"),
    "seed": ("seed", "random seed", "run", "repeat", "trial", "random state", "seed everything", "replicate",
             "repetition"),
    "fold": ("fold", "split", "cv", "cv fold", "fold id", "kfold", "outer fold"),
    "item": ("item", "image", "filename", "file", "sample id", "instance id", "example id", "doc id", "row id", "id",
             "index"),
    "correct": ("correct", "is correct", "outcome", "acc", "exact match"),
    "prediction": ("prediction", "pred", "predicted", "predicted label", "y pred", "preds", "predictions"),
    "label": ("label", "target", "truth", "y true", "gold", "labels", "target index", "actual", "gt", "true",
              "ground truth", "true label"),
    "probabilities": ("logits", "probabilities", "probs", "prob", "logit"),
    "score": ("score", "value", "top1", "accuracy", "acc", "f1", "auc", "loss", "nll"),
    "group": ("group",),
    "block": ("block",),
    "dataset": ("dataset", "data set", "task", "benchmark", "env", "environment"),
}  # fmt: skip
# Kinds of columns that hold names.
TEXTS = ("variant", "seed", "fold", "item", "label", "prediction", "group", "block", "dataset")
STEPS = {"step", "steps", "epoch", "iteration", "iter", "time", "timestamp"}  # last words of columns along a training
SETTINGS = ("config", "params", "hparams", "args", "cfg", "hyperparameters", "metrics", "summary")  # above a name
RUNS = ("name", "run name", "run", "tags mlflow runname", "run id", "experiment", "experiment name")  # hold both
MOST_FOLDS = 10  # of one cross-validation; more may be repeated
NO_SEEDS = {"fold", "split", "dataset", "task", "benchmark"}  # columns whose rows are no repetitions
RIGHT = {"true": 1.0, "false": 0.0, "correct": 1.0, "incorrect": 0.0, "c": 1.0, "i": 0.0, "p": 0.5, "n": 0.0}
NOTHING = ("", "na", "n/a", "#n/a", "<na>", "nan", "none", "null", "-")  # where a number is asked for
FOLDS = {"fold", "split", "cv", "kfold"}
OF_STEPS = "Give --last to take the last row of each run, or --seed row if each row is a run."
MOST_LEFT_OUT = 0.05  # of the items, since a run has no score there


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
    dataset: str = ""  # that it was trained and tested on, where there are several

    def __str__(self) -> str:
        return self.name or f"{self.variant}, seed {self.seed}"

    @property
    def has_result(self) -> bool:
        """Whether the run has a result."""
        return bool(len(self.outcomes)) and bool(np.isfinite(self.outcomes.astype(float)).all())


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The runs of all variants, which are in the order of the table."""

    runs: list[Run]
    metric: Metric
    notes: list[str] = field(default_factory=list)  # what was taken without being told
    columns: list[str] = field(default_factory=list)  # how each was read, with its first values
    of_means: bool = False  # whether runs stand for published means
    planned: list[str] = field(default_factory=list)  # variants that come first, with or without runs
    unit: str = "item"  # what the runs are tested on, in sentences
    overlap: float = 1.0  # see `Dependence`
    factors: Mapping[str, Mapping[str, str]] | None = None  # variants as cells of a grid: factor → variant → level

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
        told = next((run.groups for run in self.runs if run.groups is not None and run.has_result), None)
        groups = None if told is None else np.unique(told.astype(str), return_inverse=True)[1]
        return groups if groups is not None and groups.max() else None

    @cached_property
    def blocks(self) -> dict[str, dict[str, str]] | None:
        """The block of each run by variant and seed; None where there is a single one."""
        known = [run for run in self.runs if run.has_result]
        if len({run.block for run in known}) < 2:
            return None
        return {name: {run.seed: run.block for run in known if run.variant == name} for name in self.variants}

    @cached_property
    def datasets(self) -> list[str]:
        """The data sets, if there are several."""
        names = list(dict.fromkeys(run.dataset for run in self.runs))
        return names if len(names) > 1 else []

    def on(self, dataset: str) -> "Outcomes":
        """Return the table of a data set."""
        runs = [run for run in self.runs if run.dataset == dataset]
        return replace(self, runs=runs, notes=[], planned=self.variants)

    def logarithms(self) -> "Outcomes":
        """Return the table of the scores' logarithms, by which a mean is geometric and a lead a factor."""
        if known := [run for run in self.runs if run.has_result and not (run.outcomes > 0).all()]:
            raise ValueError(f"--scale log: {known[0]} has a score of 0 or less, which has no logarithm. Leave it out.")
        runs = [replace(run, outcomes=np.log(run.outcomes)) if run.has_result else run for run in self.runs]
        return replace(self, runs=runs, metric=replace(self.metric, is_fraction=False, is_log=True))

    @property
    def dependence(self) -> Dependence:
        """What items have to do with each other."""
        return Dependence(self.groups, self.overlap)

    def of(self, variant: str) -> list[Run]:
        """Return the runs of a variant that have a result."""
        return [run for run in self.runs if run.variant == variant and run.has_result]


@dataclass(frozen=True)
class Reading:
    """How results are read, as far as that is told."""

    metric: str | None = None  # the column of the score, or its name
    lower: bool | None = None  # whether a lower score is better; None: as its name says
    columns: Mapping[str, str] = field(default_factory=dict)  # by kind (`NAMES`); of items or seeds also `row`
    pattern: str | None = None  # whose first group is the score in a log
    pick: str | None = None  # last or best: which match or row of a log is taken; None: the last
    folds: int | None = None  # the parts into which the images are split; None: as many as the table has
    runs: int | None = None  # behind each published mean, where no column says it
    spread: str | None = None  # beside a published mean: sd, the standard deviation of the runs, or se, its error


UNTOLD = Reading()


def from_frame(frame: pd.DataFrame, reading: Reading = UNTOLD) -> Outcomes:
    """Read a table with a row for each run and item, or for each run.

    Raises:
        ValueError: a column is missing, or a row cannot be read; the message names it and the remedy.
    """
    metric, lower, pick = reading.metric, reading.lower, reading.pick
    frame = frame if frame.index.nlevels > 1 else frame.reset_index(drop=True)
    columns, told = dict(reading.columns), frame.attrs
    if FOLDS & {*words_of(columns.get("seed", ""))[-1:]}:
        columns["fold"] = columns.pop("seed")
    if metric is not None and (column := _column(frame, metric)) is not None:
        columns.setdefault("score", column)
    frame, factors = _cells(frame, columns.get("variant", ""))
    known, notes = _known_columns(frame, columns)
    notes[:0] = told.get("notes", [])
    table = pd.DataFrame({kind: frame[name] for kind, name in known.items()}, index=frame.index)
    for kind in (kind for kind in TEXTS if kind in table):
        table[kind] = _as_names(table[kind])
        if kind != "prediction" and (empty := table[kind] == "").any():
            where = f"{_row(frame.index[empty][0])} has no {kind} in column {known[kind]}"
            raise ValueError(f"{where}: {int(empty.sum())} such rows. Name it, or remove the rows.")
    if "variant" not in table:
        table.insert(0, "variant", "the model")
    if "dataset" in table:  # a variant on each is one by itself until all is read
        table["of"] = table["variant"]
        table["variant"] += " on " + table["dataset"]
    table["outcome"], name = _outcomes(table, frame, known, "score" in columns)
    _told_apart(table, frame, known, columns, notes)
    if pick == "best" and ("item" in table or not table.duplicated(["variant", "seed"]).any()):
        raise ValueError("--best chooses among the rows of a log, or the matches of --read. Leave it out.")
    if "item" not in table:
        lower = mode_of(metric, name) == "min" if lower is None and pick == "best" else lower
        table = _of_logs(table, frame, known, pick, bool(lower), notes)
    table, overlap, unit = _of_folds(table, reading.folds, notes)
    _refuse_second_rows(table, frame)
    own = name in ("score", "value") if name == known.get("score") else names_fraction(metric or "")
    if metric not in (None, name) and "score" not in columns and not own:
        raise ValueError(f"--metric {metric}: there is no such column. There are {_listed(frame)}.")
    missing = int((table["prediction"] == "").sum()) if "prediction" in table and name == "accuracy" else 0
    if missing and "correct" not in table:
        notes.append(f"{missing} rows have no prediction, and count as wrong.")
    mode = mode_of(metric, name) if lower is None else "min" if lower else "max"
    if mode is None:
        raise ValueError(f"{metric or name}: is a higher or a lower score better? Give --higher or --lower.")
    scored = Metric(metric or name, mode, _as_fractions(table, metric or name, notes))
    if "block" in table and (table.groupby(["variant", "seed"])["block"].nunique() > 1).any():
        raise ValueError(f"A run has rows of several blocks; --block {known['block']} must have one value a run.")
    if "group" in table and table["group"].nunique() == 1:
        only = f"--group {known['group']}: its only value is {table['group'].iloc[0]}"
        raise ValueError(f"{only}. Give a column of several groups, or leave it out.")
    table = _with_scores(table, notes)
    right = unit == "item" and _right_or_wrong(table)
    runs = [_run(rows, key, right) for key, rows in table.groupby(["variant", "seed"], sort=False)]
    where, kinds = told.get("where", {}), {name: kind for kind, name in known.items()} | told.get("renamed", {})
    notes.insert(0, _summary(table, known, where, unit, scored))
    wide = next((f"a {kind}" for kind in ("variant", "seed", "fold") if where.get(kind) == "columns"), "left out")
    roles = {name: kinds.get(name, "left out" if name in told["left"] else wide) for name in told.get("head", {})}
    explained = [f"{name}: {role}; {', '.join(told['head'][name])}" for name, role in roles.items()]
    of_means = where.get("seed") == "published means"
    return Outcomes(runs, scored, notes, explained, of_means, unit=unit, overlap=overlap, factors=factors)


def _cells(frame: pd.DataFrame, variant: str) -> tuple[pd.DataFrame, dict[str, dict[str, str]] | None]:
    """Return a table whose variant is the cell of the columns A,B, and the level of each by column; else as it is."""
    parts = [part.strip() for part in variant.split(",")]
    if len(parts) < 2 or _column(frame, variant) is not None:
        return frame, None
    columns = [_column(frame, part) for part in parts]
    if None in columns:
        missing = parts[columns.index(None)]
        raise ValueError(f"--variant {variant}: there is no column {missing}. There are {_listed(frame)}.")
    levels = {str(column): _as_names(frame[column]) for column in columns}
    cells = pd.Series(map(", ".join, zip(*levels.values(), strict=True)), frame.index)
    factors = {column: dict(zip(cells, names, strict=True)) for column, names in levels.items()}
    return frame.drop(columns=columns).assign(**{variant: cells}), factors


def _column(frame: pd.DataFrame, name: str) -> Any:
    """Return the column of a name, else the first whose name differs in capitals and signs alone."""
    return name if name in frame else next((each for each in frame if words_of(each) == words_of(name)), None)


def recognized(frame: pd.DataFrame, kind: str) -> list[str]:
    """Return the columns that have a usual name of a kind, the most usual first; of scores, those of tests first."""
    by_words = {}
    for name in reversed(frame.columns):
        words = words_of(name)
        by_words[" ".join(words[1:] if len(words) > 1 and words[0] in SETTINGS else words)] = name
    splits = ("test ", "", "eval ", "val ", "validation ") if kind == "score" else ("",)
    return [by_words[split + name] for name in NAMES[kind] for split in splits if split + name in by_words]


def _known_columns(frame: pd.DataFrame, columns: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the column of each kind, and a note on those that were recognized by a name of many."""
    known: dict[str, Any] = {}
    words = {" ".join(words_of(name)): name for name in frame}
    of_training = [words[name.removeprefix("val ")] for name in words if name.removeprefix("val ") in {*words} - {name}]
    notes = [f"{name}: numbers of rows, left out." for name in frame if str(name).startswith("Unnamed: ")]
    for kind, name in columns.items():
        if kind not in NAMES:
            raise ValueError(f"columns: {kind} is no kind of column. Give one of {', '.join(NAMES)}.")
        if (column := _column(frame, name)) is not None:
            known[kind] = column
        elif (kind, name) not in (("item", "row"), ("seed", "row")):
            raise ValueError(f"--{kind} {name}: there is no such column. There are {_listed(frame)}.")
    for kind in NAMES:
        if kind in columns or (kind == "correct" and {"score", "prediction"} & known.keys()):
            continue
        present: list[Any] = [name for name in recognized(frame, kind) if name not in {*known.values(), *of_training}]
        if kind == "fold":  # and not the names of splits, like test
            present = [name for name in present if frame[name].astype(str).str.fullmatch(r"\D*\d+(\.0)?").all()]
        if kind == "score" and not {"correct", "prediction", "probabilities"} & known.keys():
            scores = _scores(frame.drop(columns=of_training))
            present = [name for name in present if name in scores or not mode_of(str(name))] or scores
            if len(scores) > 1 and not recognized(frame[scores], kind):
                raise ValueError(f"Which column is the score? Give one of {', '.join(map(str, scores))} as --metric.")
        if present and kind == "group":  # a group of each item, and more than one
            group = _as_names(frame[present[0]])
            several = "item" in known and group.nunique() > 1 and (group != "").all()
            of_items = several and (group.groupby(_as_names(frame[known["item"]])).nunique() == 1).all()
            present = present if of_items else []
            notes += ["group: the column group, whose items are taken to be alike."] * len(present)
        elif present and kind == "dataset":  # of which a variant has several
            names, variants = _as_names(frame[present[0]]), known.get("variant")
            of = names if variants is None else names.groupby(_as_names(frame[variants])).nunique()
            present = present if (of.nunique() if variants is None else of.max()) > 1 else []
            notes += [f"dataset: the column {present[0]}." for _ in present]
        elif present and present[0] != kind:
            notes.append(f"{kind}: the column {present[0]}.")
        if present:
            known[kind] = present[0]
    return known, notes


def _scores(frame: pd.DataFrame) -> list[Any]:
    """Return what may be the score of all runs: accuracy, else a score, a loss, or latency; on test images, if any."""
    runs = [names[0] for kind in ("variant", "seed") if (names := recognized(frame, kind))]
    found: dict[tuple[bool, int, int], list[Any]] = {}
    for name in frame:
        words = {*words_of(name)}
        if (mode := mode_of(str(name))) and not words & {"train", "stderr", "std", "rank", "time", "top5"}:
            filled = frame[name].notna() & (frame[name].astype(str) != "")
            of_all = bool(filled.groupby([frame[run] for run in runs]).any().all()) if runs else True
            kind = 0 if words & {"accuracy", "acc", "top1"} else 1 if mode == "max" else 2 + ("latency" in words)
            split = next((place for place, word in ((0, "test"), (2, "eval"), (2, "val")) if word in words), 1)
            found.setdefault((not of_all, kind, split), []).append(name)
    return found[min(found)] if found else []


def _told_apart(
    table: pd.DataFrame, frame: pd.DataFrame, known: dict[str, str], columns: Mapping[str, str], notes: list[str]
) -> None:
    """Add seeds, and items where they are asked for, and remove what numbers rows and no items; notes say which."""
    steps = _steps(frame, table)
    if "item" in columns and (STEPS & {*words_of(columns["item"])[-1:]} or (steps and "item" not in table)):
        what = steps[0] if steps else columns["item"]
        raise ValueError(f"--item {columns['item']}: {what} counts steps of a training, not test items. {OF_STEPS}")
    run = ["variant", "seed"] if "seed" in table else ["variant"]
    if "item" in table and "item" not in columns and table["item"].nunique() > 1:
        of_file = frame.index.get_level_values(0) if frame.index.nlevels > 1 else np.zeros(len(frame))
        of_one = [of_file, table["dataset"]] if "dataset" in table else of_file
        numbers, runs = pd.to_numeric(table["item"], errors="coerce"), table.groupby(of_one)[run].nunique()
        numbered = any((numbers.groupby(of_file).rank() == numbers + first).all() for first in (0, 1))
        if not table.duplicated(run).any() or (numbered and (runs.max(axis=1) > 1).all()):
            notes[:] = [note for note in notes if not note.startswith("item: ")]
            notes.append(f"{known['item']}: numbers or names of rows, left out.")
            del table["item"]
    if "seed" not in table:
        by_row = columns.get("seed") == "row"
        items = "item" in columns or {"item", "fold"} & {*table} or steps or _right_or_wrong(table)
        if not by_row and not items and table.duplicated("variant").any():
            others = [name for name in frame if name not in known.values()]
            texts = [n for n in others if pd.to_numeric(frame[n].astype(str), errors="coerce").isna().any()]
            by_row = not texts and not any(NO_SEEDS & {*words_of(name)} for name in others)
            notes += ["No column names seeds: each row is taken to be a run."] * by_row
        table["seed"] = (table.groupby("variant").cumcount() + 1).astype(str) if by_row else "1"
    run = ["variant", "seed"]
    if "prediction" in known and "label" in known and "item" not in table and table.duplicated(run).any():
        labels = [tuple(rows) for _, rows in table.groupby(run, sort=False)["label"]]
        if all(each == labels[0] for each in labels):
            columns = {**columns, "item": "row"}
            notes.append("No column names items: they are the numbers of the rows, whose labels agree in all runs.")
    if columns.get("item") == "row" and "item" not in table:
        table["item"] = table.groupby(["variant", "seed"], sort=False).cumcount().astype(str)


def _of_logs(
    table: pd.DataFrame, frame: pd.DataFrame, known: Mapping[str, str], pick: str | None, lower: bool, notes: list[str]
) -> pd.DataFrame:
    """Return one row of each run: of a log, whose steps rise, the last that has a score, or the best."""
    run = [kind for kind in ("variant", "seed", "fold") if kind in table]
    steps = _steps([name for name in frame if name not in known.values()], table)
    if not table.duplicated(run).any() or not (pick or steps):
        return table
    values = frame[known["score"] if "score" in known else known["correct"]]
    diverged = ~values.isin(("", None)) & frame.map(lambda cell: cell == "nan").any(axis=1)
    rows = table[table["outcome"].notna() | diverged]
    rows = pd.concat([rows, table[~table.set_index(run).index.isin(rows.set_index(run).index)].drop_duplicates(run)])
    if steps:
        at = pd.to_numeric(frame.loc[rows.index, steps[0]], errors="coerce")
        if pick is None and rows.assign(at=at).duplicated([*run, "at"]).any():
            return table
        order = rows.groupby(run, sort=False).ngroup()
        rows = rows.assign(at=at, order=order).sort_values(["order", "at"], kind="stable")
        rows = rows.drop(columns=["at", "order"])
    if pick == "best":
        notes.append("The best value of each run: chosen on the images that it is of, it flatters, long logs most.")
        rows = rows.sort_values("outcome", ascending=not lower, kind="stable", na_position="first")
    else:
        notes.append(f"{steps[0] if steps else 'rows'}: along a training, of which the last value is taken.")
    return rows.groupby(run, sort=False).tail(1).sort_index()


def _of_folds(table: pd.DataFrame, folds: int | None, notes: list[str]) -> tuple[pd.DataFrame, float, str]:
    """Return a table of folds as one of items, by how much the variance over these grows, and what an item is.

    A score of each fold is an item of one run. The variance of the mean difference over n folds of K parts is that of
    a fold times 1/n + 1/(K − 1), test over training images, since folds share these (Nadeau and Bengio 2003, Machine
    Learning 52, 239-281). Where each item's outcome is known, it is K/(K − 1) times that of independent items.
    """
    if folds is not None and "fold" not in table and "item" not in table:
        table = table.assign(fold=table["seed"], seed="1")
    if "fold" not in table or (folds or table.groupby("seed")["fold"].nunique().max()) < 2:
        return table, 1.0, "item"
    parts = folds or int(table.groupby("seed")["fold"].nunique().max())
    if "item" in table:
        notes.append(f"{parts} folds, which train each other's models: variance over items times {parts}/{parts - 1}.")
        return table.drop(columns="fold"), parts / (parts - 1), "item"
    repeats = table["seed"].nunique()
    if folds is None and repeats == 1 and parts > MOST_FOLDS:
        raise ValueError(f"{parts} folds: into how many parts are the images split each time? Give --folds K.")
    name = table["fold"] if repeats == 1 else table["seed"] + "/" + table["fold"]
    table = table.assign(item=name, seed="1").drop(columns=["fold", *({"correct"} & {*table})])
    n = table["item"].nunique()
    notes.append(f"{n} folds, each a test of 1/{parts} of the images: variance of a fold times 1/{n} + 1/{parts - 1}.")
    return table, 1 + n / (parts - 1), "fold"


def _summary(table: pd.DataFrame, known: Mapping[str, str], where: Mapping[str, str], unit: str, metric: Metric) -> str:
    """Return what was read in one line, like 3 variants (columns) × 5 seeds (rows), val_acc, higher is better."""
    several, parts = {"variant": table["of" if "of" in table else "variant"].nunique()}, []
    if (seeds := int(table.groupby("variant")["seed"].nunique().max())) > 1 or unit == "item":
        several["seed"] = seeds
    if "item" in table:
        several[unit] = table["item"].nunique()
    several |= {"data set": table["dataset"].nunique()} if "dataset" in table else {}
    for kind, number in several.items():
        name = kind.replace(" ", "")
        place = where.get(name) or (f"column {known[name]}" if known.get(name, name) != name else "")
        parts.append(counted(number, kind) + (f" ({place})" if place else ""))
    way = "higher" if metric.mode == "max" else "lower"
    return f"{' × '.join(parts)}, {metric.name}, {way} is better"


def _refuse_second_rows(table: pd.DataFrame, frame: pd.DataFrame) -> None:
    """Raise ValueError for a second row of a run without items, or of an item in another file."""
    run = ["variant", "seed"]
    again = table[table.duplicated([*run, "item"] if "item" in table else run)]
    if again.empty:
        return
    second: Any = again.iloc[0]
    first: Any = table[(table[run] == second[run]).all(axis=1)].iloc[0]
    what = f"{_row(second.name)} is a second one of {second['variant']}, seed {second['seed']}"
    if isinstance(second.name, tuple) and first.name[0] != second.name[0]:
        where = "Name the seed in the path, like logs/{variant}/{seed}.txt, or leave one of the files out."
        raise ValueError(f"{what}, beside {first.name[0]}. {where}")
    if "item" in table:
        return  # and a check says so
    if steps := _steps(frame, table):  # that come twice
        raise ValueError(f"{what}, and {steps[0]} counts steps of a training. {OF_STEPS}")
    raise ValueError(
        f"{what}, and no column names the items: {_listed(frame)}.\nWhat are the rows? Several data sets: --dataset "
        "COLUMN. Sizes or settings: a variant of two columns, --variant model,size. Test items: --item COLUMN, or "
        "--item row for the number of the row. Runs: --seed COLUMN or --seed row; else remove one."
    )


def _steps(names: Iterable[Any], table: pd.DataFrame) -> list[Any]:
    """Return the names that count steps of a training, which has scores between right and wrong."""
    if _right_or_wrong(table):
        return []
    times = ("time", "wall time", "timestamp", "relative time")
    along = {n: words for n in names if STEPS & {*(words := words_of(n))[-1:]} and "best" not in words}
    return sorted(
        (n for n, w in along.items() if w[-1] not in times or " ".join(w) in times), key=lambda n: along[n][-1] in times
    )


def _right_or_wrong(table: pd.DataFrame) -> bool:
    return bool(table["outcome"].dropna().isin((0, 1)).all())


def _outcomes(
    table: pd.DataFrame, frame: pd.DataFrame, known: Mapping[str, str], scored: bool
) -> tuple[pd.Series, str]:
    """Return the outcome of each row, of the score where it was asked for, and the name of the metric."""
    kinds = {"score"} if scored else {*table.columns}
    if "correct" in kinds:
        return _numbers(table["correct"], known["correct"]), "accuracy"
    if kinds >= {"prediction", "label"}:
        return _is_right(table), "accuracy"
    if kinds >= {"probabilities", "label"}:
        guesses = []  # nan where a number is nan, or none is there
        for row, value in table["probabilities"].items():
            try:
                logits = np.asarray(json.loads(value or "NaN") if isinstance(value, str) else value, dtype=float)
            except (ValueError, TypeError):
                logits = np.zeros(0)
            if not np.isnan(logits).any() and (logits.ndim != 1 or len(logits) < 2):
                what = f"{_row(row)}, column {known['probabilities']}: {value} is no list of a number for each class"
                raise ValueError(f"{what}. Give --prediction or --score COLUMN.")
            guesses.append(math.nan if np.isnan(logits).any() else float(logits.argmax()))
        known_guesses = pd.Series(guesses, table.index, dtype=float)
        is_right = known_guesses == _numbers(table["label"], known["label"], {})
        return is_right.astype(float).where(known_guesses.notna()), "accuracy"
    if "score" in kinds:
        return _numbers(table["score"], known["score"]), known["score"]
    others = [name for name in frame if name not in known.values()]
    numbers = [name for name in others if pd.to_numeric(frame[name].astype(str), errors="coerce").notna().all()]
    sets = f" If {listed([*map(str, numbers)])} are data sets: --dataset columns, with --lower or --higher."
    raise ValueError(
        f"No column has outcomes in {counted(len(table), 'row')} of {_listed(frame)}. For runs give --score "
        f"{numbers[0] if numbers else 'COLUMN'}, with --lower or --higher; for items --correct COLUMN (1 or 0), or "
        "--prediction COLUMN with --label COLUMN." + sets * (len(numbers) > 1)
    )


def _is_right(table: pd.DataFrame) -> pd.Series:
    """Return 1 where the prediction is the label, else 0.

    Predictions of another spelling, 1.0 or True for 1, are replaced in place by the label, if it is the only one.
    """

    def plain(name: str) -> str:
        return {"true": "1", "false": "0"}.get(name.lower(), re.sub(r"^(-?\d+)\.0$", r"\1", name))

    labels = {*table["label"]}
    by_plain = {plain(label): label for label in labels}
    if len(by_plain) == len(labels):
        spelled = {name: by_plain.get(plain(name), name) for name in {*table["prediction"]}}
        table["prediction"] = table["prediction"].map(spelled)
    for run, rows in table.groupby([kind for kind in ("variant", "seed") if kind in table], sort=False):
        found, there = {*rows["prediction"]} - {""}, {*rows["label"]}
        other_kind = {name.isdecimal() for name in found}.isdisjoint(name.isdecimal() for name in labels)
        # Else they may answer open questions, or the run may always name one class.
        if found and labels.isdisjoint(found) and (other_kind or (len(found) > 1 and 2 * len(there) <= len(rows))):
            what = f"{', seed '.join(map(str, run))} predicts {listed(sorted(found))}"
            raise ValueError(f"{what}, and labels are {listed(sorted(labels))}. Give both one kind of names.")
    return (table["prediction"] == table["label"]).astype(float)


def _row(name: Any) -> str:
    """Return which row a name of the index means, in words: of one table, or of a file of several."""
    return f"{name[0]}, row {name[1]}" if isinstance(name, tuple) else f"Row {name}"


def _numbers(values: pd.Series, column: str, known: Mapping[str, float] = RIGHT) -> pd.Series:
    """Return a column as numbers, 81 % as 0.81; known words like C, I, true and false are 1 and 0, no value is nan."""
    words = values.astype(object).map(lambda value: value.strip().lower() if isinstance(value, str) else value)
    percent = words.map(lambda word: isinstance(word, str) and word.endswith("%"))
    plain = words.map(lambda word: known.get(word, word.rstrip("% ")) if isinstance(word, str) else word)
    numbers = pd.to_numeric(plain, errors="coerce").astype(float)
    if (wrong := numbers.isna() & words.notna() & ~words.isin(NOTHING)).any():
        row = values.index[wrong][0]
        remedy = "Remove the row or mend it; numbers have a point, like 81.3."
        raise ValueError(f"{_row(row)}, column {column}: {values[row]!r} is not a number. {remedy}")
    return numbers.where(~percent & ("%" not in str(column)), numbers / 100)


def _as_names(values: pd.Series) -> pd.Series:
    """Return names as text, empty where there is none; a whole number among floats has no decimal point."""

    def name(value: Any) -> str:
        whole = isinstance(value, float | np.floating) and value.is_integer()
        return unicodedata.normalize("NFC", str(int(value) if whole else value)).strip()

    values = values.astype(object)
    try:
        codes, known = pd.factorize(values)  # -1: no name
    except TypeError:  # lists
        codes, known = pd.factorize(values.astype(str))
    return pd.Series(np.array([*map(name, known), ""], dtype=object)[codes], values.index, dtype=object)


def _as_fractions(table: pd.DataFrame, name: str, notes: list[str]) -> bool:
    """Divide outcomes in per cent by 100, in place; return whether they are fractions."""
    values, most = table["outcome"], 1 if "correct" in table and "item" in table else 100
    percent = "score" in table and table["score"].map(lambda value: str(value).strip().endswith("%")).any()
    if not (_right_or_wrong(table) or names_fraction(name) or percent):
        return False
    if (wrong := values.notna() & ~values.between(0, most)).any():
        row = table.index[wrong][0]
        raise ValueError(f"{_row(row)}: {name} is {values[row]:g}, not from 0 to {most}. Remove the row or mend it.")
    if values.max() > 1:
        highest = table.groupby(["variant", "seed"], sort=False)["outcome"].max()
        low = highest[highest <= 1]
        if len(low) and 100 * low.max() > highest.max() / 2:  # else a variant may be at chance
            first, second = (", seed ".join(map(str, each.index[int(each.argmax())])) for each in (low, highest))
            what = f"{name}: {first} has at most {low.max():g}, {second} {highest.max():g}"
            raise ValueError(f"{what}. Give all as fractions, or all in per cent.")
        table["outcome"] /= 100
        notes.append(f"{name} is in per cent.")
    return True


def _with_scores(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Return the table without the items that a run has no score of; a run without any score has failed."""
    lacking = ~np.isfinite(table["outcome"])
    lacking &= ~lacking.groupby([table["variant"], table["seed"]]).transform("all")
    if "item" not in table or not lacking.any():
        return table
    items, first = table.loc[lacking, "item"].unique(), table[lacking].iloc[0]
    known = table["item"].nunique()
    text = f"{counted(len(items), 'item')} of {known:,} without a score, like {first['item']} of {first['variant']}"
    if len(items) > MOST_LEFT_OUT * known:
        most = f"more than {100 * MOST_LEFT_OUT:g} %"
        raise ValueError(f"{text}, seed {first['seed']}: {most}. Score them, count them as wrong, or remove such runs.")
    notes.append(f"{text}, seed {first['seed']}: left out for all variants.")
    return table[~table["item"].isin(items)]


def _run(rows: pd.DataFrame, key: Any, right_or_wrong: bool) -> Run:
    """Return a run; of a table that says right or wrong for each item its outcomes are bool, so that all runs agree."""
    variant, seed = map(str, key)
    variant, dataset = (rows[kind].iloc[0] for kind in ("of", "dataset")) if "of" in rows else (variant, "")
    outcomes = rows["outcome"].to_numpy()
    block = str(rows["block"].iloc[0]) if "block" in rows else ""
    if "item" not in rows:
        return Run(variant, seed, outcomes, block=block, dataset=dataset)
    if right_or_wrong and not np.isnan(outcomes).any():
        outcomes = outcomes.astype(bool)
    items = rows["item"].to_numpy(dtype=str)
    order = np.argsort(items, kind="stable")
    kinds = ("label", "prediction", "group")
    labels, predictions, groups = (rows[kind].to_numpy()[order] if kind in rows else None for kind in kinds)
    return Run(variant, seed, outcomes[order], items[order], labels, predictions, groups, block=block, dataset=dataset)


def _listed(frame: pd.DataFrame) -> str:
    return ", ".join(map(str, frame.columns))
