"""Data of any shape → a table with a row for each run, for each run and item, or for each step of a run.

    table_of   a dictionary by variant, arrays, tensors, records, any data frame → a table
    in_rows    a wide table, whose columns are variants, seeds or runs, or a table of published means → rows

What a table is read as is told by `attrs`: "where" (of variants, seeds, folds: columns or rows), "notes", "left" (names
of columns), and "head" (its first rows as they were).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from referee.formats import listed
from referee.metric import mode_of, words_of
from referee.outcomes import NAMES, RUNS, STEPS, TEXTS, Reading, recognized

WORDS = r"(?P<seed>seed|run|trial|version|rep|repeat|repetition|replicate|s|r)|(?P<fold>fold|split|cv)"
# seed_0, run 1, vit-seed3, split0_test_score, acc (seed 2), 7
NUMBERED = re.compile(
    rf"(?:(?P<name>.*?)[-_. /(]*(?:{WORDS})[-_. =:#]*)?(?P<number>\d+)\)?(?:[-_. /]+(?P<rest>\D.*))?", re.IGNORECASE
)
PLAIN = re.compile(r"(?P<name>.*[^\W_])[-_ ](?P<letter>[sr]?)(?P<number>\d+)", re.IGNORECASE)  # vit-s0, vit_1
SPREAD = {"sd": {"std", "sd", "stdev", "stddev", "deviation"}, "se": {"se", "sem", "stderr"}}
MEAN = {"mean", "avg", "average"}
COUNT = {"n", "seeds", "runs", "count", "trials", "repeats", "repetitions"}
SIDE = {"time", "runtime", "seconds", "duration", "rank", "ranking", "median", "min", "max", "ci", "support", "size",
        "params", "parameters", "flops", "gflops", "macs", "memory", "lr", "total", "sum", "p", "delta", "samples",
        "state", "notes", "created", *STEPS, *MEAN, *COUNT, *SPREAD["sd"], *SPREAD["se"]}  # fmt: skip
BESIDE = {"fit", "score", "wall", "train", "training", "test", "val", "eval", "elapsed", "num", "number", "of", "per",
          "second", "steps", "global", "relative", "m", "g", "s", "h", "ms", "standard", "error", "images"}  # fmt: skip
DIGITS = r"[-+−]?\d*\.?\d+(?:[eE][-+]?\d+)?"
WITH_SPREAD = re.compile(  # 80.1 ± 0.8, 80.1 +- 0.8, $80.1_{\pm 0.8}$, 80.1 (0.8)
    rf"({DIGITS})\s*%?[\s$_{{}}]*(?:(?:±|\+/?[-−]|\\pm)\s*\$?\s*(?P<of>{DIGITS})|\((?=\d*\.)(?P<within>{DIGITS})\s*%?\)$)"
)
SUMMARY = {*MEAN, "std", "sd", "stdev", "median", "rank", "ranking", "overall", "all"}  # rows that are no runs
Cell = tuple[str, str, str, str]  # what a column of a wide table has: variant or "", seed or fold, its number, metric
MOST_SCORES = 100  # values of a variant, above which they may be losses of items
MOST_ONES = 10  # right answers, up to which they may be the scores of seeds


# ---- Python's objects


def table_of(data: Any, what: str | None = None) -> pd.DataFrame:
    """Return data as a table, see `judge`; `what` says whether a single dimension is scores or items."""
    if isinstance(data, pd.DataFrame):  # with its index as columns, where that has names
        index = data.index
        if index.nlevels == 1 and index.name is None and not pd.api.types.is_numeric_dtype(index.dtype):
            data = data.rename_axis("item" if len(data) > MOST_SCORES else "variant")
            return data.reset_index(drop=data.index.name in data)
        return data.reset_index([n for n in index.names if n is not None and n not in data]).reset_index(drop=True)
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__dataframe__"):  # polars, pyarrow, duckdb; modin
        import pyarrow.interchange

        is_arrow = hasattr(data, "__arrow_c_stream__")
        return (pyarrow.table(data) if is_arrow else pyarrow.interchange.from_dataframe(data)).to_pandas()
    if isinstance(data, Mapping):
        columns = {name: _plain(value) for name, value in data.items()}
        return pd.DataFrame(columns) if _has_columns(data) else _by_variant(data, what)
    if isinstance(data, list) and data and isinstance(data[0], Mapping):
        return pd.DataFrame(data)
    what = f"{type(data).__name__} of the shape {np.shape(_plain(data))}"
    raise ValueError(f"{what}: whose scores are these? Give a dictionary by variant.")


def _has_columns(data: Mapping[Any, Any]) -> bool:
    """Return whether the keys of a dictionary name what a column holds, and not variants or seeds."""
    names = pd.DataFrame(columns=[*map(str, data)])
    return any(recognized(names, kind) for kind in NAMES)


def _plain(value: Any) -> Any:
    """Return a tensor, an array or a sequence as an array of numbers, or else as a list."""
    if hasattr(value, "detach"):  # a tensor, maybe of 16 bits or on a device
        value = value.detach().cpu()
        value = value.double() if value.is_floating_point() else value
    if isinstance(value, list | tuple | range):
        if any(isinstance(each, Mapping | str) for each in value):
            return list(value)
        value = [_plain(each) for each in value]
    try:
        return np.asarray(value) if isinstance(value, list) or hasattr(value, "__array__") else value
    except ValueError:  # of several lengths
        return value


def _by_variant(data: Mapping[Any, Any], what: str | None) -> pd.DataFrame:
    """Return the table of a dictionary by variant, of values that are any of what the README lists."""
    frames: list[pd.DataFrame] = []
    arrays: list[tuple[Any, Any, np.ndarray]] = []  # of a variant and a seed
    for variant, value in data.items():
        if isinstance(value, pd.DataFrame) or (isinstance(value, Mapping) and _has_columns(value)):
            frames.append(table_of(value, what).assign(variant=variant))
        elif isinstance(value, Mapping):
            arrays += [(variant, str(seed), np.asarray(_plain(each))) for seed, each in value.items()]
        else:
            arrays.append((variant, None, np.asarray(_plain(value))))
    values = [value for *_, each in arrays for value in each.ravel()]
    numbers = pd.to_numeric(pd.Series(values), errors="coerce").dropna()
    is_right = bool(numbers.isin((0, 1)).all())
    for variant, seed, each in arrays:
        if each.ndim > 2:
            raise ValueError(f"{variant}: an array of the shape {each.shape}. Give scores, or (seeds, items).")
        if each.ndim == 2 and what is None and each.shape[0] > max(each.shape[1], MOST_SCORES) > 1 != each.shape[1]:
            raise ValueError(f'{variant}: {each.shape} is (seeds, items)? Give what="items" if so, else transpose it.')
        items = each.ndim == 2 and each.shape[1] > 1
        table = np.atleast_2d(each)
        if each.ndim == 1:
            items = what == "items" or (what is None and (seed is not None or is_right))
            short = is_right and len(each) <= MOST_ONES and numbers.nunique() == 1
            if what is None and seed is None and (short or (not is_right and len(each) > MOST_SCORES)):
                what_are = f"{variant} has {len(each)} values: of as many seeds, or of one model on as many items?"
                raise ValueError(f'{what_are} Give what="scores" or what="items".')
            table = table if items else table.T
        runs = pd.DataFrame(table, range(1, len(table) + 1) if seed is None else [seed] * len(table))
        value = "correct" if is_right and items else "score"
        runs = runs.rename_axis("seed").melt(var_name="item", value_name=value, ignore_index=False).reset_index()
        frames.append((runs if items else runs.drop(columns="item")).assign(variant=variant))
    found = pd.concat(frames, ignore_index=True)
    if {"correct", "score"} <= {*found}:
        raise ValueError("Some variants have scores and some outcomes of items. Give all the same.")
    return found


# ---- wide tables


def in_rows(frame: pd.DataFrame, reading: Reading) -> pd.DataFrame:
    """Return a table with a row for each value of a wide one; a table that has rows already stays as it is."""
    metric, columns, attrs = reading.metric, reading.columns, frame.attrs
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    if frame.columns.has_duplicates:
        raise ValueError(f"Two columns have the name {frame.columns[frame.columns.duplicated()][0]}. Rename one.")
    notes, where = [*attrs.get("notes", [])], dict[str, str]()
    head = attrs.get("head") or {name: [str(value)[:40] for value in frame[name].head(3)] for name in frame}
    before, frame = frame, _with_variants(frame, columns, notes)
    renamed = {name: "variant" for name in before if name not in frame} if "variant" in frame else {}
    if "fold" not in frame and {"fit_time", "score_time"} <= {*frame}:  # of scikit-learn's cross_validate
        of_model = frame.groupby(recognized(frame, "variant")[:1] or np.zeros(len(frame)))
        frame = frame.assign(fold=of_model.cumcount())
        where = {"fold": "rows"}
    kinds: dict[str, Any] = {}
    for kind in NAMES:
        if known := [columns[kind]] if columns.get(kind) in frame else recognized(frame, kind):
            kinds[kind] = known[0]
    ids: list[Any] = [name for kind, name in kinds.items() if kind not in ("correct", "score", "probabilities")]
    others: list[Any] = [name for name in frame if name not in ids and not str(name).startswith("Unnamed: ")]
    said = {name: {*words_of(name)} for name in others}  # what is no outcome: a time, a rank, a mean, a count, a step
    rest = {name: [w for w in said[name] - SIDE - BESIDE if not mode_of(w) and not w.isdecimal()] for name in others}
    side = [name for name in others if said[name] & SIDE and not rest[name]]
    values = [name for name in others if name not in side and _is_numeric(frame[name])]
    chart = {name: name.rpartition(" - ")[::2] for name in others if " - " in name}  # run - metric, of W&B
    has_outcomes = bool(kinds.keys() & {"correct", "score", "prediction", "probabilities"})
    labels = (
        {*frame[kinds["label"]].map(str)} if "label" in kinds and not {"variant", "prediction"} & {*kinds} else set()
    )
    guesses = [name for name in others if labels and 2 * frame[name].map(str).isin(labels).sum() > len(frame)]
    spreads = [name for name in others if len(frame) < 1_000 and _spreads_of(frame[name]) is not None]
    wide: dict[str, Cell] = {}
    if chart and not has_outcomes and "variant" not in kinds:
        names, where = runs_of(dict.fromkeys(run for run, _ in chart.values())), {"variant": "columns"}
        scores = {name: each for name, each in chart.items() if each[1][:1] != "_" and each[1][-5:-3] != "__"}
        wide = {name: (names[run][0], "seed", names[run][1], of) for name, (run, of) in scores.items()}
        ids = [name for name in frame if name not in chart]
    elif columns.get("dataset") == "columns" != kinds.get("dataset") or (
        len(spreads) > 1 and "dataset" in kinds and "variant" not in kinds
    ):  # a table of a paper, of methods and data sets
        cells = [name for name in others if name in {*values, *spreads}]
        what = "columns" if columns.get("dataset") == "columns" else "variant"
        long = frame.melt([name for name in frame if name not in cells], cells, what, metric or "score")
        where = {"dataset" if what == "columns" else "variant": "columns"}
        long.attrs = attrs | {"notes": notes, "head": head, "where": where}
        return in_rows(long, reading)
    elif not guesses and (wide := _numbered(values, metric, "variant" in kinds)):
        in_columns = any(variant for variant, *_ in wide.values())
        texts = [name for name in others if not _is_numeric(frame[name]) and frame[name].is_unique]
        if "variant" not in kinds and not in_columns and len(texts) == 1:
            frame, ids = frame.assign(variant=frame[texts[0]]), [*ids, "variant"]
        where = {next(iter(wide.values()))[1]: "columns", "variant": "columns" if in_columns else "rows"}
    elif means := _means(frame, kinds, others, reading):
        frame, text = means
        notes.append(text)
        where, renamed = {"variant": "rows", "seed": "published means"}, frame.attrs["renamed"]
    elif not {"variant", "prediction"} & {*kinds} and (guesses or not has_outcomes):
        items, several = bool(guesses) or "item" in kinds or "item" in columns, guesses or values
        if len(several) > 1 and (items or not any(map(mode_of, several))):
            is_right = all(pd.to_numeric(frame[name], errors="coerce").isin((0, 1)).all() for name in several)
            value = "prediction" if guesses else "correct" if is_right and items else metric or "score"
            wide = {name: (variant, "seed", seed, value) for name, (variant, seed) in runs_of(several).items()}
            where = {"variant": "columns", "item" if items else "seed": "rows"}
        rows = [name for name in others if name not in wide and frame[name].is_unique and not _is_numeric(frame[name])]
        told = [NUMBERED.fullmatch(str(name)) for name in frame[rows[0]]] if rows else []
        of_runs = all(run and not run["name"] for run in told)  # like seed0
        if wide and not guesses and len(frame) > 1 and not of_runs and not kinds.keys() & {*TEXTS}:
            raise ValueError(f"What are {listed([*frame[rows[0]].map(str)], 3)}? Give --dataset {rows[0]}, "
                             f"--item {rows[0]} for test items, or --seed {rows[0]} for runs.")  # fmt: skip
    if wide:
        side = [name for name in others if name not in wide]
        parts = []
        for variant, kind, number in dict.fromkeys(cell[:3] for cell in wide.values()):
            run = {name: value for name, value in (("variant", variant), (kind, number)) if value}
            scores = {cell[3]: frame[n] for n, cell in wide.items() if cell[:3] == (variant, kind, number)}
            parts.append(frame[[*ids]].assign(**scores, **run))
        frame = pd.concat(parts, ignore_index=True)
    if where and side:
        notes.append(f"{listed(side)}: no outcomes, left out.")
    where = attrs.get("where", {}) | where
    frame.attrs = {**attrs, "notes": notes, "where": where, "head": head, "left": side if where else []}
    frame.attrs["renamed"] = attrs.get("renamed", {}) | renamed
    return frame


def _with_variants(frame: pd.DataFrame, columns: Mapping[str, str], notes: list[str]) -> pd.DataFrame:
    """Return a table without means below it, and with a column of variants where a column has them by another name.

    That is the only column whose names come again, or one of runs, like vit-seed3, as W&B's Name, with their seeds.
    """
    known = {kind: names[0] for kind in NAMES if (names := recognized(frame, kind))}
    if {"variant", "item", "label", "prediction"} & {*known, *columns}:
        return frame
    texts = [name for name in map(str, frame) if frame[name].dtype.kind not in "biuf" and not _is_numeric(frame[name])]
    for name in texts:
        summary = frame[name].map(lambda cell: bool(words := {*words_of(cell)}) and words <= SUMMARY)
        if frame[name].map(str).is_unique and 0 < summary.sum() < len(frame) / 2:
            notes.append(f"{listed([*frame.loc[summary, name]])}: rows of {name}, left out.")
            frame = frame[~summary].reset_index(drop=True)
    index = {name: "rows" for name in texts if name.startswith("Unnamed: ") and not _is_numeric(frame[name])}
    frame, texts = frame.rename(columns=index), [index.get(name, name) for name in texts]
    again = [name for name in texts if name not in known.values() and 1 < frame[name].map(str).nunique() < len(frame)]
    if len(again) == 1 and any(mode_of(str(name)) for name in frame):
        notes.append(f"variant: the column {again[0]}, in which alone names come again.")
        return frame.rename(columns={again[0]: "variant"})
    run = next((name for name in map(str, frame) if " ".join(words_of(name)) in RUNS), None)
    if run is None or _is_numeric(frame[run]):
        return frame
    of = runs_of(frame[run].map(str))
    variants, seeds = ([of[str(name)][i] for name in frame[run]] for i in (0, 1))
    if known.get("seed", run) == run and all(seeds):
        return frame.drop(columns=[run]).assign(variant=variants, seed=seeds)
    return frame.assign(variant=variants)


def _is_numeric(values: pd.Series) -> bool:
    """Return whether a column has numbers, and nothing but numbers and empty cells."""
    words = values.dropna().astype(str).str.strip().str.rstrip("%")
    words = words[words != ""]
    return len(words) > 0 and bool(pd.to_numeric(words, errors="coerce").notna().all() or words.eq("nan").any())


def run_in(name: str) -> tuple[str, str]:
    """Return variant and seed of vit-seed3, seed_3 and 3; both are empty where no word tells a seed: resnet_50."""
    match = NUMBERED.fullmatch(name)
    if match is None or (match["name"] and (match["seed"] or match["fold"] or "").lower() in ("s", "r")):
        return "", ""
    rest = "" if match["rest"] is None else name[match.end("number") :].lstrip(")")
    return ((match["name"] or "") + rest).strip("-_., "), match["number"]


def runs_of(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return variant and seed of each name of a run, like vit and 3 of vit-seed3; without a seed, the name and "".

    Of vit-s0 or vit_1, without a word, the number is a seed where all names have one, and all variants the same ones.
    """
    found = {
        name: (variant, seed) if variant and seed else (name, "") for name in names for variant, seed in [run_in(name)]
    }
    plain = {name: match for name in found if (match := PLAIN.fullmatch(name))}
    if plain and len(plain) == len(found) and not any(seed for _, seed in found.values()):
        numbers = defaultdict(set)
        for match in plain.values():
            numbers[match["name"]].add(int(match["number"]))
        sets = [sorted(each) for each in numbers.values()]
        counted_up = all(each in ([*range(len(each))], [*range(1, len(each) + 1)]) for each in sets)
        lettered = all(match["letter"] for match in plain.values())
        if len(sets[0]) > 1 and all(each == sets[0] for each in sets) and (counted_up or lettered):
            return {name: (match["name"], match["number"]) for name, match in plain.items()}
    return found


