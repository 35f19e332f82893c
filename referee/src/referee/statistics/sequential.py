"""A study whose results are looked at while it grows, and that ends when they are settled.

At each look every variant still in the race has one more seed (or several more), and all pairs are tested as in
`comparison`, at a level that two equal variants cross at some look in 5 % of studies: the same c for every look
(Pocock's bound), or with a margin, where small leads and equality are sought, one that rises with the seeds n_k,
z_k = C (n_k / n_max)^(Δ − 1/2) with Δ = 1/4 (Wang and Tsiatis 1987). A settled pair stays settled, and its worse
variant trains no more. The study ends when it is

    decided             one variant is left;
    equal               all pairs left are equal to within the margin;
    hopeless            for each pair with the leader |d| + z_{0.8} √(V + I) < z_{1−c/2m} √(V n/n_max + I); not at the
                        first look, nor with a margin, which gives equal variants an end of their own;
    out of budget       the last look is over.

c comes from a simulation of two variants: for more, a constant of their own would be larger, but two variants tied on
top would then be called different in more than 5 % of studies.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations, product
from typing import Any

import numpy as np
from scipy import stats

from referee.statistics.comparison import INDEPENDENT, LEVEL, Dependence, Difference, differences, step_down

STUDIES = 40_000  # simulated for a level
DELTA = 0.25  # of Wang and Tsiatis; 1/2 is Pocock, 0 is O'Brien and Fleming
POWER = 0.8  # of a planned study, and of one that is not hopeless

Rows = Mapping[Any, np.ndarray | None]
"""Of a variant, by seed: (N,), or (1,) a score, higher being better; None for a failed run, missing if not yet run."""


@cache
def levels(looks: tuple[int, ...], test: str = "pooled", rising: bool = False) -> tuple[float, ...]:
    """Return the level at each of these numbers of seeds; two equal normal variants cross one in 5 % of studies."""
    if len(looks) == 1:
        return (LEVEL,)
    p = _simulated_p(looks, test)
    if not rising:
        return (float(np.quantile(p.min(axis=1), LEVEL)),) * len(looks)
    shape = (np.array(looks) / looks[-1]) ** (0.5 - DELTA)
    bound = np.quantile((stats.norm.isf(p / 2) * shape).max(axis=1), 1 - LEVEL)
    return tuple((2 * stats.norm.sf(bound / shape)).tolist())


@cache
def level_after(looks: tuple[int, ...], test: str = "pooled") -> float:
    """Return the level of the last of these numbers of seeds, where the first was meant to be the only one.

    A test that does not reject leaves to more seeds the error that it did not spend (Koning and van Meer 2025, arXiv
    2501.03982): of few seeds, Welch's spends less than 0.05. Each longer list spends half of what is left.
    """
    if len(looks) == 1:
        return LEVEL
    p, level = _simulated_p(looks, test), LEVEL
    crossed = p[:, 0] < LEVEL
    for column in p[:, 1:].T:
        left = max(LEVEL - float(crossed.mean()), 0.0) / 2
        level = float(np.quantile(column[~crossed], left / float((~crossed).mean())))
        crossed |= column <= level
    return level


def _simulated_p(looks: tuple[int, ...], test: str) -> np.ndarray:
    """Return the p-values at each look of studies of two equal variants, (STUDIES, looks)."""
    scores = np.random.default_rng(0).standard_normal((2, STUDIES, looks[-1]))[: 1 if test == "paired" else 2]
    n = np.array(looks)
    sums, squares = (x.cumsum(axis=-1)[..., n - 1] for x in (scores, scores**2))
    errors = (squares - sums**2 / n) / (n - 1) / n  # squared standard errors of the means
    means = sums / n
    t = np.abs(means[0] - means[1:].sum(axis=0)) / np.sqrt(errors.sum(axis=0))
    freedom = errors.sum(axis=0) ** 2 / (errors**2 / (n - 1)).sum(axis=0)  # Welch's; n − 1 for differences by seed
    return np.asarray(2 * stats.t.sf(t, freedom))


@dataclass
class Look:
    """What the runs of a look show, by the variants' numbers."""

    seeds: dict[int, int]  # of each variant: finished runs
    means: dict[int, float]  # of the variants with two finished runs or more
    differences: dict[tuple[int, int], Difference]
    settled: list[tuple[int, int]]  # by this look: better, worse


@dataclass
class Watch:
    """A study as far as its looks have come."""

    level: float  # of the last look
    looks: list[Look] = field(default_factory=list)
    active: list[int] = field(default_factory=list)  # variants that train on
    trained: dict[int, int] = field(default_factory=dict)  # seeds of each variant up to the last look, failed ones too
    missing: list[tuple[int, Any]] = field(default_factory=list)  # runs of the next look: variant, seed
    stop: str | None = None

    @property
    def settled(self) -> dict[tuple[int, int], float]:
        """By pair (better, worse): the adjusted p-value of the look that settled it, or of the chain implying it."""
        pairs = {p: look.differences[min(p), max(p)].adjusted for look in self.looks for p in look.settled}
        for middle, a, b in product(range(len(self.looks[0].seeds) if pairs else 0), repeat=3):
            if (a, middle) in pairs and (middle, b) in pairs:
                pairs.setdefault((a, b), max(pairs[a, middle], pairs[middle, b]))
        return pairs


