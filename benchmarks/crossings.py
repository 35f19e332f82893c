"""How often a crossing of two curves is found where it is, and claimed where none is: simulated studies.

Two variants follow error = α + η n^−γ over the numbers of training images; images, seeds and flips are drawn as in
`benchmarks.verdicts`.

python -m benchmarks.crossings
"""

import argparse
import zlib
from typing import NamedTuple

import numpy as np
from referee.statistics.comparison import differences
from referee.statistics.curves import Gap, crossing, law

from benchmarks.table import OUT, markdown, save
from benchmarks.verdicts import DIFFICULTY, FLIP, TASTE, accuracy_of

SHIFTS = np.linspace(-8, 8, 4001)
ACCURACIES = accuracy_of(SHIFTS)


class World(NamedTuple):
    """Two laws, and the study that sees them."""

    laws: tuple[tuple[float, float, float], tuple[float, float, float]]  # floor, factor, rate
    images: int = 1_000  # of the test split
    seeds: int = 7
    sd: float = 1.0  # of seeds, in points
    x: tuple[int, ...] = (50, 100, 200, 400, 800, 1_078)

    @property
    def planted(self) -> float | None:
        """Where the laws cross within the range."""
        x = np.geomspace(self.x[0], self.x[-1], 100_001)
        apart = law(x, *self.laws[0]) - law(x, *self.laws[1])
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
        for location, own in zip(tastes, world.laws, strict=True):
            wanted = 1 - float(law(np.array([n]), *own)[0]) + 0.01 * world.sd * rng.standard_normal(world.seeds)
            moved = np.interp(wanted, ACCURACIES, SHIFTS).astype(np.float32)[:, None]
            chance = (location + moved) / (2 * FLIP) + np.float32(0.5)
            point.append(rng.random((world.seeds, world.images), dtype=np.float32) < chance)
        points.append(point)
    return points


def gap_of(point: list[np.ndarray]) -> Gap:
    """Return what a study knows of two variants at a point."""
    first, second = (max(1 - float(y.mean()), 0.5 / y.shape[1]) for y in point)
    each = differences(point)[0, 1]
    return Gap(first, second, each.seeds, each.images, each.freedom)


def shares(world: World, studies: int) -> tuple[float, float]:
    """Return the shares of studies that claim a crossing, and of those whose interval then holds the planted one."""
    rng = np.random.Generator(np.random.SFC64(zlib.crc32(repr(world).encode())))
    found = [crossing(world.x, list(map(gap_of, outcomes(world, rng)))) for _ in range(studies)]
    claimed, planted = [each for each in found if each], world.planted
    held = [planted is not None and each.low <= planted <= each.high for each in claimed]
    return len(claimed) / studies, float(np.mean(held)) if held else np.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=500)
    arguments = parser.parse_args()
    rows = []
    for world in (*CROSSING, *APART):
        claimed, held = shares(world, arguments.studies)
        (a, b), planted = world.laws, world.planted
        rows.append(
            {
                "laws": " and ".join(f"{f:g} + {c:g}·n^−{r:g}" for f, c, r in (a, b)),
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
