"""What belongs to a study but is in none of its averages: runs left out, compute before the runs, leaked images.

And two baselines that every model must beat: predicting the most frequent class, and k-NN on raw pixels. Reports mark
the runs that do not exceed them, which would otherwise go unnoticed.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from referee.formats import counted

from vitlab.atomic_files import read_cache, write_text
from vitlab.config import Config, weights_of
from vitlab.data.checking import MOST_COMPARED, copies, look_alikes
from vitlab.evaluation.classifiers import classify_pixels
from vitlab.experiment.chain import Source
from vitlab.runs.directory import SUMMARY, RunDirectory
from vitlab.studies.file.fairness import EXAMPLES, Images, Split
from vitlab.studies.file.metric import Metric
from vitlab.studies.file.runs import Run
from vitlab.studies.file.study import RESERVED_SLUGS, Study


class LeftOut(NamedTuple):
    """A finished run in the study's folder that is in none of its averages."""

    name: str  # variant and seed
    score: float | None  # on the test images; None if its summary lacks it


class Compute(NamedTuple):
    """Training that the runs build on: teachers and pre-trained weights."""

    source: str
    variants: list[str]
    taught: bool  # whether it is a teacher, else weights to start from
    seconds: float | None = None  # None: unknown
    images: int | None = None
    in_each_run: bool = False  # trained by the runs, and counted in their times

    @property
    def by_seed(self) -> bool:
        """Whether each seed trains its own."""
        source = Source.parse(self.source) if self.in_each_run else None
        return source is not None and not source.has_seed


class Trials(NamedTuple):
    """The tuning runs together."""

    runs: int = 0
    seconds: float = 0.0
    images: int = 0


@dataclass(frozen=True)
class Context:
    """What a report states in addition to a study's results."""

    left_out: list[LeftOut] = field(default_factory=list)
    compute: list[Compute] = field(default_factory=list)
    trials: Trials = field(default_factory=Trials)
    studies: list[str] = field(default_factory=list)  # others in the same root that used the same test images
    leaks: list[str] = field(default_factory=list)  # what test images share with others, in sentences


def context_of(
    study: Study, runs: Sequence[Run], used: Iterable[Run], folder: Path, metric: Metric, leaks: list[str]
) -> Context:
    """Return what a study's results depend on beside its runs, of which `used` are counted, failed ones included."""
    finished = list(_finished(folder.parent, f"*-{folder.name}") if study.place else _finished(folder))
    if study.place:  # another place's name may end with this one's
        others = [each.name for each in folder.parent.glob(f"?*{folder.name}") if not any(_inside(each, ""))]
        ends = tuple(f"-{name}" for name in others)
        finished = [each for each in finished if not each.relative_to(folder.parent).parts[0].endswith(ends)]
    averaged = {run.directory for run in used}
    summaries = [
        RunDirectory(file.parent).summary for file in (folder / study.tuning_folder(folder).name).rglob(SUMMARY)
    ]
    own = folder.parent if study.place else folder
    split = _test_split(finished[:1])
    siblings = sorted(path for path in own.parent.glob("*") if path.is_dir() and path != own)
    by_source: dict[tuple[str, bool], list[str]] = {}
    for run in runs:
        for key, each in weights_of(run.config).items():
            source = re.sub(r" data\.(split_seed|folds\.\w+)=\S+", "", each)  # of all folds
            variants = by_source.setdefault((source, "teacher" in key.split(".")), [])
            variants += [run.variant] if run.variant not in variants else []
    compute = []
    for (source, taught), variants in by_source.items():
        if Source.parse(source):
            compute.append(Compute(source, variants, taught, in_each_run=True))
            continue
        path = Path(source)
        directory = path if path.is_dir() else path.parents[min(1, len(path.parents) - 1)]  # of checkpoints/last.ckpt
        source_run = RunDirectory(directory)
        summary = source_run.summary if source_run.is_finished else {}
        compute.append(Compute(source, variants, taught, summary.get("seconds"), summary.get("images_seen")))
    return Context(
        left_out=[_left_out(study, each, metric) for each in finished if each not in averaged],
        compute=compute,
        trials=Trials(
            len(summaries),
            sum(float(summary.get("seconds", 0)) for summary in summaries),
            sum(int(summary.get("images_seen", 0)) for summary in summaries),
        ),
        studies=[each.name for each in siblings if split is not None and _test_split(_finished(each)) == split],
        leaks=leaks,
    )


def _left_out(study: Study, directory: Path, metric: Metric) -> LeftOut:
    names = {study.folder(Path(), variant).name: variant for variant in study.variants}
    fold, seed = directory.parent.name, directory.name.replace("-", " ")
    short = directory.parents[1].name if (of_a_fold := fold.startswith("fold-")) else fold
    score = RunDirectory(directory).metrics.get(metric.test)
    if metric.is_log and score is not None:
        score = math.log(score) if score > 0 else None
    return LeftOut(", ".join([names.get(short, short), seed, *([fold.replace("-", " ")] if of_a_fold else [])]), score)


def _finished(folder: Path, variants: str = "*") -> Iterator[Path]:
    """Yield the finished run directories of a study's folder, by variant and seed."""
    for variant in sorted(path for path in folder.glob(variants) if path.is_dir() and path.name not in RESERVED_SLUGS):
        runs = [summary.parent for summary in _inside(variant, SUMMARY)]
        yield from sorted(runs, key=lambda run: (len(run.name), run.name, run))