def watch(
    outcomes: Sequence[Rows],
    seeds: Sequence[Any],
    looks: Sequence[int],
    margin: float | None = None,
    test: str = "pooled",
    dependence: Dependence = INDEPENDENT,
    race: Callable[[Watch], Collection[int]] | None = None,
    blocks: Sequence[Mapping[Any, Any]] | None = None,
) -> Watch:
    """Replay the looks of a study on its runs so far. Equal runs give equal decisions, so that no state is stored.

    Args:
        outcomes: Of each variant.
        seeds: In the order in which they are trained.
        looks: Numbers of seeds.
        margin: Differences below it do not matter.
        test, dependence: As in `comparison.differences`.
        race: Returns the variants that train on after a look; None: those that have not lost.
        blocks: Of each variant, by seed; None: all runs are of one.
    """
    by_look = levels(tuple(looks), test, margin is not None)
    state = Watch(by_look[0], active=list(range(len(outcomes))))
    for number, size in enumerate(looks, start=1):
        state.missing = [(v, seed) for seed in seeds[:size] for v in state.active if seed not in outcomes[v]]
        if state.missing:
            break
        state.level = by_look[number - 1]
        state.trained |= dict.fromkeys(state.active, size)
        look = _look(outcomes, seeds, state, test, dependence, blocks)
        state.looks.append(look)
        racing = race(state) if race else set(state.active) - {worse for _, worse in state.settled}
        state.active = [v for v in state.active if v in racing]
        left = [look.differences.get(pair) for pair in combinations(state.active, 2)]
        if not left:
            state.stop = "decided"
        elif race is None and margin is not None and all(each is not None and each.is_within(margin) for each in left):
            state.stop = "equal"
        elif margin is None and number > 1 and _is_hopeless(look, state, size / looks[-1]):
            state.stop = "hopeless"
        elif size == looks[-1]:
            state.stop = "out of budget"
        if state.stop:
            break
    return state


def _look(
    outcomes: Sequence[Rows],
    seeds: Sequence[Any],
    state: Watch,
    test: str,
    dependence: Dependence,
    blocks: Sequence[Mapping[Any, Any]] | None,
) -> Look:
    rows = [{seed: of_variant[seed] for seed in seeds[: state.trained[v]]} for v, of_variant in enumerate(outcomes)]
    finished = [[seed for seed, row in each.items() if row is not None] for each in rows]
    if test == "paired":  # a seed that failed in one variant has no partner in the others
        failed = {seed for each in rows for seed, row in each.items() if row is None}
        finished = [[seed for seed in each if seed not in failed] for each in finished]
    several = [v for v, each in enumerate(finished) if len(each) > 1]
    tested = [np.array([rows[v][seed] for seed in finished[v]]) for v in several]
    in_block = None if blocks is None else [np.array([blocks[v][seed] for seed in finished[v]]) for v in several]
    tests = differences(tested, test, state.level, dependence, in_block) if len(several) > 1 else {}
    by_pair = {(several[a], several[b]): each for (a, b), each in tests.items()}
    settled = state.settled
    over = {pair for pair in by_pair if pair in settled or pair[::-1] in settled}
    p = step_down([0.0 if pair in over else each.p for pair, each in by_pair.items()], len(several))
    by_pair = {pair: each._replace(adjusted=p_value) for (pair, each), p_value in zip(by_pair.items(), p, strict=True)}
    new = {pair: each for pair, each in by_pair.items() if pair not in over and each.adjusted <= state.level}
    newly = [pair if each.mean > 0 else pair[::-1] for pair, each in new.items()]
    means = {v: float(y.mean()) for v, y in zip(several, tested, strict=True)}
    return Look({v: len(each) for v, each in enumerate(finished)}, means, by_pair, newly)


def _is_hopeless(look: Look, state: Watch, share: float) -> bool:
    """Whether no pair of the leader is likely to be settled; `share` of the largest number of seeds is trained."""
    known = [v for v in state.active if v in look.means]
    if len(known) < 2:
        return False
    leader = max(known, key=look.means.__getitem__)
    for each in (look.differences[pair] for pair in combinations(known, 2) if leader in pair):
        z = stats.norm.isf(state.level / (2 * each.pairs))
        likely = abs(each.mean) + stats.norm.ppf(POWER) * math.sqrt(each.seeds + each.images)
        if likely >= z * math.sqrt(each.seeds * share + each.images):
            return False
    return True
