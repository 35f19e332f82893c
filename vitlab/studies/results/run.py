"""The results of finished runs, read from their directories: of a run, of a seed's folds, of a variant's runs.

A result that no average may include is a failure with the reason.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from referee.formats import listed
from referee.statistics.contrast import Interval
from referee.verdict import Variant

from vitlab.evaluation import predictions as predicted
from vitlab.evaluation.predictions import CALIBRATION_BINS, Predictions
from vitlab.runs.directory import SUMMARY, RunDirectory
from vitlab.studies.file.fairness import Images, Split
from vitlab.studies.file.metric import TOP1
from vitlab.studies.file.registration import UNFINISHED, Outcome, cut_short
from vitlab.studies.file.runs import Run


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

    @property
    def devices(self) -> int:  # one of each process
        return int(self.environment.get("devices") or 1)

    @cached_property
    def speeds(self) -> np.ndarray:
        """Logged training images/s of a device, by epoch without the first; where images grow, the mean of all."""
        speeds = self.by_epoch("images_per_second").to_numpy() / self.devices
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
        return 1e12 * self.devices * float(counted.mean()) if len(counted) else None

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
        values = [result.score_ema for result in self.runs]
        return None if None in values else self.judged.interval(np.array(values, dtype=float).tolist())

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
        return float(np.mean(np.array([getattr(result, quantity) for result in self.runs], dtype=float)))

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
        times = [result.seconds_to(target) for result in self.runs]
        return None if None in times else float(np.mean(np.array(times, dtype=float)))

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


def overlap_of(folds: int | None) -> float:
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
