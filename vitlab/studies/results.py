"""The results of a study: finished runs, read from their directories, and the table of outcomes that referee judges.

A result that no average may include is a failure with the reason. What else a report states is runs left out, compute
before the runs, test images that were trained on, and two baselines that every model must beat: the most frequent
class, and k-NN on raw pixels. Trains nothing.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from referee.claim import Line
from referee.formats import counted, listed
from referee.judging import of_trainings
from referee.outcomes import Outcomes
from referee.outcomes import Run as Row
from referee.statistics.contrast import Interval
from referee.verdict import Design, Variant, Verdict

from vitlab.atomic_files import read_cache, write_text
from vitlab.config import ABSENT, Config, flatten, weights_of
from vitlab.data.checking import MOST_COMPARED, leaks
from vitlab.data.dataset import SPLITS, Subset
from vitlab.evaluation import predictions as predicted
from vitlab.evaluation.classifiers import classify_pixels
from vitlab.evaluation.predictions import CALIBRATION_BINS, Predictions
from vitlab.experiment.chain import Source
from vitlab.runs.directory import SUMMARY, RunDirectory
from vitlab.studies.file.fairness import Images, Split, groups_of, name_of
from vitlab.studies.file.format import as_yaml
from vitlab.studies.file.metric import TOP1, Metric
from vitlab.studies.file.registration import UNFINISHED, Outcome, cut_short
from vitlab.studies.file.runs import Difference as Departure
from vitlab.studies.file.runs import Run
from vitlab.studies.file.study import RESERVED_SLUGS, Choice, Study

MACHINE = ("torch", "torchvision", "timm", "device", "precision")  # entries of environment.json
OWN_TO_A_RUN = ("command", "sources", "weights", "changed")  # entries of environment.json that belong to one run


@dataclass(frozen=True, eq=False)
class RunResult:
    """A finished run on the study's test images."""

    run: Run
    predictions: Predictions
    summary: dict[str, Any]
    environment: dict[str, Any]
    history: pd.DataFrame  # metrics.csv
    data: dict[str, Any] = field(default_factory=dict)  # data.json; empty for runs of older versions
    values: pd.DataFrame = field(default_factory=pd.DataFrame)  # values.parquet
    parts: Sequence["RunResult"] = ()  # of a seed that has folds: the result of each

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether each test image is classified correctly, (N,) bool."""
        return predicted.correct(self.predictions.logits, self.predictions.labels)

    @cached_property
    def score(self) -> float:
        """The study's metric on the test images; accuracy as a fraction."""
        metric = self.run.metric
        if metric.is_fraction and self.by_image is not None:
            return float(self.by_image.mean())
        known = self.summary["metrics"]
        if metric.test not in known:
            raise ValueError(f"summary.json has no metric {metric.test}, but {listed(sorted(known), 20)}")
        return self._scaled(metric.test, float(known[metric.test]))

    def _scaled(self, name: str, value: float) -> float:
        """Return a value of the metric, as a logarithm where the study compares these."""
        if not self.run.metric.is_log:
            return value
        if value <= 0:
            raise ValueError(f"{name} is {value:g}, which has no logarithm. Remove `scale: log` from the metric")
        return math.log(value)

    @cached_property
    def by_image(self) -> np.ndarray | None:
        """What the score is the mean of: whether each image is right, (N,) bool, or values; None where not known."""
        if self.run.metric.is_accuracy:
            return self.correct
        if self.run.metric.name == "balanced_accuracy":  # intervals are of any N images, not of n_k of each class k
            _, place, counts = np.unique(self.predictions.labels, return_inverse=True, return_counts=True)
            return self.correct * (len(place) / (len(counts) * counts[place]))
        if self.run.metric.name not in self.values or self.run.metric.is_log:
            return None
        values = self.values[self.run.metric.name].reindex(self.predictions.images).to_numpy()
        return values if np.isclose(values.mean(), self.score, rtol=1e-3) else None  # else of another test

    @cached_property
    def score_ema(self) -> float | None:
        """The score of the averaged weights; None without them."""
        metric, logits = self.run.metric, self.predictions.logits_ema
        if not metric.is_accuracy:
            ema = self.summary["metrics"].get(f"test_ema/{metric.name}")
            return ema if ema is None else self._scaled(f"test_ema/{metric.name}", ema)
        return None if logits is None else float(predicted.correct(logits, self.predictions.labels).mean())

    @property
    def untrained(self) -> float | None:
        """The accuracy of the features before training; None unless `run.probe` tests the run, and accuracy ranks."""
        if not self.run.metric.is_accuracy:
            return None  # an accuracy is not to be held against another metric
        return self.summary.get("metrics", {}).get("test/top1_untrained")

    @cached_property
    def nll(self) -> float:  # in nats
        return predicted.negative_log_likelihood(self.predictions.logits, self.predictions.labels)

    @cached_property
    def ece(self) -> float:  # in [0, 1]
        return predicted.calibration_error(self.predictions.logits, self.predictions.labels)

    @property
    def temperature(self) -> float:  # fitted on the validation images; of folds the mean; nan: none was
        return float(self.summary.get("metrics", {}).get("test/temperature", math.nan))

    @cached_property
    def ece_calibrated(self) -> float:  # of logits / temperature, of each fold its own
        if math.isnan(self.temperature):
            return math.nan
        parts = [(part.predictions, part.temperature) for part in self.parts or (self,)]
        logits = np.concatenate([each.logits / temperature for each, temperature in parts])
        return predicted.calibration_error(logits, np.concatenate([each.labels for each, _ in parts]))

    @property
    def directories(self) -> list[Path]:
        """Its run directory; of a seed that has folds, all of them."""
        return [part.run.directory for part in self.parts] or [self.run.directory]

    @property
    def seconds_before(self) -> float:
        """Training time of the runs whose weights it takes."""
        return float(self.summary.get("seconds_before", 0.0))

    @property
    def seconds(self) -> float:
        """Wall-clock time of training, that before it included."""
        return float(self.summary["seconds"]) + self.seconds_before

    @property
    def wall_seconds(self) -> float:  # from the starts of its processes to their ends
        return sum(max(part.seconds, part.summary.get("wall_seconds", 0.0)) for part in self.parts or (self,))

    @property
    def training_images(self) -> str | None:
        """A hash of the training split; None for runs of older versions."""
        digest = self.data.get("splits", {}).get("train", {}).get("digest")
        return digest and str(digest)[:8]

    @property
    def images_seen(self) -> int:  # repetitions count
        return int(self.summary["images_seen"])

    @cached_property
    def speeds(self) -> np.ndarray:
        """Logged training images/s of a device, by epoch without the first; where images grow, the mean of all."""
        speeds = self.by_epoch("images_per_second").to_numpy() / (self.environment.get("devices") or 1)
        if len(speeds) and self.run.config.get("data", {}).get("init_args", {}).get("grow"):
            return np.array([1 / (1 / speeds).mean()])
        return speeds[1:] if len(speeds) > 1 else speeds

    def cost(self, quantity: str) -> float:
        """Return an entry of `cost` in summary.json; nan if it is not known, as of runs of older versions."""
        value = self.summary.get("cost", {}).get(quantity)
        return math.nan if value is None else float(value)

    @cached_property
    def train_flops(self) -> float | None:
        """FLOPs per training image, counted in the run's own steps, the mean; None if the run did not log them."""
        counted = self.by_epoch("tflops") / self.by_epoch("images_per_second")
        devices = self.environment.get("devices") or 1  # one of each process
        return 1e12 * devices * float(counted.mean()) if len(counted) else None

    def seconds_to(self, target: float) -> float | None:
        """Return the training time to the first epoch with this validation score; its images take as logged."""
        scores, sign = self.by_epoch(self.run.metric.validation), self.run.metric.sign
        epochs = scores.index[sign * scores >= sign * target]
        if not len(epochs):
            return None
        speeds = self.by_epoch("images_per_second")
        trained = max([*scores.index, *speeds.index])  # the test's row is of an epoch more
        lengths = 1 / speeds.reindex(range(1, trained + 1)).fillna(speeds.mean() if len(speeds) else 1.0)
        share = float(lengths.loc[: epochs[0]].sum() / lengths.sum())
        return self.seconds_before + (self.seconds - self.seconds_before) * share

    @cached_property
    def _epochs(self) -> pd.DataFrame:  # the means of metrics.csv by epoch
        rows = self.history.dropna(subset="epoch")
        return rows.groupby(rows["epoch"].astype(int) + 1).mean(numeric_only=True)

    def by_epoch(self, column: str) -> pd.Series:
        """Return a column of metrics.csv by epoch from 1, averaged within the epoch; nothing of a frozen encoder."""
        metric, probed = self.run.metric, self.run.config.get("run", {}).get("probe") is not None
        of_head = probed and metric.is_accuracy and column == metric.validation  # which says nothing of the features
        known = column in self.history and not self.run.is_frozen and not of_head
        values: pd.Series = self._epochs[column].dropna() if known else pd.Series(dtype=float)
        return np.log(values) if metric.is_log and column == metric.validation else values


