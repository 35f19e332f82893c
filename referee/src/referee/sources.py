"""Result files → the table of outcomes: tables, logs and the files of five tools. A file is one run unless it says so.

Which run a file is, its variant and seed, is read from its path where its columns do not say them.
"""

import gzip
import io
import json
import math
import os
import re
import struct
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from referee.formats import by_number, counted, listed
from referee.metric import mode_of
from referee.outcomes import TEXTS, UNTOLD, Outcomes, Reading, from_frame, recognized
from referee.shapes import in_rows, run_in, runs_of, table_of

HEAD = 4_000  # bytes by which a file is recognized
NO_LOGS = (".md", ".png", ".jpg", ".svg", ".pdf", ".html")  # which folders of logs may have too
FOLD = re.compile(r"[-_. ]?(?:fold|split|cv)[-_. =]?(\d+)(?![A-Za-z])", re.IGNORECASE)
# Files of one folder that repeat each other's runs, of which the first is read.
SAME_RUN = ("samples", "results_", "all_results.json", "predict_results.json", "test_results.json",
            "eval_results.json", "trainer_state.json", "train_results.json")  # fmt: skip
LOOKS = ".looks.json"  # ends the name of a registration, which is not a result
SYSTEM = {"@eadir", "$recycle.bin", "system volume information", "#recycle", "__macosx", "thumbs.db", "desktop.ini"}
Files = dict[Path, dict[str, str] | None]  # with the names that a template reads from the path; None: without one
BINARY = (".parquet", ".feather", ".xlsx", ".npy", ".npz")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".md", *BINARY)
TEXTUAL = (".txt", ".log")  # a table, or a log that --read reads
DATE = re.compile(r"[-_]?20\d\d-?\d\d-?\d\d(?:[T_-][\d:.-]*\d)?")
VERSION = re.compile(r"^version_\d+$")  # of each start of Lightning
Reader = Callable[[Path, str | None], pd.DataFrame]  # of a file and the metric that is asked for


def read(places: Iterable[str | Path], reading: Reading = UNTOLD) -> Outcomes:
    """Read result files, folders of them, or paths with {variant} and {seed} in place of names.

    Raises:
        ValueError, FileNotFoundError: nothing can be read; the message names the file, the place and the remedy.
    """
    pattern, pick, lower, expression = reading.pattern, reading.pick, reading.lower, None
    if pattern is not None:
        expression, lower = score_in(pattern, reading.metric, lower)
    files, left_out = found(places, pattern)
    frames, notes = {}, []
    for file in files:
        try:
            if expression is not None:  # nan if the log has none, as of a run that failed
                scores = [*map(float, expression.findall(file.read_text(encoding="utf-8", errors="replace")))]
                if pick == "best":
                    scores = sorted((score for score in scores if not math.isnan(score)), reverse=bool(lower))
                frames[file] = pd.DataFrame({"score": scores[-1:] or [math.nan]})
            else:
                if (reader := reader_of(file)) is None:
                    kind = file.suffix or "a file without a suffix"
                    raise ValueError(f"no format is known for {kind}. Give {', '.join(SUFFIXES)}, or --read REGEX.")
                frames[file] = in_rows(reader(file, reading.metric), reading)
            notes += frames[file].attrs.pop("notes", [])
        except (ValueError, KeyError, TypeError, AttributeError, ImportError, zipfile.BadZipFile) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{file} cannot be read: {reason}") from error
    shape = next((dict(frame.attrs) for frame in frames.values()), {})
    told = {frame.attrs.get("lower") for frame in frames.values()}
    lower = lower if lower is not None or len(told) > 1 else told.pop()
    named, of_paths = named_by_path(frames, files, reading.columns)
    rows = [frame.reset_index(drop=True) for frame in named]
    for frame in rows:
        frame.attrs = {}
    table = pd.concat(rows, keys=[str(file) for file in frames]) if len(rows) > 1 else named[0]
    table.attrs = shape
    outcomes = from_frame(table, replace(reading, lower=lower, pick=None if pattern else pick))
    outcomes.notes.extend([*of_paths, *dict.fromkeys(notes), *left_out])
    return outcomes


