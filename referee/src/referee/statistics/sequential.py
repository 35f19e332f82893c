"""A study whose results are looked at while it grows, and that ends when they are settled.

At each look every variant still in the race has one more seed (or several more), and all pairs are tested as in
`contrast`, at a level that two equal variants cross at some look in 5 % of studies at most, whether their spreads are
equal or 4 : 1: the same c for every look (Pocock's bound), or with a margin, where small leads and equality are sought,
one that rises with the seeds n_k,
z_k = C (n_k / n_max)^(Δ − 1/2) with Δ = 1/4 (Wang and Tsiatis 1987). A settled pair stays settled, and its worse
variant trains no more. The study ends when it is

    decided             one variant is left;
    equal               all pairs left are equal to within the margin;
    hopeless            for each pair with the leader |d| + z_{0.8} √(V + I) < z_{1−c/2m} √(V n/n_max + I), m being
                        its rivals; not at the first look, nor with a margin, which gives equal variants an end of
                        their own;
    out of budget       the last look is over.

c comes from a simulation of two variants: for more, a constant of their own would be larger, but two variants tied on
top would then be called different in more than 5 % of studies. The interval of a pair has the level c p/p̃ of the look
that settled it, else of the last, with p̃ its adjusted p: the one where it ends at 0 if p̃ = c.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations, product
from typing import Any

import numpy as np
from scipy import special

from referee.statistics.contrast import LEVEL, POOLED, Cells, Contrast, Rule, both_ways, enough, in_family

STUDIES = 40_000  # simulated for a level
SPREADS = (1.0, 4.0)  # of the first variant, in those of the second; between them the level is too
DELTA = 0.25  # of Wang and Tsiatis; 1/2 is Pocock, 0 is O'Brien and Fleming
POWER = 0.8  # of a planned study, and of one that is not hopeless

Rows = Mapping[Any, np.ndarray | None]
"""Of a variant, by seed: (N,), or (1,) a score, higher being better; None for a failed run, missing if not yet run."""


@cache
def levels(looks: tuple[int, ...], test: str = "pooled", rising: bool = False) -> tuple[float, ...]:
    """Return the level at each of these numbers of seeds; two equal normal variants cross one in 5 % of studies."""
    if len(looks) == 1:
        return (LEVEL,)
    shape = (np.array(looks) / looks[-1]) ** (0.5 - DELTA if rising else 0)
    z = [-special.ndtri(p / 2) * shape for p in _simulated_p(looks, test)]
    bound = max(float(np.quantile(each.max(axis=1), 1 - LEVEL)) for each in z)
    return tuple((2 * special.ndtr(-bound / shape)).tolist())


@cache
def level_after(looks: tuple[int, ...], test: str = "pooled") -> float:
    """Return the level of the last of these numbers of seeds, where the first was meant to be the only one.

    A test that does not reject leaves to more seeds the error that it did not spend (Koning and van Meer 2025, arXiv
    2501.03982): of few seeds and equal spreads, Welch's spends less than 0.05. Each longer list spends half of what is
    left. Where spreads differ, nothing is left, and all tests together make up to 9 % false claims.
    """
    if len(looks) == 1:
        return LEVEL
    p, level = next(_simulated_p(looks, test)), LEVEL
    crossed = p[:, 0] < LEVEL
    for column in p[:, 1:].T:
        left = max(LEVEL - float(crossed.mean()), 0.0) / 2
        level = float(np.quantile(column[~crossed], left / float((~crossed).mean())))
        crossed |= column <= level
    return level


def _simulated_p(looks: tuple[int, ...], test: str) -> Iterator[np.ndarray]:
    """Yield the p-values at each look of studies of two equal variants, (STUDIES, looks), for each of `SPREADS`."""
    scores = np.random.default_rng(0).standard_normal((2, STUDIES, looks[-1]))[: 1 if test == "paired" else 2]
    n = np.array(looks)
    sums, squares = (x.cumsum(axis=-1)[..., n - 1] for x in (scores, scores**2))
    of_means = (squares - sums**2 / n) / (n - 1) / n  # squared standard errors
    for spread in SPREADS:
        scale = np.array([spread, 1.0])[: len(scores), None, None]
        means, errors = scale * sums / n, scale**2 * of_means
        t = np.abs(means[0] - means[1:].sum(axis=0)) / np.sqrt(errors.sum(axis=0))
        freedom = errors.sum(axis=0) ** 2 / (errors**2 / (n - 1)).sum(axis=0)  # Welch's; n − 1 for differences by seed
        tail = special.ndtr(-t)  # of infinitely many seeds, which is less; where it is 0.1 or more, no level is near
        yield 2 * special.stdtr(freedom, -t, out=tail, where=tail < 0.1)


@dataclass
class Look:
    """What the runs of a look show, by variant."""

    seeds: dict[Any, int]  # finished runs
    means: dict[Any, float]  # of the variants with two finished runs or more
    differences: dict[tuple[Any, Any], Contrast]
    settled: list[tuple[Any, Any]]  # by this look: better, worse


@dataclass
class Watch:
    """A study as far as its looks have come."""

    level: float  # of the last look
    looks: list[Look] = field(default_factory=list)
    active: list[Any] = field(default_factory=list)  # variants that train on
    trained: dict[Any, int] = field(default_factory=dict)  # seeds of each variant up to the last look, failed ones too
    missing: list[tuple[Any, Any]] = field(default_factory=list)  # runs of the next look: variant, seed
    stop: str | None = None

    @property
    def settled(self) -> dict[tuple[Any, Any], Contrast]:
        """By pair (better, worse): what the look showed that settled it, or completed the chain implying it."""
        pairs: dict[tuple[Any, Any], Contrast] = {}
        for look in self.looks:
            known = both_ways(look.differences)
            pairs |= {pair: known[pair] for pair in look.settled}
            for middle, a, b in product(look.seeds if look.settled else (), repeat=3):
                if (a, middle) in pairs and (middle, b) in pairs and (a, b) in known:
                    p = max(pairs[a, middle].adjusted, pairs[middle, b].adjusted)
                    pairs.setdefault((a, b), known[a, b]._replace(adjusted=p))
        return pairs


def watch(
    outcomes: Mapping[Any, Rows],
    seeds: Sequence[Any],
    looks: Sequence[int],
    margin: float | None = None,
    rule: Rule = POOLED,
    race: Callable[[Watch], Collection[Any]] | None = None,
) -> Watch:
    """Replay the looks of a study on its runs so far. Equal runs give equal decisions, so that no state is stored.

    `seeds` are in the order of their training, and `race` returns the variants that train on after a look; without it
    these are those that have not lost.
    """
    by_look = levels(tuple(looks), rule.test, margin is not None)
    state = Watch(by_look[0], active=[*outcomes])
    for number, size in enumerate(looks, start=1):
        state.missing = [(v, seed) for seed in seeds[:size] for v in state.active if seed not in outcomes[v]]
        if state.missing:
            break
        state.level = by_look[number - 1]
        state.trained |= dict.fromkeys(state.active, size)
        rows = {v: {seed: each[seed] for seed in seeds[: state.trained[v]]} for v, each in outcomes.items()}
        look = compare(rows, state.level, rule, state.settled)
        state.looks.append(look)
        racing = race(state) if race else set(state.active) - {worse for _, worse in state.settled}
        state.active = [v for v in state.active if v in racing]
        left = [look.differences.get(pair) for pair in combinations(state.active, 2)]
        leader = max((v for v in state.active if v in look.means), key=look.means.__getitem__, default=None)
        leads = [each for pair, each in look.differences.items() if leader in pair and {*pair} <= {*state.active}]
        if not left:
            state.stop = "decided"
        elif race is None and margin is not None and all(each is not None and each.is_within(margin) for each in left):
            state.stop = "equal"
        elif race is None and margin is None and number > 1 and is_hopeless(leads, state.level, size / looks[-1]):
            state.stop = "hopeless"
        elif size == looks[-1]:
            state.stop = "out of budget"
        if state.stop:
            break
    return state


def cells_of(rows: Mapping[Any, Rows], rule: Rule = POOLED) -> tuple[dict[Any, int], Cells | None]:
    """Return the numbers of seeds that count, and the cells of those with enough; None of fewer than two."""
    finished = {name: [seed for seed, row in each.items() if row is not None] for name, each in rows.items()}
    if rule.test == "paired":  # a seed that failed in one variant has no partner in the others
        known = [each for each in finished.values() if each] or [[]]
        shared = [seed for seed in known[0] if all(seed in each for each in known)]
        finished = {name: shared if each else [] for name, each in finished.items()}
    counts = {name: len(each) for name, each in finished.items()}
    several = [name for name, is_enough in zip(counts, enough([*counts.values()]), strict=True) if is_enough]
    outcomes = [np.array([rows[name][seed] for seed in finished[name]]) for name in several]
    of, blocks = rule.blocks, None
    if of is not None:
        blocks = [np.array([of[name][seed] for seed in finished[name]]) for name in several]
    cells = Cells(outcomes, rule.test, rule.dependence, blocks, several) if len(several) > 1 else None
    return counts, cells


def compare(
    rows: Mapping[Any, Rows],
    level: float = LEVEL,
    rule: Rule = POOLED,
    settled: Collection[tuple[Any, Any]] | None = None,
) -> Look:
    """Compare the variants that have enough seeds; `settled` are pairs of earlier looks, None: this one is the only."""
    counts, cells = cells_of(rows, rule)
    if cells is None:
        return Look(counts, {}, {}, [])
    means = {name: float(cells.by_seed[place].mean()) for name, place in cells.places.items()}
    tests = {pair: cells.pair(*pair) for pair in combinations(cells.places, 2)}
    over = {pair for pair in tests if settled and (pair in settled or pair[::-1] in settled)}
    family = in_family({p: each._replace(p=0.0) if p in over else each for p, each in tests.items()}, means, level)
    for pair, each in tests.items():
        alpha = family[pair].alpha if settled is None else level * each.p / max(family[pair].adjusted, each.p)
        tests[pair] = family[pair]._replace(p=each.p, alpha=alpha)
    new = {pair: each for pair, each in tests.items() if pair not in over and each.adjusted <= level}
    return Look(counts, means, tests, [pair if each.mean > 0 else pair[::-1] for pair, each in new.items()])


def is_hopeless(leads: Collection[Contrast], level: float, share: float) -> bool:
    """Whether none of a leader's leads is likely to be settled; `share` of the largest number of seeds is trained."""
    z = -special.ndtri(level / (2 * max(len(leads), 1)))
    for each in leads:
        likely = abs(each.mean) + special.ndtri(POWER) * math.sqrt(each.seeds + each.images)
        if likely >= z * math.sqrt(each.seeds * share + each.images):
            return False
    return len(leads) > 0
