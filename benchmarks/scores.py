"""How often the rule is wrong, and what it finds, in studies of scores alone, thousands at once.

Scores vary over seeds with the deviation that a variant has; means are in deviations of 1. *False*: a claim about two
equal variants, or a lead the wrong way round. The rule is that of `referee.statistics.contrast`.

    python -m benchmarks.scores                 # all tables
    python -m benchmarks.scores rule looks      # some
"""

import zlib
from collections.abc import Iterator
from itertools import cycle, islice, permutations, product
from typing import NamedTuple

import numpy as np
from referee.statistics.contrast import LEVEL, ROUNDING, TOGETHER, closed, moderated
from referee.statistics.power import Pilot, Variances, detectable
from referee.statistics.sequential import level_after, levels
from scipy import special

from benchmarks.measuring import markdown, parser_of, save

STUDIES = 9_000
AGAIN = 4  # times as many, for the worst world of a family: the largest of many rates is too large
CHUNK = 500  # studies of six variants tested at once; partitions are many
FAR = 100.0
SEEDS = 4, 3, 7
VARIANTS = 3, 4, 5, 6
Rows = Iterator[dict[str, object]]


class World(NamedTuple):
    """What studies are drawn from, by variant."""

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    seeds: tuple[int, ...]
    states: float = 0.0  # apart in which half of the seeds each end, in deviations


class Tested(NamedTuple):
    """The pairs of many studies, (R, P); the first of a pair minus the second."""

    lead: np.ndarray
    adjusted: np.ndarray
    low: np.ndarray  # of the interval, before it agrees with the word
    high: np.ndarray

    @property
    def better(self) -> np.ndarray:
        """1 where the first is better, −1 where the second is."""
        return np.where(self.adjusted <= LEVEL, np.sign(self.lead), 0)


def generator(of: object) -> np.random.Generator:
    """Return the random numbers of a world."""
    return np.random.Generator(np.random.SFC64(zlib.crc32(repr(of).encode())))


def drawn(world: World, studies: int, again: int = 0) -> list[np.ndarray]:
    """Draw the scores of each variant, (R, S)."""
    rng = generator((*world, again))
    by_variant = zip(world.means, world.deviations, world.seeds, strict=True)
    scores = [rng.normal(mean, sd, (studies, S)) for mean, sd, S in by_variant]
    return [each + world.states * (rng.random(each.shape) < 0.5) for each in scores]


def judged(scores: list[np.ndarray]) -> Tested:
    """Test all pairs as `contrast.all_pairs` does."""
    means, V, nu = contrasts(scores)
    found, p = tested(means, V, nu, LEVEL if len(scores) < 3 else TOGETHER * LEVEL / V.shape[1])
    return found._replace(adjusted=adjusted_from_top(p, means))


