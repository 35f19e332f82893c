"""Judge runs: the table of outcomes → a verdict."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from referee.checks import Check, checks
from referee.claim import Race
from referee.effects import effects_of, over_datasets, ranked
from referee.formats import counted, joined, listed, shown_p
from referee.outcomes import NAMES, Outcomes, Reading, from_frame
from referee.shapes import in_rows, table_of
from referee.sources import read
from referee.statistics.blocks import estimated, first_confounded, interaction
from referee.statistics.contrast import LEVEL, TESTS, Cells, Contrast, Rule, both_ways, enough
from referee.statistics.exact import mcnemar
from referee.statistics.power import growing, measured
from referee.statistics.sequential import Rows, Watch, cells_of, compare, is_hopeless, watch
from referee.verdict import Design, Variant, Verdict, pairs_of

UNLIKE = 0.01  # p of an interaction of variants and blocks, below which nothing is compared
MOST_LOOKS = 200  # whose levels are simulated in seconds


def judge(
    table: Any,
    margin: float | None = None,
    looks: Sequence[int] = (),
    test: str = "pooled",
    metric: str | None = None,
    lower: bool | None = None,
    items: int | None = None,
    what: str | None = None,
    pick: str | None = None,
    folds: int | None = None,
    runs: int | None = None,
    spread: str | None = None,
    scale: str | None = None,
    **columns: str,
) -> Verdict:
    """Judge runs by their outcomes.

    Args:
        table: Outcomes; a DataFrame with a row for each run and item, or for each run; the same as a dictionary of
            arrays; or a folder or file.
        margin: the smallest difference that matters, as scores are shown: in points for a fraction.
        looks: the numbers of seeds at which the results were or will be looked at; empty: once, with all there are.
        test: pooled, exact, or paired for variants whose equal seeds share more than the order of the data.
        metric, lower, pick, folds, runs, spread: see `outcomes.Reading`.
        items: of the test set, where a table of scores is of one seed each and a score is a fraction of the items.
        scale: log, where a lead is a factor, as of losses, ratios and scores of unlike sizes.
        columns: by what they hold, like label="species", where a name is not a usual one (`outcomes.NAMES`).

    """
    if isinstance(table, Outcomes) and (metric is not None or lower or columns):
        raise ValueError("metric and lower: outcomes have theirs already. Leave them out.")
    reading = Reading(metric, lower, columns, None, pick, folds, runs, spread)
    try:
        if isinstance(table, str | Path):
            table = read([table], reading)
        if not isinstance(table, Outcomes):
            table = from_frame(in_rows(table_of(table, what), reading), reading)
        outcomes = table
    except ValueError as error:  # which names options of the command
        text = re.sub(rf"--({'|'.join(['metric', *NAMES])}) (\S*\w)", r'\1="\2"', str(error))
        text = text.replace("--lower", "lower=True").replace("--higher", "lower=False")
        raise ValueError(text) from error
    refuse_settings(margin, looks, test, scale)
    if outcomes.of_means and (test != "pooled" or looks):
        raise ValueError("published means: looks, and the tests exact and paired, need the score of each run.")
    outcomes = outcomes if scale is None else outcomes.logarithms()
    if outcomes.datasets or outcomes.factors:
        kind = "several data sets" if outcomes.datasets else "factors"
        if test == "exact" or (looks and outcomes.datasets):
            raise ValueError(f"{'test exact' if test == 'exact' else 'looks'}: not for {kind}. Leave it out.")
    design = Design(test, None if margin is None else outcomes.metric.own(margin), tuple(looks))
    if outcomes.datasets:
        each = {name: judge(outcomes.on(name), margin, (), test, items=items) for name in outcomes.datasets}
        return over_datasets(outcomes, each, design)
    findings = [*apart_by_block(outcomes, test), *checks(outcomes)]
    variants = _variants(outcomes)
    if test == "paired" and looks and len(variants) > 2:
        raise ValueError(f"test paired: of {len(variants)} variants one leaves the race before the others, with its "
                         "seeds. Give two variants, no looks, or another test.")  # fmt: skip
    scores = outcomes.metric.is_fraction and not outcomes.by_item and all(len(each.runs) == 1 for each in variants)
    if items is not None and not scores:
        raise ValueError(f"items {items}: it is for a table of one fraction a variant, like accuracy. Leave it out.")
    if len(variants) < 2 or any(check.is_void for check in findings):
        return Verdict(outcomes, variants, [], design, checks=findings)
    if all(len(variant.runs) == 1 for variant in variants):
        return _without_selected(_of_models(outcomes, variants, design, items, findings))
    shared = set.intersection(*({run.seed for run in variant.runs} for variant in variants))
    if test == "paired" and not looks and len(shared) < 2:
        raise ValueError(
            f"test paired needs two seeds that all variants share, not {len(shared)}. Give all variants the same."
        )
    return _without_selected(of_trainings(outcomes, design, findings))


def assert_better(new: Any, baseline: Any, margin: float | None = None, **settings: Any) -> None:
    """Raise an AssertionError with the verdict's sentence unless `new` is better than `baseline`: a gate in a test.

    Both are scores by seed or outcomes (seeds, items), as in a dictionary that `judge` takes, like other `settings`.
    """
    verdict = judge({"new": new, "baseline": baseline}, margin, **settings)
    if verdict.between("new", "baseline") != "better":
        raise AssertionError(verdict.sentence)


def _without_selected(verdict: Verdict) -> Verdict:
    """Return the verdict, void where a better variant lost runs: its lead is that of survivors."""
    runs = {pair.better.name: pair.better.runs for pair in verdict.pairs if pair.settled}
    for name, survived in runs.items():
        if failed := [run.seed for run in verdict.outcomes.runs if run.variant == name and not run.has_result]:
            total = counted(len(survived) + len(failed), "seed")
            of = f"{len(failed)} of {total} ({listed(failed)})"
            text = f"{name} failed in {of}, so its lead is that of selected runs."
            return replace(verdict, checks=[Check("R011", text, is_void=True), *verdict.checks])
    return verdict


def refuse_settings(margin: float | None, looks: Sequence[int], test: str, scale: str | None = None) -> None:
    """Raise ValueError for settings that fit no table."""
    if scale and margin is not None and not margin > 1:
        raise ValueError(f"margin {margin}: with scale log it is a factor above 1, like 1.05.")
    if test not in TESTS:
        raise ValueError(f"test {test}: give one of {', '.join(TESTS)}.")
    if margin is not None and not 0 <= margin < math.inf:
        raise ValueError(f"margin {margin}: give 0 or more.")
    if looks and (list(looks) != sorted(set(looks)) or looks[0] < 2):
        raise ValueError(f"looks {' '.join(map(str, looks))}: give rising numbers from 2 on, like 4 6 8.")
    if looks and looks[-1] > MOST_LOOKS:
        raise ValueError(f"looks up to {looks[-1]}: give at most {MOST_LOOKS} seeds.")
    if looks and test == "exact":
        raise ValueError("test exact needs a fixed list of seeds. Leave looks out, or give another test.")


def apart_by_block(outcomes: Outcomes, test: str) -> list[Check]:
    """Return the finding that a variant and a block cannot be told apart, or a spread from blocks: a void one."""
    blocks = outcomes.blocks or {}
    both = first_confounded(blocks, test)
    if both is None:
        several = [each for each in _variants(outcomes) if len(each.runs) > 1]
        known = _blocks_of(several) if test == "pooled" and len(several) > 1 else None
        if known is None:
            return []
        found = estimated([np.zeros(len(each)) for each in known], known)
        if all(math.isfinite(found.growth({a: 1, b: -1})) for a, b in combinations(range(len(known)), 2)):
            p = interaction([each.outcomes.mean(axis=1) for each in several], known)
            text = f"kinds of machines or places move variants unlike (p {shown_p(p)}). Judge one kind alone."
            return [Check("R016", text, is_void=True)] if p < UNLIKE else []
        in_blocks = f"{counted(sum(map(len, known)), 'run')} in {len(set(np.concatenate(known)))} blocks"
        text = f"{in_blocks} leave no degree of freedom for the spread over seeds. Add seeds in the same blocks."
        return [Check("R013", text, is_void=True)]
    (a, b), ran = both, [sorted(set(blocks[name].values())) for name in both]
    where = f"{a} ran in {joined(ran[0])}, {b} in {joined(ran[1])}"
    share = "no block" if test == "pooled" else f"not the same blocks, as test: {test} needs"
    return [Check("R013", f"{where}: they share {share}, and the lead may come from there.", is_void=True)]


def _variants(outcomes: Outcomes, paired: bool = False) -> list[Variant]:
    """Return the variants that have runs with a result; paired, with the seeds that all have, if any, in one order."""
    runs = {name: each for name in outcomes.variants if (each := outcomes.of(name))}
    shared = set.intersection(*({run.seed for run in each} for each in runs.values())) if paired and runs else set()
    if shared:
        order = [run.seed for run in next(iter(runs.values())) if run.seed in shared]
        runs = {name: [run for seed in order for run in each if run.seed == seed] for name, each in runs.items()}
    return [Variant(name, i, runs[name], outcomes.metric) for i, name in enumerate(outcomes.variants) if name in runs]


def of_trainings(outcomes: Outcomes, design: Design, findings: Sequence[Check] = ()) -> Verdict:
    """Judge what training gives: seeds and items are the two sources of chance."""
    claim, margin, rule = design.claim, design.margin, Rule(design.test, outcomes.dependence, outcomes.blocks)
    race, rows = None, dict[str, dict[str, np.ndarray | None]]()  # by seed, None where a run has no result
    for name in outcomes.variants:
        rows[name] = {run.seed: None for run in outcomes.runs if run.variant == name}
    for variant in _variants(outcomes):
        rows[variant.name] |= zip((run.seed for run in variant.runs), variant.outcomes, strict=True)
    if claim is not None and margin is not None:
        race = Race(claim.relations, margin, rule)
    watched = _watched(outcomes, rows, design, rule, race) if design.looks else None
    if race and not watched:
        race.look(rows, design.level)
    settled = watched.settled if watched else {}
    beaten = {worse for _, worse in settled}
    variants = _variants(outcomes, design.test == "paired")
    by_seed = {variant.name: variant.outcomes for variant in variants}
    if rule.blocks is not None and rule.test == "pooled":
        by_seed = _without_blocks(variants)
    is_enough = dict(zip(by_seed, enough([len(variant.runs) for variant in variants]), strict=True))

    def place(variant: Variant) -> tuple[bool, bool, float]:
        too_few = not design.seeds and not is_enough[variant.name]
        return too_few, variant.name in beaten, -float(by_seed[variant.name].mean(axis=1).mean())

    ranking = sorted(variants, key=place)
    if watched and watched.looks:
        tested = watched.looks[-1].differences
    else:
        tested = compare(rows, design.level, rule).differences
    pairs = pairs_of(ranking, both_ways(tested) | both_ways(settled), margin)  # what a look settled stands
    pilot = measured([by_seed[variant.name] for variant in ranking], len(ranking), dependence=outcomes.dependence)
    if pilot is not None and (design.looks or design.seeds):
        pilot = pilot._replace(level=growing(design.sizes, bool(design.looks), design.test, design.margin is not None))
    effects = None
    if outcomes.factors is not None and design.test != "exact":  # whose regroupings are those of a pair
        level = watched.level if watched else design.level
        effects = effects_of(outcomes, cells_of(rows, rule)[1], variants, design, level)
    return Verdict(
        outcomes, ranking, pairs, design, watch=watched, pilot=pilot, relations=race.findings if race else (),
        checks=list(findings), effects=effects,
    )  # fmt: skip


def _watched(outcomes: Outcomes, rows: Mapping[str, Rows], design: Design, rule: Rule, race: Race | None) -> Watch:
    seeds: Sequence[str | None] = design.seeds or tuple(dict.fromkeys(run.seed for run in outcomes.runs))
    if len(seeds) > design.looks[-1]:
        raise ValueError(f"There are {len(seeds)} seeds, and the last look is after {design.looks[-1]}. Add a look.")
    seeds = [*seeds, *[None] * (design.looks[-1] - len(seeds))]  # a look without all its seeds is not there yet

    def look(state: Watch) -> Collection[str]:
        at = {name: {s: rows[name][s] for s in seeds[:n]} for name, n in state.trained.items()}
        if race is not None:
            race.look(at, state.level)
            return race.racing
        effects = effects_of(outcomes, cells_of(at, rule)[1], variants, design, state.level)
        ends.clear()
        for levels in effects.of.values() if effects else ():
            leads = [pair for pair in levels.pairs if pair.better is levels.ranking[0]]
            left = [each.difference for each in leads if each.difference and not (each.settled or each.equal)]
            is_over = is_hopeless(left, state.level, max(state.trained.values()) / design.looks[-1])
            end = "hopeless" if is_over and design.margin is None and len(state.looks) > 1 else ""
            ends.append(end if left else "equal" if all(pair.equal for pair in leads) else "decided")
        return () if ends and all(ends) else state.active

    ends, variants = list[str](), _variants(outcomes)  # how each factor's best level stands to the others
    by_factors = outcomes.factors is not None and design.test != "exact" and not design.until_cells
    state = watch(rows, seeds, design.looks, design.margin, rule, look if race or by_factors else None)
    if state.stop == "decided" and race and race.is_level:
        state.stop = "equal"
    elif state.stop == "decided" and ends:
        state.stop = next(end for end in ("hopeless", "decided", "equal") if end in ends)
    return state


def _blocks_of(variants: Sequence[Variant]) -> list[np.ndarray] | None:
    """Return the block of each run by variant; None where there is a single one."""
    blocks = [np.array([run.block for run in variant.runs]) for variant in variants]
    return blocks if len(set(np.concatenate(blocks))) > 1 else None


def _without_blocks(variants: Sequence[Variant]) -> dict[str, np.ndarray]:
    """Return the outcomes of each variant as runs of one block would have them: as much apart too."""
    blocks = _blocks_of(variants)
    assert blocks is not None
    outcomes = [variant.outcomes for variant in variants]
    known = estimated([y.mean(axis=1) for y in outcomes], blocks)
    found = {}
    for variant, y in zip(variants, known.taken_off(outcomes), strict=True):
        scores = y.mean(axis=1, keepdims=True)
        found[variant.name] = y + (scores - scores.mean()) * (known.left**-0.5 - 1)
    return found


def _of_models(
    outcomes: Outcomes, variants: list[Variant], design: Design, items: int | None, findings: list[Check]
) -> Verdict:
    """Judge these models: items are the only source of chance."""
    metric = outcomes.metric
    ranking = sorted(variants, key=lambda variant: -metric.sign * variant.score.mean)
    tested: dict[tuple[str, str], Contrast] = {}
    effects = None
    if outcomes.by_item:
        rows = {variant.name: variant.by_item(variant.runs[0]) for variant in ranking}
        cells = Cells([row[None] for row in rows.values()], dependence=outcomes.dependence, names=rows)
        for a, b in combinations(rows, 2):
            tested[a, b] = cells.pair(a, b)
            if cells.is_bool and outcomes.groups is None:
                tested[a, b] = tested[a, b]._replace(p=mcnemar(rows[a], rows[b]))
        effects = effects_of(outcomes, cells, ranking, design, LEVEL)
    elif items is not None:
        # Models that fail on the same items stay below this variance, that of independent ones.
        variance = {variant.name: variant.score.mean * (1 - variant.score.mean) / items for variant in ranking}
        for first, second in combinations(ranking, 2):
            lead = metric.sign * (first.score.mean - second.score.mean)
            found = Contrast(lead, 0.0, variance[first.name] + variance[second.name], math.inf)
            tested[first.name, second.name] = found._replace(p=found.p_of(0.0))
    ranking, pairs = ranked(ranking, tested, design, LEVEL)
    design = design._replace(looks=())
    return Verdict(outcomes, ranking, pairs, design, of_models=True, checks=findings, effects=effects)
