"""Averages of cells: the levels of a factor over the other factors, and variants over data sets.

A level's lead over another is the mean of their leads at each place, a combination of the other factors' levels that
both have: Σ_c (m_ic − m_jc)/C over C places, one contrast of the cells. An interaction is m_ik − m_jk − m_il + m_jl,
averaged over the places that have all four. The pairs of a factor's levels are tested together (`closed`), and so are
those at a place, each place by itself; interactions take Bonferroni's correction for all there are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Any

import numpy as np

from referee.checks import Check
from referee.formats import counted, joined, listed
from referee.outcomes import Outcomes, Run
from referee.statistics.contrast import LEVEL, Cells, Contrast, both_ways, in_family, mean_of
from referee.verdict import DEPENDS, OPEN, Design, Effect, Effects, Pair, Variant, Verdict, conclusion, pairs_of

NAMED = 4  # places of an average, beyond which they are counted
LEAST_DATASETS = 5  # from which the leads show what others of the kind are like
TENFOLD = 10  # how far the scores of data sets may lie apart
Place = tuple[str, ...]  # a level of each factor


def ranked(
    variants: Sequence[Variant], contrasts: Mapping[tuple[Any, Any], Contrast], design: Design, level: float,
    means: Mapping[str, float] | None = None,
) -> tuple[list[Variant], list[Pair]]:  # fmt: skip
    """Return variants, the best first, and their pairs, tested together, from contrasts by name.

    The best has the largest of `means`, or without them (cells differ) the largest sum of leads over the others.
    """
    lead = dict(means or {variant.name: 0.0 for variant in variants})
    for (a, b), each in contrasts.items() if means is None else ():
        lead[a] += each.mean
        lead[b] -= each.mean
    ranking = sorted(variants, key=lambda variant: -lead[variant.name])
    return ranking, pairs_of(ranking, both_ways(in_family(contrasts, lead, level)), design.margin)


def effects_of(
    outcomes: Outcomes, cells: Cells | None, variants: Sequence[Variant], design: Design, level: float
) -> Effects | None:
    """Return the effects of a table's factors at a level, from variants and their cells by name; or None."""
    factors = outcomes.factors or {}
    cell = {
        tuple(levels[v.name] for levels in factors.values()): v
        for v in variants
        if cells is not None and v.name in cells.places and all(v.name in levels for levels in factors.values())
    }
    if cells is None or len(cell) < 2:
        return None

    def contrast(weights: Mapping[Place, float]) -> Contrast:
        return cells.contrast({cell[place].name: c for place, c in weights.items()})

    of = {factor: _on_levels(outcomes, f, cell, contrast, design, level) for f, factor in enumerate(factors)}
    main, simple = list[Effect](), list[Effect]()
    for factor, verdict in of.items():
        for at, pairs in {"": verdict.pairs, **{at: pairs for at, pairs in verdict.places.items() if at}}.items():
            for pair in pairs:
                shown = (pair.better.name, pair.worse.name), at, pair.lead, pair.interval, pair.p, pair.verdict
                (simple if at else main).append(Effect(factor, *shown))
    found = []  # interactions of two factors
    for (f, first), (g, second) in combinations(enumerate(of), 2):
        rests = list(dict.fromkeys(_without(_without(place, g), f) for place in cell))
        ranking = [[each.name for each in of[factor].ranking] for factor in (first, second)]
        for (i, j), (k, n) in product(*(combinations(names, 2) for names in ranking)):
            signs = {(i, k): 1.0, (j, k): -1.0, (i, n): -1.0, (j, n): 1.0}
            all_four = [{_with(_with(rest, f, a), g, b): c for (a, b), c in signs.items()} for rest in rests]
            if there := [weights for weights in all_four if weights.keys() <= cell.keys()]:
                known = contrast({place: c / len(there) for weights in there for place, c in weights.items()})
                places, known = ((k, n), known) if known.mean >= 0 else ((n, k), known.reversed())
                found.append((f"{first} and {second}", (i, j), places, known))
    interactions = []
    for both, levels, (more, less), known in found:
        p, interval = min(1.0, len(found) * known.p), known.interval_at(level / len(found))
        word = DEPENDS if p <= level else OPEN
        interactions.append(Effect(both, levels, more, known.mean, interval, p, word, less))
    interactions.sort(key=lambda each: (each.word != DEPENDS, -each.estimate))
    return Effects(main, simple, interactions, of)


