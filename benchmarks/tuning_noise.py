"""How often a tuned study calls two equal architectures different, and what tuning with ties costs unequal ones.

    python -m benchmarks.tuning_noise --studies 2000

Both architectures are simulated image by image. With the values of the tuned setting their accuracies are 0, −d, −2d, …
points. A run's seed moves its accuracy by 0.5 points, and flips images. The values are chosen on 5,000 validation
images, and the chosen ones compared on 10,000 test images, by vitlab's own functions. Where the best values differ, the
second architecture's accuracies are −d, 0, −d, …: at their best the two are equal.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from referee.statistics.contrast import LEVEL, all_pairs

from vitlab.studies.training.near_ties import choose, error_of_difference

VALIDATION, TEST = 5_000, 10_000  # images
SEED_POINTS = 0.5  # standard deviation
GRIDS = ((3, 0.25), (3, 0.5), (3, 1.0), (5, 0.25), (5, 0.5), (5, 1.0))  # number of values, step in points
Study = Callable[[np.random.Generator, np.ndarray, int], tuple[bool, float]]


class Images:
    """Images of unlike difficulty, which a model of 0 points gets right in 90 % of cases."""

    def __init__(self, number: int) -> None:
        self.right = np.random.default_rng(0).beta(1.8, 0.2, number).astype(np.float32)
        gain = self.right * (1 - self.right)
        self.per_point = 0.01 * gain / gain.mean()  # easy and hopeless images gain little

    def answers(self, rng: np.random.Generator, points: np.ndarray) -> np.ndarray:
        """Draw whether each image is right, (*points.shape, N) bool, for models that are `points` better."""
        draws = rng.random((*points.shape, len(self.right)), dtype=np.float32)
        return np.asarray(draws < self.right + self.per_point * points[..., None].astype(np.float32))


def tuned(
    rng: np.random.Generator, points: np.ndarray, seeds: int, tuning_seeds: int, ties: bool, test: Images, val: Images
) -> tuple[bool, float]:
    """Simulate a study with tuning seeds of its own: whether it calls the two different, and the points lost.

    Args:
        points: (K, M), of each architecture with each value.
        ties: Whether near-ties are ties; else each architecture takes its own best value.
    """
    runs = points[..., None] + SEED_POINTS * rng.standard_normal((*points.shape, tuning_seeds))  # (K, M, T)
    scores = val.answers(rng, runs).mean(axis=-1)
    chosen = choose(scores.mean(axis=-1), error_of_difference(scores, VALIDATION) if ties else 0.0)
    taken = points[range(len(points)), chosen]  # (K,)
    return compared(rng, taken[:, None] + SEED_POINTS * rng.standard_normal((len(points), seeds)), points, taken, test)


def tuned_within_seeds(
    rng: np.random.Generator, points: np.ndarray, seeds: int, test: Images, val: Images
) -> tuple[bool, float]:
    """Simulate a study in which each seed chooses among its own runs, which are then compared."""
    runs = points[..., None] + SEED_POINTS * rng.standard_normal((*points.shape, seeds))  # (K, M, S)
    scores = val.answers(rng, runs).mean(axis=-1)
    chosen = np.array([choose(scores[..., s], error_of_difference(scores[..., [s]], VALIDATION)) for s in range(seeds)])
    each = np.arange(len(points))[:, None], chosen.T, np.arange(seeds)
    return compared(rng, runs[each], points, points[each[:2]].mean(axis=1), test)


def compared(
    rng: np.random.Generator, runs: np.ndarray, points: np.ndarray, taken: np.ndarray, test: Images
) -> tuple[bool, float]:
    """Return whether runs (K, S) are called different, and the mean loss against the best values."""
    outcomes = list(test.answers(rng, runs))
    return all_pairs(outcomes)[0, 1].adjusted < LEVEL, float((points.max(axis=1) - taken).mean())


def rules(test: Images, val: Images) -> dict[str, Study]:
    """Return the ways to tune that are compared."""
    own = partial(tuned, test=test, val=val)
    return {
        "own best, 1 seed": partial(own, tuning_seeds=1, ties=False),
        "own best, 3 seeds": partial(own, tuning_seeds=3, ties=False),
        "within: study": partial(own, tuning_seeds=3, ties=True),
        "within: seed": partial(tuned_within_seeds, test=test, val=val),
    }


def accuracies(values: int, step: float, same: bool = True) -> np.ndarray:
    """Return the true points of both architectures with each value, (2, M)."""
    place = np.arange(values)
    return -step * np.stack([place, place if same else np.abs(place - 1)])


def simulate(rule: Study, points: np.ndarray, seeds: int, studies: int) -> tuple[float, float]:
    """Return the share of studies that call the two different, and the mean loss in points."""
    rng = np.random.default_rng(0)
    results = [rule(rng, points, seeds) for _ in range(studies)]
    different, lost = np.mean(results, axis=0)
    return float(different), float(lost)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print two tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2_000, help="simulated for each cell [2000]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 10], help="of the comparison [5 10]")
    options = parser.parse_args(arguments)
    compared_rules = rules(Images(TEST), Images(VALIDATION))
    tables = (True, "The same best value", options.seeds), (False, "Neighboring best values", options.seeds[-1:])
    for same, title, counts in tables:
        columns = [f"{name}, S {seeds}" for name in compared_rules for seeds in counts]
        print(f"\n{title}: called different, % (points lost)\n")
        print(f"| values, step | {' | '.join(columns)} |\n|---|{'--:|' * len(columns)}")
        for values, step in GRIDS:
            cells = []
            for rule in compared_rules.values():
                for seeds in counts:
                    share, lost = simulate(rule, accuracies(values, step, same), seeds, options.studies)
                    cells.append(f"{100 * share:.1f} ({lost:.2f})")
            print(f"| {values}, {step} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
