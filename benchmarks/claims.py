"""How often the word for a claim is wrong, and how many seeds it takes: simulated claims whose truth is known.

A run scores its variant's mean plus normal noise of its seed. Means and the margin are in deviations of a seed. A word
is wrong where what it says is false of the means:

    repeated       each relation holds: d > 0 for A > B, d > −m for A >= B, |d| < m for A = B
    contradicted   one is reversed: d < 0 for A > B, d ≤ −m for A >= B, |d| ≥ m for A = B
    equal          each relation of A > B holds or has |d| < m, one of them the latter, and the others hold

python -m benchmarks.claims
"""

import argparse
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from referee.claim import CONTRADICTED, EQUAL, OPEN, REPEATED, Race, Relation, claimed, parse_order
from referee.statistics.contrast import LEVEL
from referee.statistics.sequential import levels

from benchmarks import verdicts
from benchmarks.measuring import OUT, markdown, save

STUDIES = 4_000
SEEDS = 4, 7, 20
LOOKS = tuple(range(4, 16))


class World(NamedTuple):
    """A claim, and the truth about its variants A, B, C, …."""

    order: str
    means: tuple[float, ...]  # in deviations of a seed
    margin: float = 2.0
    spreads: tuple[float, ...] = ()  # of each variant's seeds; empty: 1

    def __str__(self) -> str:
        means = ", ".join(f"{mean:g}" for mean in self.means)
        spreads = f", spreads {' : '.join(f'{spread:g}' for spread in self.spreads)}" if self.spreads else ""
        return f"{means}{spreads}"

    @property
    def names(self) -> str:
        return "ABCDEF"[: len(self.means)]

    @property
    def relations(self) -> list[Relation]:
        return [relation for part in self.order.split(";") for relation in parse_order(part)]

    def gap(self, relation: Relation) -> float:
        """Return the true difference of two variants."""
        return self.means[self.names.index(relation.first)] - self.means[self.names.index(relation.second)]

    def draw(self, seeds: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Return the scores of all variants, each (S, 1)."""
        spreads = np.array(self.spreads or [1.0] * len(self.means))[:, None]
        scores = np.array(self.means)[:, None] + spreads * rng.standard_normal((len(self.means), seeds))
        return list(scores[..., None])


ONE = tuple(
    World(order, (lead, 0), margin, spreads)
    for spreads, margin in (((), 1.0), ((), 2.0), ((4, 1), 8.0))
    for order, shares in (("A > B", (0, 0.5, -0.5, 1, -1)), ("A = B", (0, 0.5, 1)), ("A >= B", (0, -0.5, -1)))
    for lead in [share * margin for share in shares]
)
SEVERAL = tuple(
    World(order, means, 2.0, spreads)
    for spreads in ((), (4, 1, 1, 1))
    for order, truths in (
        ("A > B; C > D", ((0, 0, 0, 0), (2, 0, 0, 0), (2, 0, 2, 0), (1, 0, 1, 0), (1, 0, -1, 0), (18, 0, 0, 0))),
        ("A > B; B > C; C > D", ((0, 0, 0, 0), (2, 2, 0, 0), (6, 4, 2, 0), (3, 2, 1, 0), (2, 0, 1, -1))),
        ("A = B; C = D", ((2, 0, 0, 0), (1, 0, 1, 0))),
    )
    for means in truths
)
WATCHED = (
    World("A > B", (0, 0)),
    World("A = B", (1, 0)),
    World("A = B", (2, 0)),
    World("A > B; C > D", (0, 0, 0, 0)),
    World("A > B; C > D", (2, 0, 0, 0)),
    World("A > B; C > D", (2, 0, 2, 0)),
    World("A > B; C > D", (0, 0, 0, 0), spreads=(4, 1, 1, 1)),
    World("A > B; C > D", (16, 0, 0, 0), 8.0, (4, 1, 1, 1)),
    World("A > B; B > C", (2, 0, 0)),
    World("A > B; B > C", (0, 0, 0), spreads=(4, 1, 1)),
    World("A > B; B > C; C > D", (6, 4, 2, 0)),
)


def is_wrong(world: World, word: str) -> bool:
    """Whether a word says what is false."""
    gaps, m = [(relation.sign, world.gap(relation)) for relation in world.relations], world.margin
    holds = [d > 0 if sign == ">" else d > -m if sign == ">=" else abs(d) < m for sign, d in gaps]
    reversed_ = [d < 0 if sign == ">" else d <= -m if sign == ">=" else abs(d) >= m for sign, d in gaps]
    small = [sign == ">" and abs(d) < m for sign, d in gaps]
    as_equal = any(small) and all(a or b for a, b in zip(holds, small, strict=True))
    return {REPEATED: not all(holds), CONTRADICTED: not any(reversed_), EQUAL: not as_equal, OPEN: False}[word]


def two_by_two(world: World, outcomes: list[np.ndarray]) -> str:
    """Return the word for a claim whose seeds are a fixed list."""
    race = Race(world.relations, world.margin)
    race.look({name: dict(enumerate(rows)) for name, rows in zip(world.names, outcomes, strict=True)}, LEVEL)
    return claimed(race.findings)


def watched(world: World, outcomes: list[np.ndarray]) -> tuple[str, int]:
    """Return the word for a claim that is looked at while its seeds grow in number, and the runs that it took."""
    race, trained = Race(world.relations, world.margin), dict.fromkeys(world.names, 0)
    for size, level in zip(LOOKS, levels(LOOKS, rising=True), strict=True):
        trained |= dict.fromkeys(race.racing, size)
        rows = zip(world.names, outcomes, strict=True)
        race.look({name: dict(enumerate(row[: trained[name]])) for name, row in rows}, level)
        if not race.racing:
            break
    return claimed(race.findings), sum(trained.values())


def words(world: World, seeds: int, studies: int) -> Counter[str]:
    """Return how often each word is given to claims."""
    rng = np.random.default_rng(zlib.crc32(repr((world, seeds)).encode()))
    return Counter(two_by_two(world, world.draw(seeds, rng)) for _ in range(studies))


def wrong(world: World, counts: Counter[str]) -> int:
    """Return how many of some words are wrong."""
    return sum(count for word, count in counts.items() if is_wrong(world, word))


def wrong_words(worlds: tuple[World, ...], studies: int) -> Iterator[dict[str, object]]:
    """Yield a row for each truth: wrong words by the number of seeds."""
    for world in worlds:
        counts = {seeds: wrong(world, words(world, seeds, studies)) for seeds in SEEDS}
        row: dict[str, object] = {"claim": world.order, "means": world, "margin": f"{world.margin:g}"}
        row |= {f"{seeds} seeds": f"{100 * each / studies:.1f}" for seeds, each in counts.items()}
        yield row | {"99 % bound": f"{100 * verdicts.bound(max(counts.values()), studies):.1f}"}


def watched_words(studies: int) -> Iterator[dict[str, object]]:
    """Yield a row for each of WATCHED."""
    for world in WATCHED:
        rng = np.random.default_rng(zlib.crc32(repr(world).encode()))
        ends = [watched(world, world.draw(LOOKS[-1], rng)) for _ in range(studies)]
        counts = Counter(word for word, _ in ends)
        false = wrong(world, counts)
        yield {
            "claim": world.order,
            "means": world,
            "margin": f"{world.margin:g}",
            "wrong, %": f"{100 * false / studies:.1f}",
            "99 % bound": f"{100 * verdicts.bound(false, studies):.1f}",
            **{f"{word}, %": f"{100 * counts[word] / studies:.0f}" for word in (REPEATED, CONTRADICTED, EQUAL)},
            "runs, % of all": f"{100 * np.mean([runs for _, runs in ends]) / LOOKS[-1] / len(world.means):.0f}",
        }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__.split("\n")[0])
    parser.add_argument("--studies", type=int, default=STUDIES, help="of each cell (default: %(default)s)")
    studies = parser.parse_args(arguments).studies
    start = time.process_time()
    tables = [
        markdown(f"Wrong words for a claim, %; {studies:,} studies a cell.", list(wrong_words(ONE + SEVERAL, studies))),
        markdown(f"Looks at {LOOKS[0]} to {LOOKS[-1]} seeds; {studies:,} studies a row.", list(watched_words(studies))),
    ]
    print("\n".join(tables))
    print(f"{time.process_time() - start:.0f} s of processor time")
    save(OUT / "claims.md", *tables)


if __name__ == "__main__":
    main()