def _numbered(values: Sequence[str], metric: str | None, by_row: bool) -> dict[str, Cell]:
    """Return variant or "", kind (seed or fold), number and metric of columns that are runs; empty if they are not."""
    found = {}
    for name in values:
        match = NUMBERED.fullmatch(name)
        if match is None or (match["name"] and run_in(name) == ("", "")):  # vit_s_0
            continue
        if match["seed"] or match["fold"] or match["number"] == name:  # and not 3 epochs
            stem, of = (match["name"] or "").rstrip("-_. "), match["rest"] or ""
            stem, of = ("", stem) if stem and mode_of(stem) else (stem, of)
            found[name] = (stem, "fold" if match["fold"] else "seed", match["number"], of or metric or "score")
    if metric is not None and metric in {of for *_, of in found.values()}:
        found = {name: each for name, each in found.items() if each[3] == metric}
    stems = {stem for stem, *_ in found.values()}
    if len(found) < 2 or (by_row and stems != {""}) or (len(stems) > 1 and "" in stems):
        return {}
    return found


# ---- published means


def _means(
    frame: pd.DataFrame, kinds: Mapping[str, str], others: Sequence[str], reading: Reading
) -> tuple[pd.DataFrame, str] | None:
    """Return the runs of a table of means, and a note; None where the table has none.

    A run is a normal quantile, scaled to the mean and the standard deviation: the pooled test needs no more of it.
    """
    both: dict[str, list[Any]] = {n: [*cells, ""] for n in others if (cells := _spreads_of(frame[n])) is not None}
    words = {name: {*words_of(name)} for name in others}
    for name in [] if both or "seed" in kinds else others:
        kind = next((kind for kind, known in SPREAD.items() if known & words[name]), "se" if
                    {"standard", "error"} <= words[name] else "")  # fmt: skip
        rest = words[name] - SPREAD["sd"] - SPREAD["se"] - {"standard", "error"}
        means = [each for each in others if each != name and words[each] - MEAN == rest]
        means = means or [each for each in others if not rest and (words[each] & MEAN or mode_of(each))]
        if kind and len(means) == 1:
            base = " ".join(word for word in words_of(means[0]) if word not in MEAN) or "score"
            both[base] = [frame[means[0]], frame[name], kind]
    variants: Any = kinds.get("variant") or next((name for name in others if not _is_numeric(frame[name])), None)
    keys = [variants, *([kinds["dataset"]] if "dataset" in kinds else [])]
    if not both or variants is None or frame.duplicated(keys).any():
        return None
    runs, known = reading.runs, [each for each in both if {"accuracy", "acc", "top1"} & {*words_of(each)}]
    name = str(reading.metric) if reading.metric in both else next(iter(both if len(both) == 1 else known), "")
    if not name:
        raise ValueError(f"Means of {listed([*both], 20)}: give one as --metric, or all as --dataset columns.")
    mean, beside, kind = both[name]
    counts = next((each for each in others if words[each] <= COUNT | {"num", "number", "of"} and words[each]), None)
    if runs is None and counts is None:
        raise ValueError(f"{name}: means of how many runs? Give --runs N, or a column n.")
    if not (kind := reading.spread or kind):
        raise ValueError(f"{name}: is ± the standard deviation of the runs or its standard error? "
                         "Give --spread sd or --spread se.")  # fmt: skip
    rows = []
    sizes = frame[counts] if runs is None else [runs] * len(frame)
    for names, middle, width, size in zip(frame[keys].to_numpy().tolist(), mean, beside, sizes, strict=True):
        n = int(float(size))
        z = ndtri((np.arange(n) + 0.5) / n)
        sd = float(width or "nan") * (np.sqrt(n) if kind == "se" else 1.0)
        scores = float(middle or "nan") + sd * z / z.std(ddof=1) if n > 1 else [middle]
        rows += [(*names, str(seed), score) for seed, score in enumerate(scores, 1)]
    told = {"sd": "standard deviation", "se": "standard error"}[kind]
    table = pd.DataFrame(rows, columns=["variant", *keys[1:], "seed", name])
    table.attrs["renamed"] = {variants: "variant"}
    return table, f"{name}: means with their {told}, judged as runs of that mean and spread."


def _spreads_of(values: pd.Series) -> tuple[pd.Series, pd.Series] | None:
    """Return the means and what is beside them, nan in empty cells; None where another cell has no two numbers."""
    texts = values.map(str).str.strip()
    cells = texts.str.replace("−", "-").str.extract(WITH_SPREAD)
    if cells[0].isna().all() or not (cells[0].notna() | texts.isin(("", "-", "nan", "None"))).all():
        return None
    return cells[0], cells["of"].fillna(cells["within"])