def found(places: Iterable[str | Path], pattern: str | None = None) -> tuple[Files, list[str]]:
    """Return the files that the places mean, in the order of their names, and notes on those that are left out.

    Of folders and templates, these are what is hidden, what a system keeps there, what no reader is for, and what
    repeats another file's runs: of a folder, summaries are read before logs, and samples before results.
    """
    found: Files = {}
    hidden, others = 0, []
    for place in map(here, places):
        path = Path(place)
        if path.name.lower() in SYSTEM:  # of a pattern of the shell
            hidden += 1
            continue
        if "{" not in place and not path.is_dir():
            files: Files = dict.fromkeys([path] if path.is_file() else [])
        else:
            root, inside = _matching(place) if "{" in place else (path, dict.fromkeys(path.rglob("*")))
            inside = {f: names for f, names in inside.items() if f.is_file() and not f.name.endswith(LOOKS)}
            parts = {f: [part.lower() for part in f.relative_to(root).parts] for f in inside}
            files = {f: inside[f] for f in inside if not any(part[0] == "." or part in SYSTEM for part in parts[f])}
            hidden += len(inside) - len(files)
            for file in files:  # any but a picture or a page is a log
                is_log = pattern is not None and file.suffix.lower() not in NO_LOGS
                if not is_log and (pattern is not None or file.suffix.lower() == ".md" or reader_of(file) is None):
                    others.append(file.name)
            files = {f: names for f, names in files.items() if f.name not in others}
        if not files:
            there = f"no result there, but {listed([*dict.fromkeys(others)])}" if others else "no such file"
            like = "files, folders, or logs/{variant}/{seed}.txt" + ", with --read REGEX for logs" * bool(others)
            raise FileNotFoundError(f"{place}: there is {there}. Give {like}.")
        found |= {file: names for file, names in files.items() if file not in found}
    notes = [f"{counted(hidden, 'hidden or system file')} left out."] * bool(hidden)
    notes += [f"no results, and left out: {listed(others)}."] * bool(others)
    ranked: dict[Path, list[tuple[int, int, Path]]] = {}
    for file in found if pattern is None else ():
        if name := next((each for each in SAME_RUN if file.name.startswith(each)), None):
            saved = re.fullmatch(r"checkpoint-(\d+)", file.parent.name)  # of Hugging Face, of which the last counts
            folder, behind = (file.parent.parent, 10**12 - int(saved[1])) if saved else (file.parent, 0)
            ranked.setdefault(folder, []).append((behind, SAME_RUN.index(name), file))
    again = {each[2] for same in ranked.values() for each in same if each[:2] > min(same)[:2]}
    notes += [f"{listed(sorted({file.name for file in again}))}: the same runs in other files, left out."] * bool(again)
    files = {file: found[file] for file in sorted(found, key=lambda file: ([*map(by_number, file.parts)], file))}
    return {file: names for file, names in files.items() if file not in again}, notes


def suffix_of(file: Path) -> str:
    """Return the suffix of a file, of a packed one that of what it holds."""
    return Path(file.name.removesuffix(".gz")).suffix.lower()


def reader_of(file: Path) -> Reader | None:
    """Return what reads a file: the first format that recognizes it; a table is every file that pandas can read."""
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        head = stream.read(HEAD)
    suffix = suffix_of(file)
    if suffix == ".jsonl" and b'"doc_id"' in head and b'"doc"' in head:
        return read_lm_eval
    if suffix == ".eval" or (suffix == ".json" and b'"eval"' in head and b'"task"' in head):
        return read_inspect_log
    if suffix == ".csv" and re.match(rb"(?=.*\bfilename\b).*\b(prob|logit)(_0)?\b", head):  # the first line
        return read_timm
    if not suffix and any(p.name == "metrics" and (p.parent / "meta.yaml").is_file() for p in file.parents):
        return read_mlflow
    if "tfevents" in file.name:
        return read_events
    if suffix not in TEXTUAL or suffix in SUFFIXES:  # else begins with names and a row as long, or a line of JSON
        return read_table if suffix in SUFFIXES else None
    lines = [line for line in head.decode("utf-8", "replace").split("\n") if line.strip() and line[0] != "#"][:2]
    cells = [re.split(r"[,;\t|]", line) for line in lines]
    of_names = len(cells) == 2 and len(cells[0]) == len(cells[1]) > 1 and not any(map(_is_number, cells[0]))
    return read_table if (of_names and any(map(_is_number, cells[1]))) or "".join(lines).startswith("{") else None


