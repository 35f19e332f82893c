"""How often a crossing of two curves is found where it is, and claimed where none is: simulated studies.

Two variants follow error = α + η n^−γ over the numbers of training images n; the second may turn at one n, to a
steeper line or all of a sudden. Images, seeds and flips are drawn as in `benchmarks.verdicts`.

python -m benchmarks.crossings
"""

import argparse
import zlib
from typing import NamedTuple

import numpy as np
from referee.statistics.contrast import all_pairs
from referee.statistics.curves import Gap, crossing, law

from benchmarks.table import OUT, markdown, save
from benchmarks.verdicts import DIFFICULTY, FLIP, TASTE, accuracy_of

SHIFTS = np.linspace(-8, 8, 4001)
ACCURACIES = accuracy_of(SHIFTS)


class Turn(NamedTuple):
    """From n on, a law's error is the share of what it is at n, and falls at the rate."""

    n: float
    share: float
    rate: float


class World(NamedTuple):
    """Two laws, and the study that sees them."""

    laws: tuple[tuple[float, float, float], tuple[float, float, float]]  # floor, factor, rate
    images: int = 1_000  # of the test split
    seeds: int = 7
    sd: float = 1.0  # of seeds, in points
    x: tuple[int, ...] = (50, 100, 200, 400, 800, 1_078)
    turn: Turn | None = None  # of the second law

    def errors(self, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the errors of both variants."""
        first, second = (law(n, *each) for each in self.laws)
        if self.turn is None:
            return first, second
        after = self.turn.share * law(np.array(self.turn.n), *self.laws[1]) * (n / self.turn.n) ** -self.turn.rate
        return first, np.where(n < self.turn.n, second, after)

    @property
    def planted(self) -> float | None:
        """Where the laws cross within the range."""
        x = np.geomspace(self.x[0], self.x[-1], 100_001)
        first, second = self.errors(x)
        apart = first - second
        turns = np.flatnonzero(np.sign(apart[:-1]) != np.sign(apart[1:]))
        return float(x[turns[0]]) if len(turns) else None


CROSSING = (
    World(((0.02, 3.5, 0.55), (0.0, 30.0, 0.95))),
    World(((0.02, 3.5, 0.55), (0.0, 30.0, 0.95)), images=10_000),
    World(((0.02, 3.5, 0.55), (0.0, 30.0, 0.95)), images=360, sd=2.0),
    World(((0.05, 2.0, 0.45), (0.0, 7.85, 0.65)), seeds=5),
    World(((0.05, 2.0, 0.45), (0.0, 7.85, 0.65)), x=(50, 200, 1_078)),
    World(((0.15, 1.5, 0.2), (0.0, 3.56, 0.25)), images=10_000, x=(500, 1_500, 5_000, 15_000, 50_000)),
    World(((0.15, 1.5, 0.2), (0.0, 3.56, 0.25)), images=10_000, sd=0.3, x=(500, 1_500, 5_000, 15_000, 50_000)),
)
FLAT, SLOW = (0.02, 3.5, 0.55), (0.5, 0.5, 0.5)
TURNS = (
    *(World((FLAT, SLOW), turn=Turn(n, 0.1, 0.55)) for n in (220.0, 300.0, 380.0)),
    *(
        World((FLAT, SLOW), images=images, sd=sd, turn=Turn(150.0, 1.0, rate))
        for rate in (1.8, 3.0)
        for images, sd in ((1_000, 1.0), (10_000, 0.3))
    ),
)
APART = (
    World(((0.02, 3.5, 0.55), (0.02, 3.5, 0.55))),
    World(((0.02, 3.5, 0.55), (0.02, 3.5, 0.55)), images=10_000),
    World(((0.02, 3.5, 0.55), (0.02, 4.2, 0.55))),
    World(((0.02, 3.5, 0.55), (0.02, 3.8, 0.55)), seeds=3),
    World(((0.02, 3.5, 0.55), (0.03, 4.0, 0.55)), images=360, sd=2.0),
)


def outcomes(world: World, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """Draw a study: by point and variant, (S, N) bool. Difficulty and taste of an image are the same at all points."""
    difficulty = rng.normal(*DIFFICULTY, world.images).astype(np.float32)
    tastes = [difficulty + TASTE * rng.standard_normal(world.images, dtype=np.float32) for _ in world.laws]
    points = []
    for n in world.x:
        point = []
        for location, error in zip(tastes, world.errors(np.array([float(n)])), strict=True):
            wanted = 1 - float(error[0]) + 0.01 * world.sd * rng.standard_normal(world.seeds)
            moved = np.interp(wanted, ACCURACIES, SHIFTS).astype(np.float32)[:, None]
            chance = (location + moved) / (2 * FLIP) + np.float32(0.5)
            point.append(rng.random((world.seeds, world.images), dtype=np.float32) < chance)
        points.append(point)
    return points


def gap_of(point: list[np.ndarray]) -> Gap:
    """Return what a study knows of two variants at a point."""
    first, second = (max(1 - float(y.mean()), 0.5 / y.shape[1]) for y in point)
    each = all_pairs(point)[0, 1]
    return Gap(first, second, each.seeds, each.images, each.freedom)


def shares(world: World, studies: int) -> tuple[float, float]:
    """Return the shares of studies that claim a crossing, and of those whose interval then holds the planted one."""
    rng = np.random.Generator(np.random.SFC64(zlib.crc32(repr(world).encode())))
    found = [crossing(world.x, list(map(gap_of, outcomes(world, rng)))) for _ in range(studies)]
    claimed, planted = [each for each in found if each], world.planted
    held = [planted is not None and each.low <= planted <= each.high for each in claimed]
    return len(claimed) / studies, float(np.mean(held)) if held else np.nan


def turned(turn: Turn | None) -> str:
    """Return how a law turns, in words."""
    return f"at {turn.n:g}: {turn.share:g} times, n^−{turn.rate:g}" if turn else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=500)
    arguments = parser.parse_args()
    rows = []
    for world in (*CROSSING, *TURNS, *APART):
        claimed, held = shares(world, arguments.studies)
        (a, b), planted = world.laws, world.planted
        rows.append(
            {
                "laws": " and ".join(f"{f:g} + {c:g}·n^−{r:g}" for f, c, r in (a, b)),
                "the second turns": turned(world.turn),
                "places": f"{len(world.x)}, {world.x[0]} to {world.x[-1]:,}",
                "seeds": str(world.seeds),
                "sd of seeds, points": f"{world.sd:g}",
                "test images": f"{world.images:,}",
                "planted at": f"{planted:.0f}" if planted else "nowhere",
                "claimed, %": f"{100 * claimed:.1f}",
                "of these inside the interval, %": f"{100 * held:.1f}" if planted else "",
            }
        )
    table = markdown(f"{arguments.studies} studies a row.", rows)
    OUT.mkdir(parents=True, exist_ok=True)
    save(OUT / "crossings.md", table)
    print(table)


if __name__ == "__main__":
    main()
