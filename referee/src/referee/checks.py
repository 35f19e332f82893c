"""Numbered checks of a table of outcomes: what makes a comparison void, and what qualifies it (docs/checks.md)."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy import special

from referee.formats import SPACE, counted, joined, listed
from referee.outcomes import Outcomes
from referee.statistics.contrast import LEVEL, enough, over_seeds

MANY = 50  # items: fewer may be equal by chance
FEW_ERRORS = 10
LEAST_GROUPS = 5
ENOUGH_GROUPS = 12  # of equal size: with 5, 8 and 12, equal variants of 4 seeds differ in 11, 10 and 6 % of tests
APART = 5  # standard deviations between the two states in which seeds end
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
    checked = [check for check in CHECKS if outcomes.unit != "fold" or check not in OF_ITEMS]
    findings = [finding for check in checked for finding in check(outcomes)]
    return sorted(findings, key=lambda finding: not finding.is_void)


def other_items(outcomes: Outcomes) -> Iterator[Check]:
    """R001: runs were tested on different items."""
    runs = [run for run in outcomes.runs if run.has_result]
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
        told = [run for run in outcomes.runs if getattr(run, kind) is not None]
        known = [(run, dict(zip(run.items, getattr(run, kind), strict=True))) for run in told]
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
            same = np.array_equal(a.outcomes, b.outcomes) and len({*a.outcomes}) > 1
            if same and (a.predictions is None or b.predictions is None or (a.predictions == b.predictions).all()):
                void = a.outcomes.dtype != bool or FEW_ERRORS <= a.outcomes.sum() <= len(a.outcomes) - FEW_ERRORS
                text = f"{a} and seed {b.seed} have equal outcomes, as of one run twice. Leave one out."
                yield Check("R003", text, is_void=bool(void))
                return


def few_seeds(outcomes: Outcomes) -> Iterator[Check]:
    """R004: a variant has one seed, or two beside others with more than four."""
    counts = {variant: len(runs) for variant in outcomes.variants if (runs := outcomes.of(variant))}
    if set(counts.values()) == {1}:
        yield Check("R004", "every variant has one seed: another training may give another order.")
        return
    is_enough = dict(zip(counts, enough([*counts.values()]), strict=True))
    for seeds, least in ((1, "two are the least"), (2, "beside more than four, three are")):
        if few := [variant for variant, count in counts.items() if count == seeds and not is_enough[variant]]:
            verb = "has" if len(few) == 1 else "have"
            yield Check("R004", f"{joined(few)} {verb} {counted(seeds, 'seed')} and cannot be compared; {least}.")


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
    """R006: the spread over seeds of two variants differs beyond chance, by F tests of all pairs (Bonferroni)."""
    names = [variant for variant in outcomes.variants if len(outcomes.of(variant)) > 1]
    if len(names) < 2:
        return
    scores = [np.array([run.outcomes.mean() for run in outcomes.of(name)]) for name in names]
    step = max((1 / len(run.items) for run in outcomes.runs if run.outcomes.dtype == bool), default=0.0)
    variances = over_seeds(scores, step)
    wide, narrow = int(variances.argmax()), int(variances.argmin())
    tail = LEVEL / (len(names) * (len(names) - 1))
    if variances[wide] > special.fdtri(len(scores[wide]) - 1, len(scores[narrow]) - 1, 1 - tail) * variances[narrow]:
        times = f"{math.sqrt(variances[wide] / variances[narrow]):.1f} times that of {names[narrow]}"
        text = f"the spread of {names[wide]} over seeds is {times}: spreads differ; each pair uses its own."
        yield Check("R006", text)


def two_states(outcomes: Outcomes) -> Iterator[Check]:
    """R015: seeds end in one of two states, of which each variant may have luck with its few."""
    of_runs = sorted((float(run.outcomes.mean()), run.variant) for run in outcomes.runs if run.has_result)
    scores = np.array([score for score, _ in of_runs])
    if len(scores) < 6:
        return
    cut = int(np.diff(scores).argmax()) + 1
    spread = max(each.std(ddof=1) if len(each) > 1 else 0.0 for each in (scores[:cut], scores[cut:]))
    low, high = ({variant for _, variant in part} for part in (of_runs[:cut], of_runs[cut:]))
    both = [variant for variant in outcomes.variants if variant in low & high]
    if both and scores[cut] - scores[cut - 1] > APART * spread > 0:
        text = f"seeds end in one of two states ({joined(both)}); a lead may be the luck of few seeds: train 10."
        yield Check("R015", text)


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
    if groups is not None and (size := round(outcomes.dependence.size(len(groups)))) < ENOUGH_GROUPS:
        known = f"intervals over {counted(int(groups.max()) + 1, 'group')}, which tell as much as {size} of equal size,"
        yield Check("R014", f"{known} are too narrow: up to twice as many are false; {ENOUGH_GROUPS} do.")


def failed_runs(outcomes: Outcomes) -> Iterator[Check]:
    """R011: runs have no result."""
    failed = [run for run in outcomes.runs if not run.has_result]
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


CHECKS: Iterable = (repeated_items, other_items, other_labels, failed_runs, equal_runs, few_seeds, missing_seeds,
                    unequal_spreads, two_states, below_majority, hidden_groups, few_groups, ceiling)  # fmt: skip
OF_ITEMS = (few_seeds, hidden_groups, ceiling)  # no findings where items are folds, which train models too
