"""Simulated studies whose truth is known, and what vitlab's own functions say of them.

    python -m benchmarks.simulations folds         # how often folds call one of two equal learners better
    python -m benchmarks.simulations fold_scores   # the same from a score of each fold, as other tools have them
    python -m benchmarks.simulations planning      # whether the planner's ranges hold the truth
    python -m benchmarks.simulations tuning_noise  # how often tuning makes equal architectures different

Each case is described where it begins; simulations.md, planning.md and docs/statistics.md have the tables.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from referee.statistics.contrast import LEVEL, Cells, Dependence, all_pairs
from referee.statistics.power import Need, Pilot, Variances, measured, need
from scipy import stats
from tqdm import tqdm

from benchmarks.measuring import markdown, parser_of, save
from vitlab.data.folds import fold_numbers
from vitlab.studies.results.run import overlap_of
from vitlab.studies.training.tuning import choose, error_of_difference

Rows = Iterator[dict[str, object]]

# ---- folds: an image is a label of two, and two blocks of features that say equally much about it. Learner A sees
# the first block, learner B the second: on other data sets of this kind they are equally good. A seed is a partition,
# and draws initial weights. `folds` has outcomes of images, also of a fixed fifth; `fold_scores` a score of each fold.

SEEDS, IMAGES, FOLDS = (4, 7, 20), (100, 400), 5
TESTS = "5 folds, rule", "5 folds, as if independent", "a fifth held out"
FEATURES, DISTANCE, HIDDEN, STEPS, RATE = 6, 1.6, 8, 60, 0.5  # of a block; between the means of classes, in deviations


def network(x: np.ndarray, y: np.ndarray, trains: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return whether a network of one hidden layer is right, (R, N); x (N, F), y (N,), which images train it (R, N)."""
    (R, _), F, sign = trains.shape, x.shape[1], 2.0 * y - 1
    first, last = rng.normal(0, F**-0.5, (R, F, HIDDEN)), rng.normal(0, HIDDEN**-0.5, (R, HIDDEN, 1))
    share = trains / trains.sum(axis=1, keepdims=True)
    for _ in range(STEPS):
        hidden = np.maximum(x @ first, 0)  # (R, N, H)
        slope = (-sign * share / (1 + np.exp(sign * (hidden @ last)[..., 0])))[..., None]  # of the logistic loss
        back = (slope * last.transpose(0, 2, 1)) * (hidden > 0)
        last -= RATE * hidden.transpose(0, 2, 1) @ slope
        first -= RATE * x.T @ back
    return np.asarray(sign * (np.maximum(x @ first, 0) @ last)[..., 0] > 0)


