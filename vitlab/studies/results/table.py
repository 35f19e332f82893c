"""The results of a study: its runs as a table of outcomes, which referee judges, and what else a report states."""

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from referee.claim import Line
from referee.formats import counted
from referee.judging import of_trainings
from referee.outcomes import Outcomes
from referee.outcomes import Run as Row
from referee.verdict import Design, Verdict

from vitlab.config import ABSENT, flatten
from vitlab.evaluation import predictions as predicted
from vitlab.studies.file.fairness import groups_of, name_of
from vitlab.studies.file.format import as_yaml
from vitlab.studies.file.metric import TOP1, Metric
from vitlab.studies.file.registration import Outcome
from vitlab.studies.file.runs import Difference as Departure
from vitlab.studies.file.runs import Run
from vitlab.studies.file.space import Choice
from vitlab.studies.file.study import Study
from vitlab.studies.results.context import Baselines, Context
from vitlab.studies.results.run import RunResult, VariantResult, overlap_of

MACHINE = ("torch", "torchvision", "timm", "device", "precision")  # entries of environment.json
# Variants that differ in these are marked: their scores are not comparable, or come from another machine.
SET_APART = ("data.init_args.image_size", "data.init_args.crop_pct", "vitlab", "code", *MACHINE)
OWN_TO_A_RUN = ("command", "sources", "weights", "changed")  # entries of environment.json that belong to one run


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
        overlap, factors = overlap_of(self.study.folds), self.study.factors or None
        return Outcomes(
            runs, self.metric, planned=list(self.study.variants), unit="image", overlap=overlap, factors=factors
        )

    @cached_property
    def set_by_study(self) -> set[str]:
        """The entries of environment.json that the study varies itself."""
        names = {name_of(each.key) for each in self.differences}
        return names | ({"device"} if names & {"accelerator", "devices"} else set())

    @cached_property
    def by_image(self) -> bool:
        """Whether every run has the metric by test image, so that intervals are over images too."""
        return bool(self.finished) and all(result.by_image is not None for result in self.finished)

    @cached_property
    def verdict(self) -> Verdict:
        """What referee concludes from that table, whatever else differs between the variants."""
        study = self.study
        seeds = tuple(map(str, study.seeds))
        margin = None if study.margin is None else self.metric.own(study.margin)
        design = Design(study.test, margin, study.looks, seeds, self.earlier_plans, study.claim, self._unmet)
        return of_trainings(self.outcomes, design)

    @property
    def scored(self) -> str:
        """The images that the metric is of, in words."""
        if self.metric.split == "test":
            return counted(len(self.labels), "test image")
        known = self.finished[0].data.get("splits", {}).get("val", {}).get("images")
        return counted(known, "validation image") if known else "validation images"

    @property
    def _unmet(self) -> tuple[str, ...]:
        """Why these runs lack what the study's claim needs: of quantities in summary.json, and lines of baselines."""
        if self.study.claim is None or not self.study.claim.needs:
            return ()
        scores: dict[str, dict[str, list[float]]] = {}
        for result in self.finished:
            metrics = sorted(result.summary.get("metrics", {}).items(), reverse=True)  # val/ before test/, which counts
            known = {name.rpartition("/")[2]: value for name, value in metrics} | {"score": result.score}
            for name, value in known.items():
                scores.setdefault(name, {}).setdefault(result.run.variant, []).append(value)
        lines: dict[str, Line] = dict(scores)  # of each run, like knn_pixels for knn
        if raw := self.baselines:
            lines |= {"chance": raw.majority, "pixels": raw.knn, "untrained": scores.get("top1_untrained", {})}
        return self.study.claim.unmet(scores, lines)

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
        count = {variant: watch.trained[index] for index, variant in enumerate(self.study.variants)}

        def looked_at(run: Run) -> bool:
            return run.seed in self.study.seeds[: count[run.variant]]

        finished = [result for result in self.finished if looked_at(result.run)]
        return replace(self, finished=finished, failures=[each for each in self.failures if looked_at(each.run)])

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
        """The validation score to which time is reported: what all runs reached, in whole per cent.

        None where runs are not validated by the metric.
        """
        trained = [result for result in self.finished if not result.run.is_frozen]
        scores = [result.by_epoch(self.metric.validation).to_numpy() for result in trained]
        if not scores or not all(map(len, scores)):
            return None
        if self.metric.is_fraction:
            return math.floor(100 * min(np.max(values, initial=0) for values in scores) + 1e-9) / 100
        sign = self.metric.sign
        return sign * float(min(np.max(sign * values, initial=-math.inf) for values in scores))

    def set_apart(self, result: VariantResult) -> list[str]:
        """List how a variant was tested differently from most: resolution, crop, versions, device."""
        marks = []
        for key in SET_APART:
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
    def label_margins(self) -> pd.DataFrame:
        """Each image's label and what it may be mistaken for, the most suspicious label first.

        The normalized margin is p(label) − the largest p of another class (confident learning, Northcutt et al. 2021),
        p being the mean over the seeds of the leading variant, of models that were not trained on the image.
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
                row |= {"nll": result.nll, "ece": result.ece}
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
        rows += [
            {"variant": run.variant, "seed": run.seed, "status": failure, "directory": str(run.directory)}
            for run, failure in self.failures
        ]
        order = {variant: index for index, variant in enumerate(self.study.variants)}
        table = pd.DataFrame(rows).convert_dtypes()  # integers stay integers in columns with empty cells
        return table.sort_values(["variant", "seed"], key=lambda c: c.map(order) if c.name == "variant" else c)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else as_yaml(value)
