"""The results of a study: its variants ranked and compared in pairs."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from referee.statistics import comparison as statistics
from referee.statistics.comparison import Difference
from referee.statistics.intervals import Interval, t_interval
from referee.statistics.items import McNemar, mcnemar
from referee.statistics.power import Pilot, growing, measured
from referee.statistics.sequential import Watch, level, watch

from vitlab.config import ABSENT, flatten
from vitlab.evaluation import predictions as predicted
from vitlab.evaluation.cost import Cost
from vitlab.evaluation.per_class import in_order
from vitlab.studies.baselines import Baselines
from vitlab.studies.execution.local import Outcome
from vitlab.studies.format import as_yaml
from vitlab.studies.grid import Difference as Departure
from vitlab.studies.grid import Run
from vitlab.studies.metric import TOP1, Metric
from vitlab.studies.outside import Outside
from vitlab.studies.run_results import RunResult, VariantResult
from vitlab.studies.study import Study
from vitlab.studies.training.tuning import Choice

# Variants that differ in these are marked: their scores are not comparable, or come from another machine.
DECISIVE = (
    "data.init_args.image_size",
    "data.init_args.crop_pct",
    *("vitlab", "git", "code", "torch", "torchvision", "timm", "device", "precision"),
)
OWN_TO_A_RUN = ("command", "sources", "weights", "changed")  # entries of environment.json that belong to one run


class Pair(NamedTuple):
    """A comparison of two variants, the one with the better mean first."""

    better: VariantResult
    worse: VariantResult
    difference: Difference | None  # None if one of them has a single seed
    pilot: Pilot | None  # the variances in the study, for planning
    mcnemar: dict[int, McNemar]  # by shared seed
    p: float = math.nan  # adjusted for all pairs; of the look that settled the pair
    settled: bool = False  # the first is better beyond chance
    equal: bool = False  # not settled, and equal to within the study's margin

    @property
    def lead(self) -> float:
        """The difference of the means, 0 or more."""
        metric = self.better.runs[0].run.metric
        return metric.sign * (self.better.score.mean - self.worse.score.mean)

    @property
    def interval(self) -> Interval:
        """The lead with the simultaneous interval of all pairs, above 0 if settled (Strassburger & Bretz 2008)."""
        if self.difference is None:
            return Interval(self.lead, math.nan, math.nan)
        _, low, high = self.difference.interval
        return Interval(self.lead, max(low, 0.0) if self.settled else low, high)


@dataclass(frozen=True, eq=False)
class StudyResults:
    """Everything that a report is written from."""

    study: Study
    differences: list[Departure]
    finished: list[RunResult]
    failures: list[Outcome]
    costs: dict[str, Cost]  # by variant; a variant may be missing
    cost_failures: dict[str, str]  # by variant: why
    baselines: Baselines | None  # None unless ranked by accuracy
    class_names: list[str]
    choices: list[Choice] = field(default_factory=list)  # of tuning, by variant
    metric: Metric = TOP1
    log: list[dict[str, Any]] = field(default_factory=list)  # looks.jsonl, without the present look
    outside: Outside = field(default_factory=Outside)

    @cached_property
    def ranking(self) -> list[VariantResult]:
        """Variants with at least one finished run, the best mean score first, those that left the race last.

        A paired test knows no seed that failed in a variant.
        """
        runs = {v: [result for result in self.finished if result.run.variant == v] for v in self.study.variants}
        if self.study.test == "paired":
            seeds = [{result.run.seed for result in own} for own in runs.values() if own]
            shared = set.intersection(*seeds) if seeds else set()
            runs = {v: [result for result in own if result.run.seed in shared or not shared] for v, own in runs.items()}
        results = [VariantResult(v, index, own) for index, (v, own) in enumerate(runs.items()) if own]
        beaten = {worse for _, worse in self.watch.settled} if self.watch else set()
        return sorted(results, key=lambda result: (result.index in beaten, -self.metric.sign * result.score.mean))

    @cached_property
    def digits(self) -> int:
        """The decimals with which scores are shown."""
        return self.metric.digits([result.score.mean for result in self.ranking], len(self.labels))

    @cached_property
    def watch(self) -> Watch | None:
        """The looks at a study that grows until it is settled; None for a fixed list of seeds."""
        if not self.study.looks:
            return None
        outcomes: list[dict[int, np.ndarray | None]] = []
        for variant in self.study.variants:
            failed = {run.seed: None for run, _ in self.failures if run.variant == variant}
            outcomes.append(failed | {r.run.seed: r.outcome for r in self.finished if r.run.variant == variant})
        return watch(outcomes, self.study.seeds, self.study.looks, self.margin, self.study.test)

    def used(self) -> "StudyResults":
        """Return these results without the runs that no look uses, because their variant was settled before."""
        if self.watch is None or not self.watch.looks:
            return self
        count = {variant: self.watch.trained[index] for index, variant in enumerate(self.study.variants)}

        def looked_at(run: Run) -> bool:
            return run.seed in self.study.seeds[: count[run.variant]]

        finished = [result for result in self.finished if looked_at(result.run)]
        return replace(self, finished=finished, failures=[each for each in self.failures if looked_at(each.run)])

    @property
    def margin(self) -> float | None:
        """The smallest difference that matters, in the metric's own unit."""
        return None if self.study.margin is None else self.study.margin / self.metric.scale

    @cached_property
    def earlier_plans(self) -> tuple[int, ...]:
        """The numbers of seeds of shorter lists after which this study was reported, and then extended."""
        plans = [look["seeds"] for look in self.log if look["stop"] and set(look["seeds"]) < set(self.study.seeds)]
        return tuple(sorted({len(plan) for plan in plans if len(plan) > 1}))

    @cached_property
    def level(self) -> float:
        """The level of each look: 0.05 if there is only one."""
        return level(self.study.looks or (*self.earlier_plans, len(self.study.seeds)), self.study.test)

    @cached_property
    def pairs(self) -> list[Pair]:
        """Every two variants, in the order of the ranking."""
        differences, settled = self._differences(), self.watch.settled if self.watch else {}
        pairs = []
        for a, b in combinations(self.ranking, 2):
            if (b.index, a.index) in settled:  # by an earlier look, whose decision stands
                a, b = b, a
            difference = differences.get((a.index, b.index))
            p, is_better, is_equal = math.nan, False, False
            if difference is not None:
                p = settled.get((a.index, b.index), difference.adjusted)
                is_better = (a.index, b.index) in settled if self.watch else p < self.level
                is_equal = not is_better and self.margin is not None and difference.is_within(self.margin)
            mcnemar = _mcnemar(a, b) if self.metric.is_accuracy else {}
            pairs.append(Pair(a, b, difference, self.pilot if difference else None, mcnemar, p, is_better, is_equal))
        return pairs

    def _differences(self) -> dict[tuple[int, int], Difference]:
        """Return each variant, by its index, minus each other that has several seeds too."""
        if self.watch and self.watch.looks:
            differences = self.watch.looks[-1].differences
        else:
            several = [result for result in self.ranking if len(result.runs) > 1]
            lists = {tuple(run.run.seed for run in result.runs) for result in several}
            found = {}
            if len(several) > 1 and (self.study.test != "paired" or len(lists) == 1):
                found = statistics.differences([v.outcomes for v in several], self.study.test, self.level)
            differences = {(several[a].index, several[b].index): each for (a, b), each in found.items()}
        return differences | {(b, a): each.reversed() for (a, b), each in differences.items()}

    @cached_property
    def pilot(self) -> Pilot | None:
        """What these runs say about variances, for planning; more seeds take more looks."""
        looks = self.study.looks or (*self.earlier_plans, len(self.study.seeds))
        pilot = measured([result.outcomes for result in self.ranking], len(self.ranking))
        return pilot and pilot._replace(level=growing(looks, bool(self.study.looks), self.study.test))

    @property
    def labels(self) -> np.ndarray:
        """Labels of the test images, (N,), or (N, K) where an image has no single class."""
        return self.finished[0].predictions.labels

    @property
    def images(self) -> list[str]:
        """Names of the test images."""
        return self.finished[0].predictions.images

    @property
    def tested_on_validation(self) -> bool:
        """Whether the test images are also the validation images."""
        return any(result.data.get("test_is_validation") for result in self.finished)

    def lines_not_beaten(self, score: float) -> list[str]:
        """List the baselines that a score does not exceed."""
        lines = self.baselines.lines if self.baselines else {}
        return [name for name, line in lines.items() if score <= line]

    @cached_property
    def environment(self) -> dict[str, list[str]]:
        """The distinct values of each entry of environment.json over the finished runs."""
        flat = [flatten(result.environment) for result in self.finished]
        keys = dict.fromkeys(
            key for environment in flat for key in environment if key.split(".")[0] not in OWN_TO_A_RUN
        )
        return {key: list(dict.fromkeys(_text(environment.get(key, ABSENT)) for environment in flat)) for key in keys}

    @cached_property
    def target(self) -> float | None:
        """The validation score to which time is reported: the study's, or what all runs reached, in whole per cent.

        None where runs are not validated by the metric.
        """
        if not all(len(result.by_epoch(self.metric.validation)) for result in self.finished):
            return None
        if self.study.target_accuracy is not None:
            return self.study.target_accuracy
        scores = [result.by_epoch(self.metric.validation).to_numpy() for result in self.finished]
        if self.metric.is_accuracy:
            return math.floor(100 * min(np.max(values, initial=0) for values in scores) + 1e-9) / 100
        sign = self.metric.sign
        return sign * float(min(np.max(sign * values, initial=-math.inf) for values in scores))

    @cached_property
    def decisive(self) -> list[str]:
        """The entries in which variants must agree; a commit only where not every run has the hash of its code."""
        superseded = "git" if all("code" in result.environment for result in self.finished) else "code"
        return [key for key in DECISIVE if key != superseded]

    def set_apart(self, result: VariantResult) -> list[str]:
        """List how a variant was tested differently from most: resolution, crop, versions, device."""
        marks = []
        for key in self.decisive:
            values = {
                r.variant: sorted(
                    {_text(flatten(run.run.config).get(key, run.environment.get(key, ABSENT))) for run in r.runs}
                )
                for r in self.ranking
            }
            counts = Counter(map(tuple, values.values()))
            (usual, count), own = counts.most_common(1)[0], values[result.variant]
            shared = set.intersection(*map(set, counts))  # by all variants
            if len(counts) > 1 and not shared and (tuple(own) != usual or 2 * count <= len(values)):
                marks.append(f"{key.rpartition('.')[2]} {' and '.join(own)}")
        return marks

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
    def per_stratum(self) -> dict[str, dict[str, dict[str, Interval]]]:
        """Accuracy by kind of stratum, stratum and variant (ranked), mean and interval over seeds."""
        tables: dict[str, dict[str, dict[str, Interval]]] = {}
        for kind, values in self.strata.items():
            chosen = {stratum: values == stratum for stratum in in_order(values)}
            tables[kind] = {
                stratum: {
                    result.variant: t_interval([run.correct[which].mean() for run in result.runs], 1 / which.sum())
                    for result in self.ranking
                }
                for stratum, which in chosen.items()
            }
        return tables

    @property
    def strata(self) -> Mapping[str, np.ndarray]:
        """The strata of the test images, (N,) of text by kind; none where a run does not know them."""
        known = [result.predictions.strata for result in self.finished]
        return known[0] if all(own.keys() == known[0].keys() for own in known) else {}

    def confusions(self, result: VariantResult) -> list[tuple[str, str, int]]:
        """List (label, prediction, count over all seeds) of a variant's errors, the most frequent first."""
        counts: Counter[tuple[int, int]] = Counter()
        for run in result.runs:
            wrong = ~run.correct
            guesses = run.predictions.logits[wrong].argmax(axis=1)
            counts.update(zip(self.labels[wrong].tolist(), guesses.tolist(), strict=True))
        return [(self.class_names[a], self.class_names[b], count) for (a, b), count in counts.most_common()]

    def table(self) -> pd.DataFrame:
        """Return one row per run, failed ones included, for results.csv."""
        rows = [self._row(result) for result in self.finished]
        rows += [
            {"variant": run.variant, "seed": run.seed, "status": failure, "directory": str(run.directory)}
            for run, failure in self.failures
        ]
        order = {variant: index for index, variant in enumerate(self.study.variants)}
        table = pd.DataFrame(rows).convert_dtypes()  # integers stay integers in columns with empty cells
        return table.sort_values(["variant", "seed"], key=lambda c: c.map(order) if c.name == "variant" else c)

    def _row(self, result: RunResult) -> dict[str, Any]:
        predictions, name = result.predictions, self.metric.name
        row: dict[str, Any] = {"variant": result.run.variant, "seed": result.run.seed, "status": "finished"}
        row[name] = result.score
        if self.metric.one_class:
            row |= {"nll": result.nll, "ece": result.ece}
            if len(self.class_names) > 5:  # else it is 1
                row["top5"] = predicted.top_k_accuracy(predictions.logits, predictions.labels, 5)
        if result.score_ema is not None:
            row[f"{name}_ema"] = result.score_ema
        if self.baselines is not None:
            row |= {
                "beats_majority": result.score > self.baselines.majority,
                "beats_knn": result.score > self.baselines.knn,
            }
        row |= {
            "epochs": result.run.epochs,
            "images_seen": result.images_seen,
            "train_seconds": result.seconds,
        }
        if self.target is not None:
            row[f"seconds_to_{self.target:g}"] = result.seconds_to(self.target)
        if (cost := self.costs.get(result.run.variant)) is not None:
            row |= {
                "parameters": cost.parameters,
                "forward_flops_per_image": cost.flops,
                "train_images_per_second": cost.train_images_per_second,
                "inference_images_per_second": cost.inference_images_per_second,
                "train_flops_per_image": cost.train_flops,
                "train_joules_per_image": cost.train_joules_per_image,
                "inference_joules_per_image": cost.inference_joules_per_image,
                "train_peak_bytes": cost.train_peak_bytes,
                "inference_peak_bytes": cost.inference_peak_bytes,
                "cost_device": cost.device,
            }
        return row | {"directory": str(result.run.directory)}


def _mcnemar(a: VariantResult, b: VariantResult) -> dict[int, McNemar]:
    of_b = {result.run.seed: result for result in b.runs}
    return {
        result.run.seed: mcnemar(result.correct, of_b[result.run.seed].correct)
        for result in a.runs
        if result.run.seed in of_b
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else as_yaml(value)