# ---- which run a file is


def here(place: str | Path) -> str:
    """Return a place with ~ and $NAME replaced, unless it is there as it is."""
    return str(place) if Path(place).exists() else os.path.expandvars(os.path.expanduser(place))


def _matching(template: str) -> tuple[Path, Files]:
    """Return the root and the files of a template like logs/{variant}/{seed}.txt, in which * stands for anything."""
    parts = re.split(r"(\{[^\W\d]\w*\}|\*)", os.path.normpath(template))
    root = Path(parts[0] + "x").parent  # of what begins with the fixed text
    first = {name: f"(?P<{name[1:-1]}>[^/]+)" for name in parts[1::2]} | {"*": "[^/]*"}
    expression = "".join(first.get(part) or re.escape(part) for part in parts)
    found: Files = {}
    for file in root.rglob("*"):
        if file.is_file() and (match := re.fullmatch(expression, str(file))):
            found[file] = match.groupdict()
    return root, found


def named_by_path(
    frames: Mapping[Path, pd.DataFrame], files: Files, columns: Mapping[str, str]
) -> tuple[list[pd.DataFrame], list[str]]:
    """Return the tables with columns for what their paths say, and a note on what was taken from them."""
    named, notes = [], []
    logical = {}  # paths that name the run of a file: without times, folds and folders that loggers add
    for file, frame in frames.items():
        parts = [FOLD.sub("", part) for part in file.parts if part not in ("lightning_logs", "csv_logs")]
        plain = Path(*[part for part in parts[:-1] if part], parts[-1])
        logical[file] = Path(frame.attrs["run"]) if "run" in frame.attrs else plain
    for numbers in (DATE, VERSION):
        less = {
            file: Path(*filter(None, [numbers.sub("", part) for part in path.parts])) for file, path in logical.items()
        }
        if len({*less.values()}) == len({*logical.values()}):  # else they tell runs apart, as a date of gpt-4o
            logical = less
    of_path = _runs_of([*dict.fromkeys(logical[file] for file in frames if files[file] is None)])
    runs = {file: of_path.get(path, ("", "")) for file, path in logical.items()}
    seeded = any(seed for _, seed in runs.values()) or any(recognized(frame, "seed") for frame in frames.values())
    for file, frame in frames.items():
        names = files[file]
        if names is None:
            own = {kind for kind in ("variant", "seed") if kind in columns or recognized(frame, kind)}
            read = dict(zip(("variant", "seed"), runs[file], strict=True))
            read = {kind: name for kind, name in read.items() if name and kind not in own}
            if found := FOLD.search(str(file)):
                read["fold"] = found[1]
            if read:
                notes.append(f"{' and '.join(read)}: from the paths, like {', '.join(read.values())} of {file}.")
            names = ({"seed": "1"} if seeded and "seed" not in own else {}) | read
        named.append(frame.assign(**names))
    return named, notes[:1]


def _runs_of(files: Sequence[Path]) -> dict[Path, tuple[str, str]]:
    """Return variant and seed of each file; of files for which they are the same, by the folders that differ."""
    runs = {}
    for file in files:  # A/seed-3/any.csv, A/3.csv, A-seed3.csv and A.csv
        folder, stem = file.parent.name, re.sub(r"(\.[a-z]+)+$", "", file.name, flags=re.IGNORECASE)  # not lr0.1's .1
        told = [(*run_in(name), above) for name, above in ((folder, file.parent.parent.name), (stem, folder))]
        runs[file] = next(((variant or above, seed) for variant, seed, above in told if seed), (stem, ""))
    times = Counter(runs.values())
    alike = [file for file in files if times[runs[file]] > 1]
    depth = range(min((len(file.parts) for file in alike), default=0))
    differing = [i for i in depth if len({file.parts[i] for file in alike}) > 1]
    for file in alike if differing else []:
        *folders, last = (file.with_suffix("").parts[i] for i in differing)
        name, seed = run_in(last)
        if seed:
            runs[file] = name or "/".join(folders) or file.parts[differing[-1] - 1], seed
        else:
            runs[file] = "/".join([*folders, last]), ""
    if not any(seed for _, seed in runs.values()):
        again = runs_of(name for name, _ in runs.values())
        runs = {file: again[name] for file, (name, _) in runs.items()}
    return runs


