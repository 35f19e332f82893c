"""Numbered checks of a table of outcomes: what makes a comparison void, and what qualifies it (docs/checks.md)."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np

from referee.formats import SPACE, counted, joined, listed
from referee.outcomes import Outcomes
from referee.statistics.comparison import over_seeds, poolable

MANY = 50  # items: fewer may be equal by chance
FEW_ERRORS = 10
LEAST_GROUPS = 5
ENOUGH_GROUPS = 12  # with 5, 8 and 12, equal variants of 4 seeds differ in 11, 10 and 6 % of simulated tests
MAJORITY_ITEMS = 20  # of a class, from which a majority is meant


class Check(NamedTuple):
    """A finding. A void comparison calls nothing better."""

    code: str
    text: str
    is_void: bool = False

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


def checks(outcomes: Outcomes) -> list[Check]:
    """Return the findings, those that make the comparison void first."""
    findings = [finding for check in CHECKS for finding in check(outcomes)]
    return sorted(findings, key=lambda finding: not finding.is_void)


def other_items(outcomes: Outcomes) -> Iterator[Check]:
    """R001: runs were tested on different items."""
    runs = [run for run in outcomes.runs if run.is_finite]
    known = Counter(tuple(run.items) for run in runs)
    if len(known) > 1:
        usual = set(known.most_common(1)[0][0])
        odd = next(run for run in runs if set(run.items) != usual or len(run.items) != len(usual))
        extra, missing = sorted(set(odd.items) - usual), sorted(usual - set(odd.items))
        parts = [f"lacks {listed(missing, 2)}"] * bool(missing) + [f"has also {listed(extra, 2)}"] * bool(extra)
        what = joined(parts) if parts else "has an item twice"
        yield Check("R001", f"the runs were tested on different items: {odd} {what}.", is_void=True)


def other_labels(outcomes: Outcomes) -> Iterator[Check]:
    """R002: the same item has different labels, or groups."""
    for kind in ("labels", "groups"):
        told = [(run, values) for run in outcomes.runs if (values := getattr(run, kind)) is not None]
        known = [(run, dict(zip(run.items, values, strict=True))) for run, values in told]
        for run, by_item in known[1:]:
            differing = [item for item, value in by_item.items() if str(known[0][1].get(item, value)) != str(value)]
            if differing:
                items = f"{counted(len(differing), 'item')} ({differing[0]})"
                yield Check("R002", f"{run} has other {kind} than {known[0][0]} of {items}.", is_void=True)
                return


def equal_runs(outcomes: Outcomes) -> Iterator[Check]:
    """R003: two seeds of a variant agree on every item; void where that is no ceiling or floor."""
    for variant in outcomes.variants:
        runs = [run for run in outcomes.of(variant) if len(run.items) >= MANY]
        for a, b in combinations(runs, 2):
            same = np.array_equal(a.outcomes, b.outcomes)
            if (
                same
                and len({*a.outcomes}) > 1
                and (a.predictions is None or b.predictions is None or (a.predictions == b.predictions).all())
            ):
                void = a.outcomes.dtype != bool or FEW_ERRORS <= a.outcomes.sum() <= len(a.outcomes) - FEW_ERRORS
                text = f"{a} and seed {b.seed} have equal outcomes, as of one run twice. Leave one out."
                yield Check("R003", text, is_void=bool(void))
                return


def one_seed(outcomes: Outcomes) -> Iterator[Check]:
    """R004: a variant has one seed."""
    single = [variant for variant in outcomes.variants if len(outcomes.of(variant)) == 1]
    if single and len(single) == len(outcomes.variants):
        yield Check("R004", "every variant has one seed: another training may give another order.")
    elif single:
        verb = "has" if len(single) == 1 else "have"
        yield Check("R004", f"{joined(single)} {verb} one seed and cannot be compared; two are the least.")


def missing_seeds(outcomes: Outcomes) -> Iterator[Check]:
    """R005: seeds are missing in between, as where the best of several were kept."""
    gaps = []
    for variant in outcomes.variants:
        seeds = sorted(int(run.seed) for run in outcomes.runs if run.variant == variant and run.seed.isdecimal())
        if len(seeds) > 1 and seeds[-1] < 10 * len(seeds) and (lacking := set(range(seeds[0], seeds[-1])) - set(seeds)):
            gaps.append(f"{variant} lacks seed {', '.join(map(str, sorted(lacking)[:3]))}")
    if gaps:
        yield Check("R005", f"{listed(gaps, 3)}. If seeds were left out for their scores, no test below is valid.")


def unequal_spreads(outcomes: Outcomes) -> Iterator[Check]:
    """R006: the spread over seeds of two variants differs beyond chance."""
    names = [variant for variant in outcomes.variants if len(outcomes.of(variant)) > 1]
    if len(names) < 2:
        return
    scores = [np.array([run.outcomes.mean() for run in outcomes.of(name)]) for name in names]
    step = max((1 / len(run.items) for run in outcomes.runs if run.outcomes.dtype == bool), default=0.0)
    variances = over_seeds(scores, step)
    if not poolable(variances, np.array([len(each) for each in scores])):
        times = math.sqrt(variances.max() / variances.min())
        wide, narrow = names[variances.argmax()], names[variances.argmin()]
        yield Check("R006", f"the spread of {wide} over seeds is {times:.1f} times that of {narrow}.")


def below_majority(outcomes: Outcomes) -> Iterator[Check]:
    """R007: a variant is not better than naming the most frequent label."""
    labels = next((run.labels for run in outcomes.runs if run.labels is not None), ())
    most = max(Counter(map(str, labels)).values(), default=0)
    if not outcomes.metric.is_fraction or outcomes.metric.mode == "min" or most < MAJORITY_ITEMS:
        return
    majority, runs = most / len(labels), {name: outcomes.of(name) for name in outcomes.variants}
    below = [v for v, own in runs.items() if own and np.mean([run.outcomes.mean() for run in own]) <= majority]
    if below:
        yield Check("R007", f"{joined(below)}: not above the most frequent label, {100 * majority:.1f}{SPACE}%.")


def repeated_items(outcomes: Outcomes) -> Iterator[Check]:
    """R008: a run has an item twice."""
    for run in outcomes.runs:
        items, counts = np.unique(run.items, return_counts=True)
        if len(items) < len(run.items):
            times = counted(int((counts > 1).sum()), "item")
            text = f"{run} has {times} more than once ({items[counts > 1][0]}): name seeds or items apart."
            yield Check("R008", text, is_void=True)
            return


def hidden_groups(outcomes: Outcomes) -> Iterator[Check]:
    """R010: items seem to come in groups, such as a folder or a source; the folders of classes are none."""
    run = next((run for run in outcomes.runs if len(run.items) >= MANY), None)
    if run is None or outcomes.groups is not None:
        return
    classes = 0 if run.labels is None else len(set(map(str, run.labels)))
    for separator in ("/", "_", "-"):
        groups = Counter(item.rpartition(separator)[0] for item in run.items)
        size = int(np.median(list(groups.values())))
        if LEAST_GROUPS <= len(groups) <= len(run.items) / 2 and "" not in groups and len(groups) != classes:
            what = f"{len(groups)} groups of about {size}, like {groups.most_common(1)[0][0]}{separator}…"
            text = "items are taken to be an independent sample; where groups are alike, tell them (--group COLUMN)."
            yield Check("R010", f"items may come in {what}: {text}")
            return


def few_groups(outcomes: Outcomes) -> Iterator[Check]:
    """R014: the variance over groups is known from few of them."""
    groups = outcomes.groups
    if groups is not None and (count := int(groups.max()) + 1) < ENOUGH_GROUPS:
        text = f"intervals over {count} groups are too narrow: up to twice as many are false; {ENOUGH_GROUPS} do."
        yield Check("R014", text)


def failed_runs(outcomes: Outcomes) -> Iterator[Check]:
    """R011: runs have no result."""
    failed = [run for run in outcomes.runs if not run.is_finite]
    if failed:
        runs, names = counted(len(failed), "run"), listed([*map(str, failed)], 3)
        yield Check("R011", f"{runs} without a finite result ({names}); no mean includes them.")


def ceiling(outcomes: Outcomes) -> Iterator[Check]:
    """R012: the best runs make fewer than ten errors, so that the items cannot tell them apart."""
    if not outcomes.by_item or not outcomes.metric.is_fraction:
        return
    right = outcomes.metric.mode == "max"
    few = [v for v in outcomes.variants if any((run.outcomes != right).sum() < FEW_ERRORS for run in outcomes.of(v))]
    if len(few) > 1:
        yield Check("R012", f"{joined(few)} make fewer than {FEW_ERRORS} errors: these items hardly tell them apart.")


CHECKS: Iterable = (
    repeated_items,
    other_items,
    other_labels,
    failed_runs,
    equal_runs,
    one_seed,
    missing_seeds,
    unequal_spreads,
    below_majority,
    hidden_groups,
    few_groups,
    ceiling,
)