def _inside(variant: Path, name: str) -> Iterator[Path]:
    """Yield what has a name in the run directories of a variant's folder."""
    for place in ("seed-*", "fold-*/seed-*"):
        yield from variant.glob(f"{place}/{name}")


def _test_split(runs: Iterable[Path]) -> Any:
    """Return what identifies the test images of the first of some runs; None where there is none."""
    with suppress(ValueError):  # of a damaged data.json, which the results name as theirs
        return next((RunDirectory(run).data.get("splits", {}).get("test") for run in runs), None)


@dataclass(frozen=True)
class Baselines:
    """Accuracies on the test split, and how they were measured."""

    majority: float
    majority_class: str
    knn: float
    bank_images: int
    test_images: int
    subsampled: bool
    folds: int = 0  # over which the accuracies are averaged

    @property
    def lines(self) -> dict[str, float]:
        """The accuracy of each baseline."""
        return {"majority class": self.majority, "k-NN on raw pixels": self.knn}

    def describe_knn(self) -> str:
        each = f" of each of {self.folds} folds" if self.folds else ""
        part = "of the " if self.subsampled else ""
        return f"as k-NN tests features, k = 20, among {self.bank_images:,} {part}training images{each}"


def cached(file: Path, images: Images, data: Config, compute: Callable[[], Any]) -> Any:
    """Return what was computed of these images, chosen by the settings `data`, from a JSON file if it is known."""
    key = {"data": data, "splits": images.facts()["splits"]}  # a folder may have other images than before
    known = [record for record in read_cache(file, []) if isinstance(record, dict)]
    for record in known:
        if "found" in record and {name: record.get(name) for name in key} == key:
            return record["found"]
    found = compute()
    write_text(file, json.dumps([*known, key | {"found": found}], indent=2, ensure_ascii=False) + "\n")
    return found


def baselines(images: Images, data: Config, cache: Path) -> Baselines:
    """Return the baselines of a data set; of folds, over all test images."""

    def compute() -> dict[str, Any]:
        parts = [measure_baselines(part) for part in getattr(images, "parts", [images])]
        if len(parts) == 1:
            return asdict(parts[0])
        weights = [part.test_images for part in parts]
        majority, knn = np.average([(part.majority, part.knn) for part in parts], axis=0, weights=weights)
        means = {"majority": float(majority), "knn": float(knn), "test_images": sum(weights)}
        return asdict(parts[0]) | means | {"folds": len(parts)}

    return Baselines(**cached(cache, images, data, compute))


def measure_baselines(images: Any) -> Baselines:
    """Return the baselines of a data module."""
    train, test = images.labels("train"), images.labels("test")
    found, truth, examples = classify_pixels(images, ["train"], "test")
    majority = int(np.bincount(train, minlength=images.num_classes).argmax())
    return Baselines(
        majority=float((test == majority).mean()),
        majority_class=images.class_names[majority],
        knn=float((found == truth).double().mean()),
        bank_images=examples,
        test_images=len(truth),
        subsampled=examples < len(train),
    )


# ---- test images that are also training or validation images, or look like them
#
# A model may have memorized them, which inflates its accuracy. Exact copies are found by the hash of their file or of
# their pixels, near-duplicates by the difference hash of what they show.


def duplicates(images: Images, data: Config, cache: Path) -> str:
    """State which test images are in other splits too, in one to three sentences; empty if none."""
    return str(cached(cache, images, data, partial(_leaked, images)))


def _leaked(images: Images) -> str:
    total = unknown = 0
    counts: Counter[str] = Counter()
    equal, near = list[str](), list[str]()
    for part in getattr(images, "parts", [images]):  # of a `Pool`
        test, names = part.contents("test"), part.image_names("test")
        total, unknown = total + len(test), unknown + int((test == 0).sum())
        # Where the test split is the validation split, the report says so.
        splits: list[Split] = ["train"] if part.image_names("val") == names else ["train", "val"]
        copied = set[int]()
        for split in splits:
            others, pairs = part.image_names(split), copies(test, part.contents(split))
            equal += [f"{names[index]} = {others[original]}" for index, original in pairs.items()]
            counts[split] += len(pairs)
            copied |= pairs.keys()
        others = [name for split in splits for name in part.image_names(split)]
        if len(names) + len(others) <= MOST_COMPARED:  # or images would be decoded that are not compared
            alike = look_alikes(part.dhashes("test"), np.concatenate([part.dhashes(split) for split in splits]))
            near += [f"{names[i]} and {others[k]}" for i, k in alike.items() if i not in copied]
    lines = []
    if equal:
        where = " and ".join(f"{count:,} in the {split} split" for split, count in counts.items() if count)
        lines.append(
            f"Of {counted(total, 'test image')}, exact copies are also {where}, which inflates accuracy: "
            f"{', '.join(equal[:EXAMPLES])}{' and more' * (len(equal) > EXAMPLES)}."
        )
    if near:
        lines.append(
            f"{counted(len(near), 'test image')} look{'s' * (len(near) == 1)} almost like images of another split, "
            "which inflates accuracy if they show the same: "
            f"{', '.join(near[:EXAMPLES])}{' and more' * (len(near) > EXAMPLES)}. Move what shows one scene to one "
            "split; with `folds`, `groups` keeps it together."
        )
    if unknown:
        count = counted(unknown, "test image")
        lines.append(f"Copies of {count} in other splits were not looked for: their source gives no hash.")
    return " ".join(lines)