@dataclass(frozen=True)
class VariantResult:
    """The finished runs of a variant, at least one."""

    judged: Variant  # by their outcomes
    runs: list[RunResult]

    @property
    def variant(self) -> str:
        return self.judged.name

    @property
    def is_frozen(self) -> bool:
        return self.runs[0].run.is_frozen

    @property
    def index(self) -> int:  # in the study; determines color and marker
        return self.judged.index

    @property
    def score(self) -> Interval:  # over seeds
        return self.judged.score

    @property
    def score_ema(self) -> Interval | None:
        """Mean and interval of the averaged weights; None unless every run has them."""
        values = [value for result in self.runs if (value := result.score_ema) is not None]
        return self.judged.interval(values) if len(values) == len(self.runs) else None

    @property
    def untrained(self) -> float | None:
        """The mean accuracy of the features before training; None unless `run.probe` tests the runs."""
        known = [run.untrained for run in self.runs if run.untrained is not None]
        return float(np.mean(known)) if known else None

    @property
    def reliability(self) -> pd.DataFrame:
        """Mean confidence and accuracy, and number of predictions over all seeds, by bin of the calibration error."""
        sure = np.concatenate([predicted.probabilities(r.predictions.logits).max(axis=1) for r in self.runs])
        right = np.concatenate([result.correct for result in self.runs])
        which = np.minimum((sure * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
        means = pd.DataFrame({"confidence": sure, "accuracy": right}).groupby(which).mean()  # nan in empty bins
        return means.reindex(range(CALIBRATION_BINS)).assign(images=np.bincount(which, minlength=CALIBRATION_BINS))

    def mean(self, quantity: str) -> float:
        """Return the mean over seeds of a number of each run, like `seconds`; nan where a run has None."""
        return float(np.mean([getattr(result, quantity) for result in self.runs], dtype=float))

    def cost(self, quantity: str) -> float:
        """Return the mean of what the runs logged in `cost`; nan if none did."""
        known = [value for run in self.runs if not math.isnan(value := run.cost(quantity))]
        return fmean(known) if known else math.nan

    @property
    def speed(self) -> tuple[float, float, float] | None:
        """Quartiles of the training images per second and device over all epochs of all seeds; None if not logged."""
        speeds = np.concatenate([run.speeds for run in self.runs])
        return tuple(np.quantile(speeds, [0.25, 0.5, 0.75]).tolist()) if len(speeds) else None

    def seconds_to(self, target: float) -> float | None:
        """Return the mean training time to a validation score; None if a run did not reach it."""
        times = [seconds for result in self.runs if (seconds := result.seconds_to(target)) is not None]
        return float(np.mean(times)) if len(times) == len(self.runs) else None

    def curve(self, column: str) -> pd.DataFrame:
        """Return mean, low and high over the seeds of a column of metrics.csv, by epoch (rows), which count from 1."""
        table = pd.concat([result.by_epoch(column) for result in self.runs], axis=1)
        return pd.DataFrame({"mean": table.mean(axis=1), "low": table.min(axis=1), "high": table.max(axis=1)})


def read_results(outcomes: Sequence[Outcome], folds: int | None = None) -> tuple[list[RunResult], list[Outcome]]:
    """Read the finished runs; return them, and the failures, which no average includes, with their reasons.

    The `folds` of a seed are one result together; a seed that is not complete is left out, or fails with one of them.
    """
    failures = [outcome for outcome in outcomes if outcome.failure is not None]
    results = []
    for run in (outcome.run for outcome in outcomes if outcome.failure is None):
        try:
            why, d = cut_short(run), RunDirectory(run.directory)
            if why is None:
                result = RunResult(run, d.predictions, d.summary, d.environment, d.history, d.data, d.values)
                scores = result.score, result.seconds, d.metrics.get(run.metric.test, 0.0)
                known = d.metrics.get(TOP1.test) if run.metric.is_accuracy else None
                if not (np.isfinite(scores).all() and np.isfinite(result.predictions.logits).all()):
                    why = "its predictions or their score are not finite numbers"
                elif known is not None and abs(known - result.score) > 2 / len(result.correct):  # float32 may turn one
                    why = f"its predictions are of other weights or settings; run `test` on {run.directory}"
        except KeyError as error:
            why = f"{run.directory / SUMMARY} has no {error}"
        except (OSError, ValueError, TypeError) as error:
            why = f"its results cannot be read: {error}"
        if why is None:
            results.append(result)
        else:
            failures.append(Outcome(run, why))
    if folds:
        seeds: dict[tuple[str, int], dict[int, RunResult]] = {}
        for result in results:
            seeds.setdefault((result.run.variant, result.run.seed), {})[result.run.fold or 0] = result
        results = [of_folds([parts[i] for i in sorted(parts)]) for parts in seeds.values() if len(parts) == folds]
        failed: dict[tuple[str, int], list[Outcome]] = {}
        for outcome in failures:
            failed.setdefault((outcome.run.variant, outcome.run.seed), []).append(outcome)
        failures = [min(each, key=lambda outcome: outcome.failure == UNFINISHED) for each in failed.values()]
    test_sets = [(tuple(each.predictions.images), each.predictions.labels.tobytes()) for each in results]
    usual = Counter(test_sets).most_common(1)[0][0] if results else None
    others = [result for result, tested in zip(results, test_sets, strict=True) if tested != usual]
    failures += [Outcome(each.run, "was tested on other images or labels than the other runs") for each in others]
    return [result for result in results if result not in others], failures


def of_folds(parts: Sequence[RunResult]) -> RunResult:
    """Return the results of a seed's folds as those of one run that predicts all images, in order of their names."""
    tested, summaries = [part.predictions for part in parts], [part.summary for part in parts]
    names = [name for each in tested for name in each.images]
    order = np.argsort(names, kind="stable")
    averaged = [each.logits_ema for each in tested if each.logits_ema is not None]
    predictions = Predictions(
        images=[names[index] for index in order],
        labels=np.concatenate([each.labels for each in tested])[order],
        logits=np.concatenate([each.logits for each in tested])[order],
        logits_ema=np.concatenate(averaged)[order] if len(averaged) == len(parts) else None,
        strata={
            kind: np.concatenate([each.strata[kind] for each in tested])[order]
            for kind in tested[0].strata
            if all(kind in each.strata for each in tested)
        },
    )
    total = {key: sum(each.get(key, 0) for each in summaries) for key in ("seconds", "seconds_before", "images_seen")}
    least = min(part.summary.get("epochs", part.run.epochs) for part in parts)
    metrics = pd.DataFrame([each.get("metrics", {}) for each in summaries]).dropna(axis=1)
    weights = [len(each.images) for each in tested]
    means = {str(name): float(np.average(values, weights=weights)) for name, values in metrics.items()}
    costs = pd.DataFrame([each.get("cost", {}) for each in summaries]).astype(float)
    cost = {str(name): float(value) for name, value in costs.mean().items()}
    if "train_joules" in cost:
        cost["train_joules"] *= len(parts)
    first = parts[0]
    texts = [key for key, value in first.environment.items() if type(value) is str]
    both = {key: " and ".join(map(str, dict.fromkeys(part.environment.get(key) for part in parts))) for key in texts}
    digests = [str(part.data.get("splits", {}).get("train", {}).get("digest")) for part in parts]
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    return RunResult(
        run=replace(first.run, fold=None),
        predictions=predictions,
        summary={**total, "epochs": least, "metrics": means, "cost": cost},
        environment=first.environment | both,
        history=pd.concat([part.history for part in parts], ignore_index=True),
        data=first.data | {"splits": {"train": {"digest": digest}}},
        values=pd.concat([part.values for part in parts]),
        parts=tuple(parts),
    )


# ---- folds, which test each image once: their images as one test set, and what they change of the intervals

FOLDS = "folds.csv"  # in a study's folder


class Pool:
    """The images of all folds, by name, as the test images of a study."""

    def __init__(self, parts: Sequence[Images]) -> None:
        self.parts = parts
        self.class_names, self.grouping = parts[0].class_names, parts[0].grouping
        names = [name for part in parts for name in part.image_names("test")]
        places = [(part, index) for part in parts for index in range(len(part.image_names("test")))]
        self._order = np.argsort(names, kind="stable")
        self._places = [places[index] for index in self._order]
        self._names = [names[index] for index in self._order]

    def facts(self) -> dict[str, Any]:
        return {"classes": self.class_names, "splits": [part.facts()["splits"] for part in self.parts]}

    def image_names(self, split: Split) -> list[str]:
        """Return all names as those of the test images; for other splits those of the first fold."""
        return self._names if split == "test" else self.parts[0].image_names(split)

    def labels(self, split: Split) -> np.ndarray:
        if split != "test":
            return self.parts[0].labels(split)
        return np.concatenate([part.labels("test") for part in self.parts])[self._order]

    def raw_images(self, split: Split, indices: Sequence[int]) -> list[np.ndarray]:
        """Return test images, as one fold alone has images of other splits."""
        places = [self._places[index] for index in indices]
        return [image for part, index in places for image in part.raw_images(split, [index])]


def variance_inflation(folds: int | None) -> float:
    """Return by how much the variance over images grows where these also train the models that test each other.

    With many seeds, Nadeau and Bengio (2003, Machine Learning 52, 239-281) have σ² · n_test / n_train where independent
    images would have σ² / folds.
    """
    return folds / (folds - 1) if folds else 1.0


def table_of(finished: Sequence[RunResult]) -> pd.DataFrame:
    """Return the fold in which each image was tested, by image (rows) and seed."""
    folds = {}
    for result in finished:
        numbers = {name: part.run.fold for part in result.parts for name in part.predictions.images}
        folds[result.run.seed] = [numbers[name] for name in result.predictions.images]
    return pd.DataFrame(folds, index=finished[0].predictions.images)


# ---- all runs of a study


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


@dataclass(frozen=True)
class Context:
    """What a report states in addition to a study's results."""

    left_out: list[tuple[str, float | None]] = field(default_factory=list)  # runs in no average, and their test scores
    compute: list[Compute] = field(default_factory=list)
    trials: int = 0  # tuning runs
    trial_seconds: float = 0.0
    trial_images: int = 0
    studies: list[str] = field(default_factory=list)  # others in the same root that used the same test images
    leaks: list[str] = field(default_factory=list)  # what test images share with others, in sentences


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
        return {"majority class": self.majority, "k-NN on raw pixels": self.knn}

    def describe_knn(self) -> str:
        each = f" of each of {self.folds} folds" if self.folds else ""
        part = "of the " * self.subsampled
        return f"as k-NN tests features, k = 20, among {self.bank_images:,} {part}training images{each}"


@dataclass(frozen=True, eq=False)
class StudyResults:
    """Everything that a report is written from."""

    study: Study
    differences: list[Departure]
    finished: list[RunResult]
    failures: list[Outcome]
    baselines: Baselines | None  # None unless ranked by accuracy
    class_names: list[str]
    choices: list[Choice] = field(default_factory=list)  # of tuning, by variant
    metric: Metric = TOP1
    log: list[dict[str, Any]] = field(default_factory=list)  # looks.jsonl, without the present look
    context: Context = field(default_factory=Context)

    @cached_property
    def outcomes(self) -> Outcomes:
        """The study as a table: a row for each finished run and test image, and one for each failed run."""
        items = np.asarray(self.images) if self.by_image else np.array([], dtype=str)
        groups = groups_of(self.study, self.images) if len(items) else None
        watched = [key for key in MACHINE if key not in self.set_by_study and len(self.environment.get(key, [])) > 1]
        runs = [
            Row(
                r.run.variant,
                str(r.run.seed),
                r.by_image if self.by_image and r.by_image is not None else np.array([r.score]),
                items,
                groups=groups,
                name=str(r.run),
                block=", ".join(f"{key} {r.environment.get(key, ABSENT)}" for key in watched),
            )
            for r in self.finished
        ]
        nothing = np.array([math.nan])
        runs += [Row(run.variant, str(run.seed), nothing, name=str(run)) for run, _ in self.failures]
        overlap, factors = variance_inflation(self.study.folds), self.study.factors or None
        return Outcomes(
            runs, self.metric, planned=list(self.study.variants), unit="image", overlap=overlap, factors=factors
        )

    @cached_property
    def set_by_study(self) -> set[str]:
        """The entries of environment.json that the study varies itself."""
        names = {name_of(each.key) for each in self.differences}
        return names | ({"device"} if names & {"accelerator", "devices"} else set())

    @cached_property
    def by_image(self) -> bool:  # whether intervals are over images too
        return bool(self.finished) and all(result.by_image is not None for result in self.finished)

    @cached_property
    def verdict(self) -> Verdict:
        """What referee concludes from that table, whatever else differs between the variants."""
        study, seeds, unmet = self.study, tuple(map(str, self.study.seeds)), tuple[str, ...]()
        margin = None if study.margin is None else self.metric.own(study.margin)
        if study.claim is not None and study.claim.needs:  # of quantities in summary.json, and lines of baselines
            scores: dict[str, dict[str, list[float]]] = {}
            for result in self.finished:
                metrics = sorted(result.summary.get("metrics", {}).items(), reverse=True)  # val/ first: test/ counts
                known = {name.rpartition("/")[2]: value for name, value in metrics} | {"score": result.score}
                for name, value in known.items():
                    scores.setdefault(name, {}).setdefault(result.run.variant, []).append(value)
            lines: dict[str, Line] = dict(scores)  # of each run, like knn_pixels for knn
            if raw := self.baselines:
                lines |= {"chance": raw.majority, "pixels": raw.knn, "untrained": scores.get("top1_untrained", {})}
            unmet = study.claim.unmet(scores, lines)
        plan = (study.test, margin, study.looks, seeds, self.earlier_plans)
        return of_trainings(self.outcomes, Design(*plan, study.claim, unmet, study.until_cells))

    @property
    def scored(self) -> str:
        if self.metric.split == "test":
            return counted(len(self.labels), "test image")
        known = self.finished[0].data.get("splits", {}).get("val", {}).get("images")
        return counted(known, "validation image") if known else "validation images"

    @cached_property
    def ranking(self) -> list[VariantResult]:
        """Variants with at least one finished run, in the order of the verdict."""
        runs = {(result.run.variant, str(result.run.seed)): result for result in self.finished}
        return [VariantResult(v, [runs[v.name, run.seed] for run in v.runs]) for v in self.verdict.ranking]

    @cached_property
    def earlier_plans(self) -> tuple[int, ...]:
        """The numbers of seeds of shorter lists after which this study was reported, and then extended."""
        plans = [look["seeds"] for look in self.log if look["stop"] and set(look["seeds"]) < set(self.study.seeds)]
        return tuple(sorted({len(plan) for plan in plans if len(plan) > 1}))

    def used(self) -> "StudyResults":
        """Return these results without the runs that no look uses, because their variant was settled before."""
        watch = self.verdict.watch
        if watch is None or not watch.looks:
            return self
        looked_at = {name: self.study.seeds[:number] for name, number in watch.trained.items()}
        finished = [each for each in self.finished if each.run.seed in looked_at[each.run.variant]]
        failures = [each for each in self.failures if each.run.seed in looked_at[each.run.variant]]
        return replace(self, finished=finished, failures=failures)

    @property
    def labels(self) -> np.ndarray:
        """Labels of the test images, (N,), or (N, K) where an image has no single class."""
        return self.finished[0].predictions.labels

    @property
    def images(self) -> list[str]:  # names of the test images
        return self.finished[0].predictions.images

    @property
    def tested_on_validation(self) -> bool:
        return any(result.data.get("test_is_validation") for result in self.finished)

    @cached_property
    def environment(self) -> dict[str, list[str]]:
        """The distinct values of each entry of environment.json over the finished runs."""
        flat = [flatten(result.environment) for result in self.finished]
        keys = dict.fromkeys(key for known in flat for key in known if key.split(".")[0] not in OWN_TO_A_RUN)
        values = {key: [known.get(key, ABSENT) for known in flat] for key in keys}
        return {
            key: list(dict.fromkeys(value if isinstance(value, str) else as_yaml(value) for value in own))
            for key, own in values.items()
        }

    @cached_property
    def target(self) -> float | None:
        """The validation score that all runs reached, in whole per cent; None where they are not validated by it."""
        trained = [result for result in self.finished if not result.run.is_frozen]
        scores = [result.by_epoch(self.metric.validation).to_numpy() for result in trained]
        if not scores or not all(map(len, scores)):
            return None
        if self.metric.is_fraction:
            return math.floor(100 * min(np.max(values, initial=0) for values in scores) + 1e-9) / 100
        sign = self.metric.sign
        return sign * float(min(np.max(sign * values, initial=-math.inf) for values in scores))

    @cached_property
    def per_class(self) -> pd.DataFrame:
        """Accuracy by class (rows) and variant (columns, ranked), mean over seeds, and the number of test images."""
        K = len(self.class_names)
        table = pd.DataFrame({"images": np.bincount(self.labels, minlength=K)}, self.class_names)
        for result in self.ranking:
            right = np.mean([run.correct for run in result.runs], axis=0)  # (N,)
            sums = np.bincount(self.labels, weights=right, minlength=K)
            table[result.variant] = sums / table["images"].where(table["images"] > 0)
        return table

    @cached_property
    def label_margins(self) -> pd.DataFrame:
        """Each image's label and what it may be mistaken for, the most suspicious label first.

        The normalized margin is p(label) − the largest p of another class (confident learning, Northcutt et al. 2021),
        p being the mean over the seeds of the leading variant.
        """
        logits = [run.predictions.logits for run in self.ranking[0].runs]
        p = np.mean([predicted.probabilities(each) for each in logits], axis=0)  # (N, K)
        is_label = np.arange(p.shape[1]) == self.labels[:, None]
        others = np.where(is_label, -1.0, p)
        names = np.asarray(self.class_names)
        columns = {"label": names[self.labels], "p_label": p[is_label], "likeliest_other": names[others.argmax(axis=1)]}
        table = pd.DataFrame({**columns, "p_other": others.max(axis=1)}, self.images)
        return table.assign(margin=table["p_label"] - table["p_other"]).sort_values("margin", kind="stable")

    def table(self) -> pd.DataFrame:
        """Return one row per run, failed ones included, for results.csv."""
        name, unscaled = self.metric.name, math.exp if self.metric.is_log else float
        rows: list[dict[str, Any]] = []
        for result in self.finished:
            predictions, raw = result.predictions, self.baselines
            row: dict[str, Any] = {"variant": result.run.variant, "seed": result.run.seed, "status": "finished"}
            row[name] = unscaled(result.score)
            if self.metric.one_class:
                row |= {"top1": float(result.correct.mean())} if not self.metric.is_accuracy else {}
                row |= {name: getattr(result, name) for name in ("nll", "ece", "temperature", "ece_calibrated")}
                if len(self.class_names) > 5:  # else it is 1
                    row["top5"] = predicted.top_k_accuracy(predictions.logits, predictions.labels, 5)
            if result.score_ema is not None:
                row[f"{name}_ema"] = unscaled(result.score_ema)
            if raw is not None:
                row |= {"beats_majority": result.score > raw.majority, "beats_knn": result.score > raw.knn}
            row |= {"epochs": result.run.epochs, "images_seen": result.images_seen, "train_seconds": result.seconds}
            if self.target is not None:
                row[f"seconds_to_{self.target:g}"] = result.seconds_to(self.target)
            row |= {
                "parameters": result.cost("parameters"),
                "forward_flops_per_image": result.cost("flops"),
                "train_images_per_second": np.median(result.speeds) if len(result.speeds) else math.nan,
                "inference_images_per_second": result.cost("inference_images_per_second"),
                "train_flops_per_image": result.train_flops,
                "train_joules_per_image": result.cost("train_joules") / max(1, result.images_seen),
                "train_peak_bytes": result.cost("train_peak_bytes"),
                "inference_peak_bytes": result.cost("inference_peak_bytes"),
                "device": result.environment.get("device"),
                "directory": " ".join(map(str, result.directories)),
            }
            rows.append(row)
        for run, failure in self.failures:
            rows.append({"variant": run.variant, "seed": run.seed, "status": failure, "directory": str(run.directory)})
        order = {variant: index for index, variant in enumerate(self.study.variants)}
        table = pd.DataFrame(rows).convert_dtypes()  # integers stay integers in columns with empty cells
        return table.sort_values(["variant", "seed"], key=lambda c: c.map(order) if c.name == "variant" else c)


def context_of(
    study: Study, runs: Sequence[Run], used: Iterable[Run], folder: Path, metric: Metric, leaks: list[str]
) -> Context:
    """Return what a study's results depend on beside its runs, of which `used` are counted, failed ones included."""
    finished = list(_finished(folder.parent, f"*-{folder.name}") if study.place else _finished(folder))
    if study.place:  # another place's name may end with this one's
        others = [each.name for each in folder.parent.glob(f"?*{folder.name}") if not any(_inside(each, ""))]
        ends = tuple(f"-{name}" for name in others)
        finished = [each for each in finished if not each.relative_to(folder.parent).parts[0].endswith(ends)]
    names, left_out = {study.folder(Path(), name).name: name for name in study.variants}, list[tuple[str, Any]]()
    averaged = {run.directory for run in used}
    for directory in [each for each in finished if each not in averaged]:
        short, *parts = directory.parts[-3:] if directory.parent.name.startswith("fold-") else directory.parts[-2:]
        score = RunDirectory(directory).metrics.get(metric.test)
        if metric.is_log and score is not None:
            score = math.log(score) if score > 0 else None
        words = [names.get(short, short), *(part.replace("-", " ") for part in parts[::-1])]
        left_out.append((", ".join(words), score))
    summaries = [RunDirectory(file.parent).summary for file in (folder / "tuning").rglob(SUMMARY)]
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
        left_out=left_out,
        compute=compute,
        trials=len(summaries),
        trial_seconds=sum(float(summary.get("seconds", 0)) for summary in summaries),
        trial_images=sum(int(summary.get("images_seen", 0)) for summary in summaries),
        studies=[each.name for each in siblings if split is not None and _test_split(_finished(each)) == split],
        leaks=leaks,
    )


def _finished(folder: Path, variants: str = "*") -> Iterator[Path]:
    """Yield the finished run directories of a study's folder, by variant and seed."""
    for variant in sorted(path for path in folder.glob(variants) if path.name not in RESERVED_SLUGS):
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
    """Return the baselines of an `ImageDataModule`."""
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


def duplicates(images: Images, data: Config, cache: Path) -> list[str]:
    """Return remarks on test images that are in other splits too: a model may have memorized them, see `leaks`."""

    def compute() -> list[str]:
        parts, unknown = list[dict[Split, Subset]](), 0
        for part in getattr(images, "parts", [images]):  # of a `Pool`
            # Where the test split is the validation split, the report says so.
            same = part.image_names("val") == part.image_names("test")
            names = {split: part.image_names(split) for split in SPLITS if split != "val" or not same}
            few = sum(map(len, names.values())) <= MOST_COMPARED  # or images would be decoded that are not compared
            parts.append({})
            for split, own in names.items():
                known = part.dataset(split)
                dhashes = known.dhashes() if few else np.zeros((len(own), 32), np.uint8)
                parts[-1][split] = Subset(own, part.labels(split), known.contents(), dhashes)
            unknown += int((parts[-1]["test"].contents == 0).sum())
        missing = f"Copies of {counted(unknown, 'test image')} in other splits were not looked for: they have no hash."
        return leaks(parts) + [missing] * bool(unknown)

    return list(cached(cache, images, data, compute))