def contrasts(scores: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return means (R, K), and V and ν of all pairs, (R, P)."""
    means, own, f = moments(scores)
    (V_own, welch), (V, nu) = of_pairs(own, f, f), of_pairs(*moderated(own, f), f)
    if len(scores) > 2:
        nu = np.where(V_own > V, np.minimum(nu, welch), nu)
        V, nu = np.maximum(V, V_own), np.maximum(np.floor(nu + ROUNDING), 1)
    return means, V, nu


def adjusted_from_top(p: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Adjust the p-values of all pairs, (R, P), by the closed test."""
    order, (a, b) = (-means).argsort(axis=1), np.triu_indices(means.shape[1], 1)
    square = np.ones((*means.shape, means.shape[1]))
    square[:, a, b] = square[:, b, a] = p
    ranked = np.arange(len(p))[:, None, None], order[:, :, None], order[:, None, :]
    parts = np.array_split(square[ranked], 1 + len(p) * 6 ** max(0, means.shape[1] - 6) // CHUNK)
    square[ranked] = np.concatenate([closed(part) for part in parts])
    return square[:, a, b]


def moments(scores: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return means and variances of variants, (R, K), and degrees of freedom, (K,)."""
    means = np.stack([y.mean(axis=1) for y in scores], axis=1)
    own = np.stack([y.var(axis=1, ddof=1) for y in scores], axis=1)
    return means, own, np.array([y.shape[1] - 1.0 for y in scores])


def of_pairs(variances: np.ndarray, freedom: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return V and Satterthwaite's degrees of freedom of all pairs, (R, P), for f + 1 seeds of each variant."""
    a, b = np.triu_indices(len(f), 1)
    of_mean = variances / (f + 1)
    squares = of_mean**2 / freedom
    V = of_mean[:, a] + of_mean[:, b]
    return V, V**2 / (squares[:, a] + squares[:, b])


def tested(means: np.ndarray, V: np.ndarray, nu: np.ndarray, alpha: float) -> tuple[Tested, np.ndarray]:
    """Return leads with intervals at a level, and p-values that are not adjusted."""
    a, b = np.triu_indices(means.shape[1], 1)
    lead, error = means[:, a] - means[:, b], np.sqrt(V)
    half = -special.stdtrit(nu, alpha / 2) * error
    p = 2 * special.stdtr(nu, -np.abs(lead) / error)
    return Tested(lead, p, lead - half, lead + half), p


def false(world: World, found: Tested) -> float:
    """Return the share of studies with a false claim, in %."""
    return share(((found.better != 0) & (found.better != np.sign(truth(world)))).any(axis=1))


def truth(world: World) -> np.ndarray:
    """Return the true leads, (P,)."""
    a, b = np.triu_indices(len(world.means), 1)
    return np.array(world.means)[a] - np.array(world.means)[b]


def share(hits: np.ndarray) -> float:
    """Return a mean in %."""
    return round(100 * float(hits.mean()), 1)


def family(seeds: tuple[int, ...]) -> Iterator[World]:
    """Yield worlds in which the rule may err: who is equal to whom, and spreads of 1 : 1 to 4 : 1."""
    K = len(seeds)
    far = tuple(-FAR * rank for rank in range(K))
    equal = (0.0,) * K, (0.0, *far[: K - 1]), (0.0, 0.0, *[-FAR] * (K - 2)), (FAR, *[0.0] * (K - 1))
    for means in dict.fromkeys((*equal, tuple(far[v // 2] for v in range(K)))):
        for first, other, rest in product((1, 2, 4), (1, 2, 4), ((1,), (4,), (1, 4))):
            deviations = (first, other, *islice(cycle(rest), K - 2))
            if min(deviations) == 1:
                yield World(means, tuple(map(float, deviations)), seeds)


def worst(seeds: tuple[int, ...], studies: int, most: float = 4.0) -> float:
    """Return the largest rate of false claims in the family, from new studies of the five worlds that seem worst."""
    worlds = [world for world in dict.fromkeys(family(seeds)) if max(world.deviations) <= most]
    rates = {world: false(world, judged(drawn(world, studies // 4))) for world in worlds}
    chosen = sorted(worlds, key=lambda world: -rates[world])[:5]
    return max(false(world, judged(drawn(world, AGAIN * studies, 1))) for world in chosen)


def rule(studies: int) -> Rows:
    """False claims and power, %; leads and steps in deviations of a seed."""
    for S, K in product(SEEDS, VARIANTS):
        zeros, ones, seeds = [0.0] * K, (1.0,) * K, (S,) * K
        best = World((3.0, *zeros[1:]), ones, seeds)
        ladder = World(tuple(-2.0 * v for v in range(K)), ones, seeds)
        tied = World((3.0, 3.0, *zeros[2:]), ones, seeds)
        quiet = World((3.0, 0.0, *(-FAR * v for v in range(1, K - 1))), (1.0, 1.0, *[4.0] * (K - 2)), seeds)
        better = {each: judged(drawn(each, AGAIN * studies)).better == 1 for each in (best, ladder, tied, quiet)}
        steps = np.flatnonzero(np.subtract(*np.triu_indices(K, 1)) == -1)
        yield {
            "variants": K,
            "seeds": S,
            "worst error": worst(seeds, studies),
            "best of lead 3": share(better[best][:, : K - 1].all(axis=1)),
            "one pair": share(better[best][:, 0]),
            "steps of 2": share(better[ladder][:, steps]),
            "two tied leaders": share(better[tied][:, 1]),
            "quiet pair": share(better[quiet][:, 0]),
        }


def unequal(studies: int) -> Rows:
    """The largest rate of false claims, %, where numbers of seeds differ, by the largest ratio of spreads."""
    for seeds in ((3, 10), (4, 10), (3, 4, 4), (3, 10, 10), (4, 10, 10), (4, 10, 10, 10)):
        orders, row = dict.fromkeys(permutations(seeds)), {"seeds": ", ".join(map(str, seeds))}
        rates = {most: max(worst(order, studies // 2, most) for order in orders) for most in (1.0, 2.0, 4.0)}
        yield row | {f"{most:g} : 1": rate for most, rate in rates.items()}


def two_states(studies: int) -> Rows:
    """False claims, %, about equal variants whose seeds end in one of two states, 20 deviations apart."""
    for K in (2, 3, 4, 6, 8):
        worlds = {S: World((0.0,) * K, (1.0,) * K, (S,) * K, states=20.0) for S in (3, 4, 5, 7, 10)}
        yield {"variants": K} | {
            f"{S} seeds": false(world, judged(drawn(world, studies))) for S, world in worlds.items()
        }


def intervals(studies: int) -> Rows:
    """Studies, %, all of whose intervals hold the true lead as printed: cut at 0, or moved to it, by the word."""
    for S, K in product(SEEDS, VARIANTS):
        row: dict[str, object] = {"variants": K, "seeds": S}
        for name, deviations in (("1 : 1", (1.0,) * K), ("4 : 1", (4.0, *[1.0] * (K - 1)))):
            rates = []
            near = -0.01 * np.arange(K)  # a lead of exactly 0 would lie within an interval that is cut there
            for means in map(tuple, (near, near + 3 * np.eye(K)[0], near - FAR * (np.arange(K) // 2), 200 * near)):
                world = World(means, deviations, (S,) * K)
                found, true = judged(drawn(world, AGAIN * studies)), truth(world)
                ends = np.stack([found.low, found.high])
                moved = np.stack([np.minimum(found.low, 0), np.maximum(found.high, 0)])
                cut = np.where(found.better > 0, np.maximum(ends, 0), np.minimum(ends, 0))
                low, high = np.where(found.better == 0, moved, cut)
                rates.append(share(((low <= true) & (true <= high)).all(axis=1)))
            row[name] = min(rates)
        yield row


def datasets(studies: int) -> Rows:
    """Called better, %: on data sets over which the mean leads are 0, and on others, of which they are.

    Leads vary over data sets by two deviations of a seed; deviations lie within spread : 1.
    """
    for D, K, S, spread in product((5, 10, 20), (2, 4), (2, 4, 8), (1, 4)):
        rng = generator((D, K, S, spread))
        leads, sds = 2 * rng.standard_normal((studies, D, K, 1)), spread ** rng.uniform(0, 1, (studies, D, K, 1))
        noise = sds * rng.standard_normal((studies, D, K, S))
        a, b = np.triu_indices(K, 1)
        fixed, free = leads - leads.mean(axis=1, keepdims=True) + noise, (leads + noise).mean(axis=3)
        means, V, nu = map(np.stack, zip(*(contrasts([*fixed[:, d].swapaxes(0, 1)]) for d in range(D)), strict=True))
        total = V.sum(axis=0)
        _, p = tested(means.mean(axis=0), total / D**2, total**2 / (V**2 / nu).sum(axis=0), LEVEL)
        by_dataset = free[..., a] - free[..., b]
        _, q = tested(free.mean(axis=1), by_dataset.var(axis=1, ddof=1) / D, np.array(D - 1.0), LEVEL)
        row: dict[str, object] = {"data sets": D, "variants": K, "seeds": S, "spreads": f"{spread} : 1"}
        for name, each, by in (("these", p, means.mean(axis=0)), ("others", q, free.mean(axis=1))):
            row[name] = share((adjusted_from_top(each, by) <= LEVEL).any(axis=1))
        yield row


def watched(world: World, sizes: tuple[int, ...], at: tuple[float, ...], studies: int, again: int = 0) -> float:
    """Return the share of studies with a false claim at some look, in %; none ends as hopeless."""
    scores, K, (a, b) = drawn(world, studies, again), len(world.means), np.triu_indices(len(world.means), 1)
    sign = np.zeros((studies, len(a)))  # of the pairs that are settled
    trained, races = np.zeros((studies, K), int), np.ones((studies, K), bool)
    for size, level in zip(sizes, at, strict=True):
        trained[races] = size
        open_ = races.sum(axis=1) > 1
        for counts in np.unique(trained[open_], axis=0):
            rows = np.flatnonzero(open_ & (trained == counts).all(axis=1))
            means, V, nu = contrasts([y[rows, :n] for y, n in zip(scores, counts, strict=True)])
            found, p = tested(means, V, nu, level)
            new = adjusted_from_top(np.where(sign[rows] == 0, p, 0), means) <= level
            sign[rows] = np.where((sign[rows] == 0) & new, np.sign(found.lead), sign[rows])
        for v in range(K):
            races[:, v] = ~(((sign == -1) & (a == v)) | ((sign == 1) & (b == v))).any(axis=1)
    return share(((sign != 0) & (sign != np.sign(truth(world)))).any(axis=1))


def looks(studies: int) -> Rows:
    """The largest rate of false claims, %, of studies that are watched, or whose list of seeds is extended once."""
    plans = [(tuple(range(first, last + 1)), "watched") for first, last in ((4, 10), (4, 15), (3, 10))]
    for sizes, how in (*plans, ((4, 8), "extended"), ((5, 10), "extended")):
        at = levels(sizes) if how == "watched" else (LEVEL, level_after(sizes))
        row: dict[str, object] = {"seeds": f"{sizes[0]} to {sizes[-1]}, {how}"}
        for K, most in product((2, 3), (1.0, 2.0, 4.0)):
            worlds = [w for w in dict.fromkeys(family((sizes[-1],) * K)) if max(w.deviations) <= most]
            rates = {world: watched(world, sizes, at, studies // 4) for world in worlds}
            chosen = sorted(worlds, key=lambda world: -rates[world])[:3]
            row[f"{K} variants, {most:g} : 1"] = max(watched(world, sizes, at, 2 * studies, 1) for world in chosen)
        yield row


def plans(studies: int) -> Rows:
    """The lead over all others that a plan of so many seeds finds in 80 %, and how often it is found, %."""
    one = Variances(1.0, 0.0)
    for K in (2, *VARIANTS, 8):
        row: dict[str, object] = {"variants": K}
        for S in (3, 4, 7, 15):
            lead = detectable(Pilot(K, 1, one, one, one), S)
            found = judged(drawn(World((lead, *[0.0] * (K - 1)), (1.0,) * K, (S,) * K), studies // 2))
            row[f"{S} seeds"] = f"{lead:.2f}: {share((found.better[:, : K - 1] == 1).all(axis=1))}"
        yield row


TABLES = {each.__name__: each for each in (rule, unequal, two_states, intervals, datasets, looks, plans)}


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("scores", __doc__, "scores.md")
    parser.add_argument("names", nargs="*", choices=TABLES, help="tables [all]")
    parser.add_argument("--studies", type=int, default=STUDIES, help="of a cell [%(default)s]")
    options = parser.parse_args(arguments)
    tables = []
    for name in options.names or TABLES:
        header = (TABLES[name].__doc__ or "").partition("\n")[0]
        tables.append(markdown(f"{header} {options.studies:,} studies a cell.", list(TABLES[name](options.studies))))
        print(tables[-1], flush=True)
    save(options.out / "scores.md", *tables)


if __name__ == "__main__":
    main()