# ---- EleutherAI's lm-evaluation-harness: samples_TASK_TIME.jsonl, which --log_samples writes into a folder a model


def read_lm_eval(file: Path, metric: str | None) -> pd.DataFrame:
    """Return item and scores of each document; the model is the folder, and a repetition the time in the name.

    Of several filters the first is taken. An item is the hash of its text; of equal texts, with the number.
    """
    samples = [json.loads(line) for line in text_of(file).split("\n") if line.strip()]
    filters = list(dict.fromkeys(str(sample.get("filter")) for sample in samples))
    samples = [sample for sample in samples if sample.get("filter") == samples[0].get("filter")]
    is_score = {name: isinstance(value, float | int) and name != "doc_id" for name, value in samples[0].items()}
    names = samples[0].get("metrics") or [name for name in is_score if is_score[name]]
    if metric not in (None, *names):
        raise ValueError(f"it has no score {metric}. Give one as --metric: {', '.join(names)}")
    name_of_file = re.fullmatch(r"samples_(.+?)(?:_(20\d\d-\d\d-\d\dT.+))?", file.stem)
    task, time = name_of_file.groups() if name_of_file else (file.stem, None)
    hashes = Counter(sample.get("doc_hash") for sample in samples)
    items = [str(sample.get("doc_hash") or sample["doc_id"]) for sample in samples]
    both = zip(items, samples, strict=True)
    items = [f"{item}/{sample['doc_id']}" if hashes[item] > 1 else item for item, sample in both]
    frame = pd.DataFrame({name: [sample.get(name) for sample in samples] for name in names})
    frame.insert(0, "item", [f"{task}/{item}" for item in items])
    frame.attrs["notes"] = [f"filter {filters[0]}: the first of {', '.join(filters)}."] * (len(filters) > 1)
    return frame.assign(variant=file.parent.name.replace("__", "/"), seed=time or "1")


# ---- UK AISI's Inspect: a log in JSON or an .eval archive; an epoch, which repeats every sample, is a seed


def read_inspect_log(file: Path, metric: str | None) -> pd.DataFrame:
    """Return item and score of each sample, by the scorer that `metric` names, else the first."""
    if suffix_of(file) == ".json":
        log = json.loads(text_of(file))
    else:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if name.startswith("samples/")]
            log = json.loads(archive.read("header.json")) | {"samples": [json.loads(archive.read(n)) for n in names]}
    samples = log.get("samples") or []
    scores = [sample.get("scores") or {} for sample in samples]  # a sample with an error has none
    scorers = list(dict.fromkeys(scorer for each in scores for scorer in each))
    if not scorers:
        raise ValueError("no sample of the log has a score")
    if metric not in (None, *scorers):
        raise ValueError(f"it has no scorer {metric}. Give one as --metric: {', '.join(scorers)}")
    values = [each.get(metric or scorers[0], {}).get("value") for each in scores]
    kind = "correct" if all(isinstance(value, str | bool | None) for value in values) else "score"
    seeds, items = [sample.get("epoch", 1) for sample in samples], [sample["id"] for sample in samples]
    frame = pd.DataFrame({"variant": str(log["eval"]["model"]), "seed": seeds, "item": items, metric or kind: values})
    frame.attrs["lower"] = False
    return frame


# ---- timm's inference.py: filename, index or label of the prediction; the label is the folder of the image


def read_timm(file: Path, metric: str | None) -> pd.DataFrame:
    """Return item, prediction and label of each image."""
    frame = read_table(file, metric)
    folders = frame["filename"].map(lambda name: Path(name).parent.name)
    column = next((name for name in ("label", "label_0", "index", "index_0") if name in frame), None)
    prediction = frame.get(column)
    if prediction is not None and str(column).startswith("index"):  # of classes in timm's order of their folders
        prediction = pd.to_numeric(prediction)
        classes = sorted(folders.unique(), key=lambda name: by_number(name.lower()))  # timm/utils/misc.py
        if prediction.max() >= len(classes):
            what = f"its images are of {len(classes)} classes and it predicts class {prediction.max()}"
            raise ValueError(f"{what}, of an unknown folder. Use --label-type name of timm's inference.py")
        prediction = prediction.map(lambda index: classes[index])
    if prediction is None or (folders == "").any() or not prediction.astype(str).isin(folders).any():
        raise ValueError("it names no predicted class that is the folder of an image. Use --fullname and --label-type "
                         "name of timm's inference.py, or --label-type none and --include-index")  # fmt: skip
    return pd.DataFrame({"item": frame["filename"], "prediction": prediction, "label": folders})