def nearest(x: np.ndarray, y: np.ndarray, trains: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give each image the label of the nearest of each row's training images."""
    distance = ((x[:, None] - x) ** 2).sum(axis=2)
    return np.stack([y[np.where(row, distance, np.inf).argmin(axis=1)] == y for row in trains])


def discriminant(x: np.ndarray, y: np.ndarray, trains: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Separate the classes by least squares, which is Fisher's discriminant where classes are equally large."""
    sign, ones = 2.0 * y - 1, np.concatenate([x, np.ones((len(x), 1))], axis=1)
    weighed = trains[..., None] * ones  # (R, N, F + 1)
    normal = np.linalg.solve(weighed.mT @ ones, weighed.mT @ sign[:, None])
    return np.asarray(sign * (ones @ normal)[..., 0] > 0)


def drawn(images: int, repeats: int, parts: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw both blocks (2, N, F) and labels (N,), and return which images each part tests, (parts · repeats, N)."""
    y = np.arange(images) % 2
    x = rng.normal(0, 1, (2, images, FEATURES)) + np.where(y, 0.5, -0.5)[:, None] * DISTANCE * FEATURES**-0.5
    fold = np.stack([fold_numbers(y, parts, seed) for seed in range(repeats)])  # the same for both learners
    return x, y, np.concatenate([fold == k for k in range(parts)])


def folds(studies: int) -> Rows:
    for (name, learner), images in product({"neural network": network, "1-NN": nearest}.items(), IMAGES):
        rng, false = np.random.default_rng(images), np.zeros((len(TESTS), len(SEEDS)), np.int64)
        for _ in range(studies):
            x, y, tests = drawn(images, max(SEEDS), FOLDS, rng)
            right = [(learner(block, y, ~tests, rng) & tests).reshape(FOLDS, -1, images).any(axis=0) for block in x]
            apart = [learner(block, y, np.tile(~tests[0], (max(SEEDS), 1)), rng)[:, tests[0]] for block in x]
            for row, (pair, overlap) in enumerate(((right, overlap_of(FOLDS)), (right, 1.0), (apart, 1.0))):
                for column, count in enumerate(SEEDS):
                    found = all_pairs([each[:count] for each in pair], dependence=Dependence(overlap=overlap))
                    false[row, column] += found[0, 1].p < LEVEL
        for how, counts in zip(TESTS, false, strict=True):
            highest = stats.beta.ppf(0.99, counts.max() + 1, studies - counts.max())
            cells = {f"{n} seeds": f"{100 * count / studies:.1f}" for n, count in zip(SEEDS, counts, strict=True)}
            yield {"learner": name, "images": images, "test": how, **cells, "99 % bound": f"{100 * highest:.1f}"}


def fold_scores(studies: int) -> Rows:
    learners = {"linear discriminant": discriminant, "1-NN": nearest, "neural network": network}
    for (name, learner), images, (repeats, parts) in product(learners.items(), (200, 100), ((1, 5), (5, 5), (10, 10))):
        rng, n, false = np.random.default_rng(images), repeats * parts, np.zeros(2)
        for _ in range(studies):
            x, y, tests = drawn(images, repeats, parts, rng)
            a, b = ((learner(block, y, ~tests, rng) & tests).sum(axis=1) / tests.sum(axis=1) for block in x)
            folded = Cells([a[None], b[None]], dependence=Dependence(overlap=1 + n / (parts - 1))).pair(0, 1)
            false += folded.p < LEVEL, all_pairs([a[:, None], b[:, None]])[0, 1].p < LEVEL
        as_folds, as_seeds = (100 * false / studies).round(1)
        yield {"learner": name, "images": images, "parts": f"{repeats} × {parts}", "folds": as_folds, "seeds": as_seeds}


# ---- planning: pilots of studies whose variances are known. A latent variable per image: difficulty of the image +
# what one variant finds easier + the seed's shift + a flip; above 0 the image is classified correctly. At 90 %
# accuracy seeds flip w = 0.048 per image and I = 0.014/N, as trained models do.

PILOT_MEAN, PILOT_DIFFICULTY, PILOT_TASTE = 2.583, 1.655, 0.568  # of the latent variable
FLIPS, IMAGE_VARIANCE = 0.0484, 0.0139  # w and N · I that follow
DENSITY = 0.0871  # of the latent variable at 0: what a shift of 1 moves the accuracy


class Setting(NamedTuple):
    variants: int
    sd: float  # of a variant's accuracy over seeds, in points, before flips
    images: int
    difference: float  # in points
    pilot: int  # seeds
    noise: str = "normal"  # of seeds; or "t", 3 degrees of freedom

    @property
    def truth(self) -> Pilot:
        """The pilot that knows the variances."""
        variances = Variances(1e-4 * self.sd**2 + FLIPS / self.images, IMAGE_VARIANCE / self.images)
        return Pilot(self.variants, self.images, variances, variances, variances)

    def draw(self, rng: np.random.Generator, seeds: int, lead: float = 0.0) -> list[np.ndarray]:
        """Draw (S, N) outcomes of each variant; the first is `lead` points ahead."""
        difficulty = rng.normal(PILOT_MEAN, PILOT_DIFFICULTY, self.images)
        spread = math.sqrt(1 + PILOT_DIFFICULTY**2 + PILOT_TASTE**2)
        ahead = float(stats.norm.ppf(stats.norm.cdf(PILOT_MEAN / spread) + lead / 100)) * spread - PILOT_MEAN
        drawn = []
        for variant in range(self.variants):
            shift = rng.standard_t(3, seeds) / np.sqrt(3) if self.noise == "t" else rng.normal(0, 1, seeds)
            shift = 0.01 * self.sd * shift / DENSITY + (ahead if variant == 0 else 0.0)
            chance = difficulty + rng.normal(0, PILOT_TASTE, self.images) + shift[:, None]
            drawn.append(chance + rng.standard_normal((seeds, self.images)) > 0)
        return drawn


SETTINGS = [
    Setting(3, 0.5, 10_000, 1.0, 3),
    Setting(3, 0.5, 10_000, 1.0, 5),
    Setting(2, 0.5, 10_000, 1.0, 3),
    Setting(3, 0.5, 10_000, 0.5, 3),
    Setting(3, 0.5, 10_000, 0.5, 5),
    Setting(3, 0.5, 600, 3.0, 3),
    Setting(4, 0.5, 2_000, 1.5, 3),
    Setting(3, 0.5, 10_000, 1.0, 3, "t"),
    Setting(3, 0.5, 600, 1.0, 3),
    Setting(3, 0.5, 2_000, 0.5, 3),
]


def holds(answer: Need, truth: Need) -> bool:
    """Whether the range contains the truth; where no seeds are enough, a range of seeds that is open above does."""
    if truth.images and not answer.images:
        return answer.seeds.high is None
    (_, low, high), (wanted, *_) = (each.images if truth.images else each.seeds for each in (answer, truth))
    return low is not None and low <= wanted and (high is None or wanted <= high)


def planning(studies: int) -> Rows:
    for setting in SETTINGS:
        rng, difference = np.random.default_rng(0), setting.difference / 100
        truth = need(setting.truth, difference)
        wanted = truth.images or truth.seeds
        pilots = [measured(setting.draw(rng, setting.pilot), setting.variants) for _ in range(studies)]
        answers = [need(pilot, difference) for pilot in pilots]
        ranges = [answer.images if truth.images else answer.seeds for answer in answers]
        enough = [not r or not r.high or r.high >= wanted.point for r in ranges]

        def quantile(name: str, q: float = 0.5, ranges: Sequence[object] = ranges) -> str:
            values = sorted(getattr(r, name) or 10**9 if r else 0 for r in ranges)
            value = values[round(q * (len(values) - 1))]
            return "–" if value == 0 else f"{value:,}" if value < 10**9 else "over 1,000"

        power = "–"
        if not truth.images:  # the share of studies of the needed size that find the first better than all others
            rng = np.random.default_rng(1)
            tests = [all_pairs(setting.draw(rng, wanted.point, setting.difference)) for _ in range(studies // 4)]
            best = [[test[0, other].adjusted <= LEVEL for other in range(1, setting.variants)] for test in tests]
            power = f"{np.mean([*map(all, best)]):.0%}"
        yield {
            "K, sd, N": f"{setting.variants}, {setting.sd}{' (t)' if setting.noise == 't' else ''}, {setting.images:,}",
            "δ": setting.difference,
            "pilot": setting.pilot,
            "truth": f"{wanted.point:,}{' images' if truth.images else ''}",
            "point: 10, 50, 90 %": ", ".join(quantile("point", q) for q in (0.1, 0.5, 0.9)),
            "range holds truth": f"{np.mean([holds(answer, truth) for answer in answers]):.1%}",
            "median range": f"{quantile('low')} to {quantile('high')}",
            "enough at the upper end": f"{np.mean(enough):.0%}",
            "power at the truth": power,
            "images asked for": f"{np.mean([answer.images is not None for answer in answers]):.1%}",
        }


# ---- tuning_noise: both architectures are simulated image by image. With the values of the tuned setting their
# accuracies are 0, −d, −2d, … points. A run's seed moves its accuracy by 0.5 points, and flips images. The values are
# chosen on 5,000 validation images, and the chosen ones compared on 10,000 test images. Where the best values differ,
# the second architecture's accuracies are −d, 0, −d, …: at their best the two are equal.

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
    different, lost = np.mean([rule(rng, points, seeds) for _ in range(studies)], axis=0)
    return float(different), float(lost)


def tuning_noise(studies: int) -> Rows:
    """Called different, % (points lost)."""
    ways = rules(Images(TEST), Images(VALIDATION))
    for best in ("the same", "neighboring"):
        for values, step in GRIDS:
            row: dict[str, object] = {"best value": best, "values, step": f"{values}, {step}"}
            for name, rule in ways.items():
                for seeds in (5, 10):
                    share, lost = simulate(rule, accuracies(values, step, best == "the same"), seeds, studies)
                    row[f"{name}, S {seeds}"] = f"{100 * share:.1f} ({lost:.2f})"
            yield row


CASES: dict[str, tuple[Callable[[int], Rows], int]] = {
    "fold_scores": (fold_scores, 2_000),
    "folds": (folds, 1_000),
    "planning": (planning, 1_000),
    "tuning_noise": (tuning_noise, 2_000),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("simulations", __doc__, "NAME.md")
    parser.add_argument("name", choices=CASES)
    parser.add_argument("--studies", type=int, help="of each row [500 to 2,000]")
    options = parser.parse_args(arguments)
    rows, studies = CASES[options.name]
    studies = options.studies or studies
    table = markdown(f"{studies:,} studies a row.", list(tqdm(rows(studies))))
    save(options.out / f"{options.name}.md", table)
    print(table)


if __name__ == "__main__":
    main()