def _on_levels(
    outcomes: Outcomes, f: int, cell: Mapping[Place, Variant], contrast: Callable[[Mapping[Place, float]], Contrast],
    design: Design, level: float,
) -> Verdict:  # fmt: skip
    """Return the verdict on the levels of a factor, averaged over the places that both of a pair have."""
    factors = [*(outcomes.factors or {})]
    rests = list(dict.fromkeys(_without(place, f) for place in cell))
    at = {rest: [place[f] for place in cell if _without(place, f) == rest] for rest in rests}
    names = list(dict.fromkeys(place[f] for place in cell))

    def lead(i: str, j: str, among: Sequence[Place]) -> Contrast:
        signs = ((_with(rest, f, name), sign / len(among)) for rest in among for name, sign in ((i, 1.0), (j, -1.0)))
        return contrast(dict(signs))

    levels = []
    for index, name in enumerate(names):
        means = [(", ".join(_without(p, f)), v.score.mean) for p, v in cell.items() if p[f] == name]
        runs = [Run(name, where, np.array([mean])) for where, mean in means]
        levels.append(Variant(name, index, runs, outcomes.metric))
    both = {(i, j): [r for r in rests if i in at[r] and j in at[r]] for i, j in combinations(names, 2)}
    whole = {pair: lead(*pair, among) for pair, among in both.items() if among}
    ranking, pairs = ranked(levels, whole, design, level)
    places = {}
    for rest in rests:
        there = {(i, j): lead(i, j, [rest]) for i, j in combinations(at[rest], 2)}
        here = [each for each in levels if each.name in at[rest]]
        places[", ".join(rest)] = ranked(here, there, design, level)[1]
    over = [", ".join(rest) for rest in rests if len(at[rest]) > 1]
    words = joined(over) if len(over) <= NAMED else f"{len(over)} levels of {joined(_without(factors, f))}"
    words = f"Averaged over {words}," if len(factors) > 1 else ""
    design = design._replace(seeds=(), looks=(), claim=None)
    cells = [*cell.values()]
    return Verdict(outcomes, ranking, pairs, design, cells=cells, over=words, places=places)


def _without(place: Sequence[str], f: int) -> Place:
    return (*place[:f], *place[f + 1 :])


def _with(rest: Place, f: int, level: str) -> Place:
    return (*rest[:f], level, *rest[f:])


def depends(interactions: Sequence[Effect], verdict: Verdict) -> str:
    """Return in words whether leads depend on another factor, by the largest interaction; empty without any."""
    if not interactions:
        return ""
    most, metric, (a, b) = interactions[0], verdict.metric, interactions[0].levels
    size = metric.difference(most.estimate, verdict.digits)
    low, high = (metric.text(end, verdict.digits) for end in most.interval[1:])
    lead = f"with {most.at} {a} leads {b} by {size} more ({low} to {high}) than with {most.than}"
    if most.word != DEPENDS:
        return f"No lead is shown to depend on another factor; the largest difference can still be chance: {lead}."
    others = sum(each.word == DEPENDS for each in interactions) - 1
    more = f"; {counted(others, 'other lead')} {'depends' if others == 1 else 'depend'} on a factor too" * (others > 0)
    return f"A lead depends on another factor: {lead}{more}."


def beside(verdict: Verdict) -> list[str]:
    """Return the sentences that follow a headline on averages; none where it is on variants."""
    if verdict.effects is not None:
        return [*filter(None, [depends(verdict.effects.interactions, verdict)]), f"Of the cells, {conclusion(verdict)}"]
    return [in_general(verdict)] if verdict.general else []


# ---- several data sets