# ---- CSV, JSON lines, JSON records and Parquet; what a file has as text stays text


def read_table(file: Path, metric: str | None) -> pd.DataFrame:
    """Return the table of a file of any of SUFFIXES."""
    suffix, found = suffix_of(file), re.fullmatch(r"run-(.+)[-_]tag-(.+)", file.stem)  # of TensorBoard
    text = "" if suffix in BINARY else text_of(file)
    suffix = (".jsonl" if text.lstrip().startswith("{") else ".csv") if suffix in TEXTUAL else suffix
    if suffix in (".parquet", ".feather"):  # whose integers beside empty cells stay integers
        reader = pd.read_parquet if suffix == ".parquet" else pd.read_feather
        frame = table_of(reader(file, dtype_backend="numpy_nullable"))
    elif suffix == ".xlsx":
        frame = pd.read_excel(file, dtype=str, keep_default_na=False)
    elif suffix == ".npz":
        frame = table_of(dict(np.load(file)))
    elif suffix == ".npy":  # of a variant or a run, which the path names
        frame = table_of({"": np.load(file)}).drop(columns="variant")
        frame = frame.drop(columns="seed") if frame["seed"].nunique() == 1 else frame
    elif suffix == ".md":
        lines = [line.strip().strip("|") for line in text.splitlines() if line.strip().startswith("|")]
        frame = _table_of_lines("\n".join(line for line in lines if set(line) - set("|-: ")), "|")
    elif suffix in (".csv", ".tsv"):
        frame = _table_of_lines(text)
        frame = frame.rename(columns={"Value": found[2]} if found else {})
    else:
        # Not by splitlines: a text may hold U+2028, which ends no line of JSON.
        records = [line for line in text.split("\n") if line.strip()] if suffix == ".jsonl" else [text]
        content: Any = [json.loads(record, parse_int=str, parse_float=str) for record in records]
        first = content[0]
        if suffix == ".json" and isinstance(first, list):
            content = first
        elif "log_history" in first:  # of Hugging Face's trainer
            content = first["log_history"]
        elif isinstance(tasks := first.get("results"), dict):  # of lm-evaluation-harness
            content = [{"dataset": task} | scores for task, scores in tasks.items()]
            apart = {"alias"} if len(tasks) > 1 else {"alias", "dataset"}
            content = [{k.removesuffix(",none"): v for k, v in each.items() if k not in apart} for each in content]
        elif suffix == ".json" and any(isinstance(value, list | dict) for value in first.values()):  # by column
            content = pd.DataFrame(first).to_dict("records")
        frame = pd.json_normalize(content)  # metrics.accuracy of a dictionary in a row
    if frame.empty:
        raise ValueError("it has no rows")
    frame.attrs = {"run": str(file.with_name(found[1]))} if found else {}
    return frame


def text_of(file: Path) -> str:
    """Return the text of a file in UTF-8, in UTF-16 with its mark, or else in Latin-1."""
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _table_of_lines(text: str, separator: str = "") -> pd.DataFrame:
    """Return the table of a text, whose first line shows what separates columns; comments may be above it."""
    lines = text.lstrip().split("\n")
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)
    separator = separator or max(",;\t|", key=lines[first].count)
    cells = lines[first].split(separator)
    decimals = [cell.strip() for cell in cells if re.fullmatch(r"\s*[-+]?\d*\.\d+(?:[eE][-+]?\d+)?\s*", cell)]
    if first and decimals and len(lines[first - 1].split(separator)) == len(cells):
        first, decimals = first - 1, []  # the last comment is the header, as numpy.savetxt writes it
    text = "\n".join(lines[first:])
    rows = pd.read_csv(io.StringIO(text), sep=separator, header=None, dtype=str, keep_default_na=False, index_col=False)
    rows = rows.map(lambda cell: cell.replace("**", "").strip(" `")) if separator == "|" else rows
    rows.iloc[0, 0] = re.sub(r"^#\s*", "", str(rows.iloc[0, 0]))
    names = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(rows.iloc[0].astype(str))]
    if decimals and all(_is_number(name) or not rows[i][1:].map(_is_number).any() for i, name in enumerate(names)):
        raise ValueError(f"its first line has no names of columns, but {decimals[0]}. Put a line of names above it")
    frame = rows[1:].set_axis(names, axis=1).reset_index(drop=True)
    if separator == ";":  # as a European Excel writes, with commas in numbers; names keep theirs
        numbers = frame.columns.difference([name for kind in TEXTS for name in recognized(frame, kind)])
        is_number = frame[numbers].map(re.compile(r"(?:\\pm|[-\s\d.,eE+−±()%/$_{}])+").fullmatch).notna()
        frame[numbers] = frame[numbers].mask(is_number, frame[numbers].replace(r"(?<=\d),(?=\d)", ".", regex=True))
    return frame


def _is_number(text: str) -> bool:
    return not pd.isna(pd.to_numeric(text.strip(), errors="coerce"))


# ---- trackers' own files: MLflow's metrics/NAME (time, value, step), and TensorBoard's events


def read_mlflow(file: Path, metric: str | None) -> pd.DataFrame:
    """Return a metric by step, with the parameters of its run and its name."""
    folder = next(parent for parent in file.parents if parent.name == "metrics")
    rows = [line.split() for line in text_of(file).splitlines() if line.strip()]
    name = str(file.relative_to(folder))
    frame = pd.DataFrame({"step": [row[-1] if len(row) > 2 else "0" for row in rows], name: [row[1] for row in rows]})
    told = {each.name: text_of(each).strip() for each in sorted((folder.parent / "params").glob("*"))}
    run_name = folder.parent / "tags" / "mlflow.runName"
    name = text_of(run_name).strip() if run_name.is_file() else folder.parent.name
    frame.attrs["run"] = str(folder.parent.with_name(name))
    return frame.assign(**{key: value for key, value in told.items() if key not in frame})


def read_events(file: Path, metric: str | None) -> pd.DataFrame:
    """Return the scalars of TensorBoard's events (TFRecords of tensorflow/core/util/event.proto), a column for each."""
    content, place, rows = file.read_bytes(), 0, []
    while place + 12 <= len(content):
        (size,) = struct.unpack_from("<Q", content, place)
        if place + size + 16 > len(content):  # still being written
            break
        event = _fields(content[place + 12 : place + 12 + size])
        place += size + 16  # with two checksums
        for value in (_fields(value) for summary in event[5] for value in _fields(summary)[1]):
            tensor = _fields(value[8][0]) if value[8] else {}  # of TensorFlow 2, in which 1 is its type
            bits = value[2] or ((tensor[4] or tensor[5]) if tensor and tensor[1] == [1] else [])
            if bits and len(bits[0]) == 4:
                rows.append({"step": (event[2] or [0])[0], value[1][0].decode(): struct.unpack("<f", bits[0])[0]})
    if not rows:
        raise ValueError("it has no scalars")
    frame = pd.DataFrame(rows)
    frame.attrs["run"] = str(file.parent)
    return frame


def _fields(message: bytes) -> defaultdict[int, list[Any]]:
    """Return the values of a protocol buffer by the number of their field."""
    found: defaultdict[int, list[Any]] = defaultdict(list)
    stream = io.BytesIO(message)

    def varint() -> int:
        number = shift = 0
        while (byte := stream.read(1)[0]) > 127:
            number |= (byte & 127) << shift
            shift += 7
        return number | byte << shift

    while stream.tell() < len(message):
        field, kind = divmod(varint(), 8)
        found[field].append(varint() if kind == 0 else stream.read({1: 8, 5: 4}.get(kind) or varint()))
    return found


# ---- the log of a training: the score is what a regular expression finds


def score_in(pattern: str, metric: str | None, lower: bool | None) -> tuple[re.Pattern[str], bool]:
    """Return the expression, and whether a lower score is better: as told, or as the metric's name or it says."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--read {pattern!r} is not a regular expression ({error})") from None
    if expression.groups != 1:
        raise ValueError(f"--read {pattern!r} has {expression.groups} groups. Put the score alone in parentheses")
    mode = mode_of(metric, pattern)
    if lower is None and mode is None:
        raise ValueError(f"--read {pattern!r}: is a higher or a lower score better? Give --higher or --lower.")
    return expression, mode == "min" if lower is None else lower