def over_datasets(outcomes: Outcomes, each: Mapping[str, Verdict], design: Design) -> Verdict:
    """Return the verdict over data sets, from that on each: on these, and from five on also on others of the kind.

    On these, the variance of a lead is Σ_d (V_d + I_d)/D². On others, leads by data set are what differences by seed
    are to a paired test: V = var_d(Δ_d)/D, ν = D − 1.
    """
    names = [name for name in outcomes.variants if outcomes.of(name)]
    lacking = {name: [d for d in each if not outcomes.on(d).of(name)] for name in names}
    each = {d: verdict for d, verdict in each.items() if not any(d in lacks for lacks in lacking.values())}
    means = {d: {v.name: v.score.mean for v in verdict.ranking} for d, verdict in each.items()}
    variants = [
        Variant(name, i, [Run(name, d, np.array([of[name]])) for d, of in means.items()], outcomes.metric)
        for i, name in enumerate(outcomes.variants)
        if name in names and means
    ]
    sign = outcomes.metric.sign
    mean = {variant.name: sign * variant.score.mean for variant in variants}
    on_these, alike = {}, len({verdict.of_models for verdict in each.values()}) == 1
    for a, b in combinations(mean, 2):
        leads = [verdict.lead_of(a, b) for verdict in each.values()]
        if alike and all(lead is not None for lead in leads):
            on_these[a, b] = mean_of([lead for lead in leads if lead is not None])
    ranking, pairs = ranked(variants, on_these, design, LEVEL, mean)
    general: list[Contrast] = []
    if len(each) >= LEAST_DATASETS:
        by_dataset = Cells([sign * np.array(v.scores)[:, None] for v in variants], "paired", names=mean)
        family = both_ways(in_family({pair: by_dataset.pair(*pair) for pair in combinations(mean, 2)}, mean))
        general = [family[pair.better.name, pair.worse.name] for pair in pairs]
    verdict = Verdict(
        outcomes,
        ranking,
        pairs,
        design,
        of_models=all(verdict.of_models for verdict in each.values()),
        cells=[variant for verdict in each.values() for variant in verdict.ranking],
        over=f"Over these {len(each)} data sets",
        places={d: verdict.pairs for d, verdict in each.items()},
        datasets=each,
        general=general,
    )
    return replace(verdict, checks=sorted(of_datasets(verdict, lacking), key=lambda check: not check.is_void))


def in_general(verdict: Verdict) -> str:
    """Return what is to be expected of the best variant on another data set of the kind."""
    metric, spans, better = verdict.metric, [], []
    size = ""
    for pair, each in zip(verdict.pairs, verdict.general, strict=True):
        if pair.better is not verdict.ranking[0]:
            continue
        low, high = each.elsewhere[1:]
        size = f"{metric.text(low, verdict.digits)} to {metric.difference(high, verdict.digits)}"
        spans.append(f"{pair.worse.name} by {size}")
        better += [pair.worse.name] * (each.mean > 0 and each.adjusted <= LEVEL)
    best = verdict.ranking[0].name
    shown = joined(spans) if len(spans) <= NAMED else f"{spans[0]}, and others by more or less"
    lead = f"the lead may be {size}" if len(spans) == 1 else f"{best} may lead {shown}"
    known = f"in general {best} is better than {joined(better)}" if better else ""
    return f"On another such data set {lead}; {known or f'that {best} is better in general is open'}."


def of_datasets(verdict: Verdict, lacking: Mapping[str, Sequence[str]]) -> Iterator[Check]:
    """Yield the findings on each data set, each once, and R017 to R020, on data sets."""
    found: dict[Check, list[str]] = {}
    for d, each in verdict.datasets.items():
        for check in each.checks:
            found.setdefault(check, []).append(d)
    for check, names in found.items():
        every = len(names) == len(verdict.datasets)
        yield check if every else check._replace(text=f"{listed(names)}: {check.text}")
    if lacks := [f"{name} lacks {listed(names)}" for name, names in lacking.items() if names]:
        text = f"{listed(lacks)}. Add these runs, or leave the variant or the data set out."
        yield Check("R017", text, is_void=True)
    if len(verdict.pairs) and len(verdict.datasets) > 2:
        by_dataset = np.subtract(*(np.array(each.scores) for each in verdict.pairs[0][:2]))
        share = np.abs(by_dataset) / max(np.abs(by_dataset).sum(), 1e-300)
        if share.max() > 0.5:
            d, (a, b) = [*verdict.datasets][share.argmax()], (each.name for each in verdict.pairs[0][:2])
            yield Check("R018", f"{d} has {100 * share.max():.0f} % of the leads between {a} and {b}: the mean is its.")
    if not (verdict.metric.is_fraction or verdict.metric.is_log):
        size = {d: np.mean([np.abs(v.scores).mean() for v in of.ranking]) for d, of in verdict.datasets.items()}
        small, large = (end(size, key=size.__getitem__, default="") for end in (min, max))
        if size and size[large] > TENFOLD * size[small]:
            times = f"scores on {large} are over {TENFOLD} times those on {small}, which hardly counts in a mean"
            yield Check("R019", f"{times}. Give --scale log, or normalized scores.")
    if any(pair.difference is None for pair in verdict.pairs):
        single = [d for d, of in verdict.datasets.items() if any(len(v.runs) < 2 for v in of.ranking)]
        text = f"one seed on {listed(single)}: only other data sets of the kind can be judged, not these."
        yield Check("R020", text)
