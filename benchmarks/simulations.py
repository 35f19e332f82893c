"""Simulated studies whose truth is known, and what vitlab's own functions say of them.

    python -m benchmarks.simulations folds   # one of CASES

Each case is described where it begins; simulations.md, planning.md and docs/ have the tables.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from referee.claim import CONTRADICTED, EQUAL, OPEN, REPEATED, Race, Relation, claimed, parse_order
from referee.judging import UNLIKE
from referee.statistics.blocks import interaction
from referee.statistics.contrast import LEVEL, Dependence, all_pairs
from referee.statistics.power import Need, Pilot, Variances, measured, need
from referee.statistics.sequential import levels
from scipy import stats
from tqdm import tqdm

from benchmarks.measuring import markdown, parser_of, save
from benchmarks.scores import generator
from vitlab.data.folds import fold_numbers
from vitlab.studies.results import variance_inflation
from vitlab.studies.training.tuning import choose, error_of_difference

Rows = Iterator[dict[str, object]]


def share(count: int, studies: int) -> str:
    """Return a share in per cent."""
    return f"{100 * count / studies:.1f}"


def bound(count: int, studies: int) -> float:
    """Return the one-sided 99 % upper bound of a rate."""
    return float(stats.binomtest(count, studies, alternative="less").proportion_ci(0.99).high)


# ---- studies of images: an image is classified correctly where
#
#     difficulty_i + taste_vi + shift_vs + flip_vsi > 0
#
# with a normal difficulty for all variants, a normal taste of each variant v, the shift of each seed s, and a flip that
# is drawn anew for every seed and image, uniform in ±FLIP. Accuracy is about 90 %; a run's flips alone move it by 0.2
# points on 10,000 images. Shifts are set in points of accuracy: normal, or with one seed in ten that fails and loses
# FAILURE points. Without a lead all variants are equal over images and seeds, and every "better" is false.

DIFFICULTY = 2.2, 1.5  # mean and standard deviation
TASTE = 0.5  # standard deviation
FLIP = 1.3
FAILURE = 5.0  # points


class Design(NamedTuple):
    """A study and the world that it is drawn from."""

    variants: int
    seeds: int
    images: int
    fails: bool = False  # one seed in ten of the first variant
    sd: float = 0.5  # of seeds, in points
    lead: float = 0.0  # of the first variant, in points
    taste: float = TASTE
    spread: float = 1.0  # of the first variant's seeds, in sd


def accuracy_of(shift: np.ndarray) -> np.ndarray:
    """Return the accuracy, as a fraction, of a variant that a shift moves, over the population of images."""
    mean, sd = DIFFICULTY[0] + shift, float(np.hypot(DIFFICULTY[1], TASTE))

    def integral(x: np.ndarray) -> np.ndarray:  # ∫ Φ
        return x * stats.norm.cdf(x) + stats.norm.pdf(x)

    return (integral((mean + FLIP) / sd) - integral((mean - FLIP) / sd)) * sd / (2 * FLIP)


SHIFTS = np.linspace(-8, 8, 4001)
ACCURACIES = accuracy_of(SHIFTS)


def shifts(design: Design, variant: int, rng: np.random.Generator) -> np.ndarray:
    """Draw what each seed moves a variant by, (S,), on the scale of difficulty."""
    first = variant == 0
    points = design.sd * (design.spread if first else 1) * rng.standard_normal(design.seeds) + design.lead * first
    if design.fails and first:
        points += FAILURE / 10 - FAILURE * (rng.random(design.seeds) < 0.1)  # equal on average
    return np.interp(accuracy_of(np.zeros(1)) + 0.01 * points, ACCURACIES, SHIFTS)


def outcomes(design: Design, rng: np.random.Generator) -> list[np.ndarray]:
    """Draw a study: for each variant, (S, N) bool."""
    difficulty = rng.normal(*DIFFICULTY, design.images).astype(np.float32)
    drawn = []
    for variant in range(design.variants):
        location = difficulty + design.taste * rng.standard_normal(design.images, dtype=np.float32)
        correct = np.empty((design.seeds, design.images), dtype=bool)
        for seed, shift in enumerate(shifts(design, variant, rng).astype(np.float32)):
            chance = (location + shift) / (2 * FLIP) + np.float32(0.5)
            np.less(rng.random(design.images, dtype=np.float32), chance, out=correct[seed])
        drawn.append(correct)
    return drawn


def unequal_seeds(studies: int) -> Rows:
    """False claims where a few seeds do not show a failure that only the first variant has, %."""
    for images, variants, seeds in product((1_000, 10_000), (2, 3), (3, 5, 10)):
        design = Design(variants, seeds, images, fails=True)
        rng, false = generator(design), 0
        for _ in range(studies):
            false += any(each.adjusted < LEVEL for each in all_pairs(outcomes(design, rng)).values())
        yield {"variants": variants, "seeds": seeds, "images": f"{images:,}", "false": share(false, studies)}


def in_groups(variants: int, groups: int, seeds: int, unlike: bool, studies: int) -> tuple[int, int, float]:
    """Count studies of equal variants that call one better: with the groups of ten images told, and untold.

    Of `unlike` groups a tenth have 91 images, the others one. The last number is how many groups of equal size tell as
    much.
    """
    rng = generator(("groups", variants, groups, seeds, unlike))
    sizes = np.where(np.arange(groups) % 10, 1, 91) if unlike else np.full(groups, 10)
    codes, told, untold = np.repeat(np.arange(groups), sizes), 0, 0
    for _ in range(studies):
        easy = rng.standard_normal(groups) + 0.7 * rng.standard_normal((variants, groups))
        image = 0.7 * rng.standard_normal((variants, 1, 10 * groups))
        seed = 0.5 * rng.standard_normal((variants, seeds, 10 * groups))
        outcomes = list(easy[:, None, codes] + image + seed > -0.8)
        told += any(each.adjusted < LEVEL for each in all_pairs(outcomes, dependence=Dependence(codes)).values())
        untold += any(each.adjusted < LEVEL for each in all_pairs(outcomes).values())
    return told, untold, Dependence(codes).size(len(codes))


def grouped_images(studies: int) -> Rows:
    """Yield a row for each number of variants, groups of ten images, and seeds."""
    alike = ((2, 60, 3), (2, 60, 5), (2, 60, 10), (3, 60, 5), (3, 100, 10), (2, 20, 5))
    for variants, groups, seeds, unlike in (*((*each, False) for each in alike), (2, 60, 10, True), (2, 200, 10, True)):
        told, untold, effective = in_groups(variants, groups, seeds, unlike, studies)
        yield {
            "variants": variants,
            "groups": f"{groups} ({effective:.0f} of equal size)",
            "seeds": seeds,
            "told": share(told, studies),
            "99 % bound": f"{100 * bound(told, studies):.1f}",
            "untold": share(untold, studies),
        }


def machines_of(how: str, variants: int, seeds: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Draw the kind of machine of each run by variant, (S,)."""
    alternate = np.arange(seeds) % 2
    if how == "one for each seed":
        return [np.arange(seeds)] * variants
    each = [alternate.copy() for _ in range(variants)]
    if how == "two, one run astray":
        each[rng.integers(variants)][rng.integers(seeds)] ^= 1
    elif how == "two, shared unequally":
        for variant, of in enumerate(each):
            of[:] = variant == 0
            of[0] ^= 1
    return each


MIXTURES = "two, each seed on one", "one for each seed", "two, one run astray", "two, shared unequally"


def mixed_machines(studies: int) -> Rows:
    """Yield studies whose machines lie 2 deviations of a seed apart: false claims about equal variants.

    *Found* is the first variant's lead of 3 deviations over the second.
    """
    for how, (variants, seeds) in product(MIXTURES, ((2, 4), (2, 8), (3, 4), (3, 8))):
        rng = generator((how, variants, seeds))
        some, first = 0, 0
        for _ in range(studies):
            blocks = machines_of(how, variants, seeds, rng)
            classes = np.sort(2 * rng.standard_normal(seeds)) if "one for" in how else np.array([0.0, 2.0])
            scores = [(rng.standard_normal(seeds) + classes[of])[:, None] for of in blocks]
            some += any(each.adjusted <= LEVEL for each in all_pairs(scores, blocks=blocks).values())
            found = all_pairs([scores[0] + 3, *scores[1:]], blocks=blocks)[0, 1]
            first += found.adjusted <= LEVEL and found.mean > 0
        row = {"machines": how, "variants": variants, "seeds": seeds, "false": share(some, studies)}
        yield row | {"99 % bound": f"{100 * bound(some, studies):.1f}", "found": share(first, studies)}


def unlike_kinds(studies: int) -> Rows:
    """Yield studies of equal variants each of which every kind of machine moves by itself, by two deviations of a seed.

    *Compared*: calls one better though the F test of R016 would not make the study void.
    """
    for variants, seeds in ((2, 4), (2, 8), (3, 4), (3, 8)):
        rng, false = generator((variants, seeds)), np.zeros(2)
        blocks = [np.arange(seeds) % 2] * variants
        for _ in range(studies):
            scores = [rng.normal(0, 2, 2)[of] + rng.standard_normal(seeds) for of in blocks]
            found = all_pairs([y[:, None] for y in scores], blocks=blocks).values()
            is_claimed = any(each.adjusted <= LEVEL for each in found)
            false += is_claimed, is_claimed and interaction(scores, blocks) >= UNLIKE
        some, compared = (share(int(count), studies) for count in false)
        yield {"variants": variants, "seeds": seeds, "false": some, "compared": compared}


# ---- claims: a run scores its variant's mean plus normal noise of its seed. Means and the margin are in deviations of
# a seed. A word is wrong where what it says is false of the means:
#
#     repeated       each relation holds: d > 0 for A > B, d > −m for A >= B, |d| < m for A = B
#     contradicted   one is reversed: d < 0 for A > B, d ≤ −m for A >= B, |d| ≥ m for A = B
#     equal          each relation of A > B holds or has |d| < m, one of them the latter, and the others hold

SEEDS = 4, 7, 20
LOOKS = tuple(range(4, 16))


class Truth(NamedTuple):
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
    Truth(order, (lead, 0), margin, spreads)
    for spreads, margin in (((), 1.0), ((), 2.0), ((4, 1), 8.0))
    for order, shares in (("A > B", (0, 0.5, -0.5, 1, -1)), ("A = B", (0, 0.5, 1)), ("A >= B", (0, -0.5, -1)))
    for lead in [share * margin for share in shares]
)
SEVERAL = tuple(
    Truth(order, means, 2.0, spreads)
    for spreads in ((), (4, 1, 1, 1))
    for order, truths in (
        ("A > B; C > D", ((0, 0, 0, 0), (2, 0, 0, 0), (2, 0, 2, 0), (1, 0, 1, 0), (1, 0, -1, 0), (18, 0, 0, 0))),
        ("A > B; B > C; C > D", ((0, 0, 0, 0), (2, 2, 0, 0), (6, 4, 2, 0), (3, 2, 1, 0), (2, 0, 1, -1))),
        ("A = B; C = D", ((2, 0, 0, 0), (1, 0, 1, 0))),
    )
    for means in truths
)
WATCHED = (
    Truth("A > B", (0, 0)),
    Truth("A = B", (1, 0)),
    Truth("A = B", (2, 0)),
    Truth("A > B; C > D", (0, 0, 0, 0)),
    Truth("A > B; C > D", (2, 0, 0, 0)),
    Truth("A > B; C > D", (2, 0, 2, 0)),
    Truth("A > B; C > D", (0, 0, 0, 0), spreads=(4, 1, 1, 1)),
    Truth("A > B; C > D", (16, 0, 0, 0), 8.0, (4, 1, 1, 1)),
    Truth("A > B; B > C", (2, 0, 0)),
    Truth("A > B; B > C", (0, 0, 0), spreads=(4, 1, 1)),
    Truth("A > B; B > C; C > D", (6, 4, 2, 0)),
)


def is_wrong(truth: Truth, word: str) -> bool:
    """Whether a word says what is false."""
    gaps, m = [(relation.sign, truth.gap(relation)) for relation in truth.relations], truth.margin
    holds = [d > 0 if sign == ">" else d > -m if sign == ">=" else abs(d) < m for sign, d in gaps]
    reversed_ = [d < 0 if sign == ">" else d <= -m if sign == ">=" else abs(d) >= m for sign, d in gaps]
    small = [sign == ">" and abs(d) < m for sign, d in gaps]
    as_equal = any(small) and all(a or b for a, b in zip(holds, small, strict=True))
    return {REPEATED: not all(holds), CONTRADICTED: not any(reversed_), EQUAL: not as_equal, OPEN: False}[word]


def two_by_two(truth: Truth, outcomes: list[np.ndarray]) -> str:
    """Return the word for a claim whose seeds are a fixed list."""
    race = Race(truth.relations, truth.margin)
    race.look({name: dict(enumerate(rows)) for name, rows in zip(truth.names, outcomes, strict=True)}, LEVEL)
    return claimed(race.findings)


def watched(truth: Truth, outcomes: list[np.ndarray]) -> tuple[str, int]:
    """Return the word for a claim that is looked at while its seeds grow in number, and the runs that it took."""
    race, trained = Race(truth.relations, truth.margin), dict.fromkeys(truth.names, 0)
    for size, level in zip(LOOKS, levels(LOOKS, rising=True), strict=True):
        trained |= dict.fromkeys(race.racing, size)
        rows = zip(truth.names, outcomes, strict=True)
        race.look({name: dict(enumerate(row[: trained[name]])) for name, row in rows}, level)
        if not race.racing:
            break
    return claimed(race.findings), sum(trained.values())


def wrong_words(studies: int) -> Rows:
    """Wrong words for a claim, by the number of seeds, %."""
    for truth in ONE + SEVERAL:
        row: dict[str, object] = {"claim": truth.order, "means": truth, "margin": f"{truth.margin:g}"}
        most = 0
        for seeds in SEEDS:
            rng = generator((truth, seeds))
            wrong = sum(is_wrong(truth, two_by_two(truth, truth.draw(seeds, rng))) for _ in range(studies))
            row[f"{seeds} seeds"], most = share(wrong, studies), max(most, wrong)
        yield row | {"99 % bound": f"{100 * bound(most, studies):.1f}"}


def watched_words(studies: int) -> Rows:
    """Words for a claim that is looked at after each seed from the fourth on."""
    for truth in WATCHED:
        rng = generator(truth)
        ends = [watched(truth, truth.draw(LOOKS[-1], rng)) for _ in range(studies)]
        counts = Counter(word for word, _ in ends)
        false = sum(count for word, count in counts.items() if is_wrong(truth, word))
        yield {
            "claim": truth.order,
            "means": truth,
            "margin": f"{truth.margin:g}",
            "wrong, %": f"{100 * false / studies:.1f}",
            "99 % bound": f"{100 * bound(false, studies):.1f}",
            **{f"{word}, %": f"{100 * counts[word] / studies:.0f}" for word in (REPEATED, CONTRADICTED, EQUAL)},
            "runs, % of all": f"{100 * np.mean([runs for _, runs in ends]) / LOOKS[-1] / len(truth.means):.0f}",
        }


# ---- folds: an image is a label of two, and two blocks of features that say equally much about it. Learner A sees
# the first block, learner B the second: on other data sets of this kind they are equally good. A seed is a partition,
# and draws initial weights. `folds` has outcomes of images, also of a fixed fifth; `fold_scores` a score of each fold.

IMAGES, FOLDS = (100, 400), 5
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
            for row, (pair, overlap) in enumerate(((right, variance_inflation(FOLDS)), (right, 1.0), (apart, 1.0))):
                for column, count in enumerate(SEEDS):
                    found = all_pairs([each[:count] for each in pair], dependence=Dependence(overlap=overlap))
                    false[row, column] += found[0, 1].p < LEVEL
        for how, counts in zip(TESTS, false, strict=True):
            cells = {f"{n} seeds": share(int(count), studies) for n, count in zip(SEEDS, counts, strict=True)}
            most = f"{100 * bound(int(counts.max()), studies):.1f}"
            yield {"learner": name, "images": images, "test": how, **cells, "99 % bound": most}


def fold_scores(studies: int) -> Rows:
    learners = {"linear discriminant": discriminant, "1-NN": nearest, "neural network": network}
    for (name, learner), images, (repeats, parts) in product(learners.items(), (200, 100), ((1, 5), (5, 5), (10, 10))):
        rng, n, false = np.random.default_rng(images), repeats * parts, np.zeros(2)
        for _ in range(studies):
            x, y, tests = drawn(images, repeats, parts, rng)
            a, b = ((learner(block, y, ~tests, rng) & tests).sum(axis=1) / tests.sum(axis=1) for block in x)
            folded = all_pairs([a[None], b[None]], dependence=Dependence(overlap=1 + n / (parts - 1)))[0, 1]
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
            tests = [
                all_pairs(setting.draw(rng, wanted.point, setting.difference)) for _ in range(max(1, studies // 4))
            ]
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
    "unequal_seeds": (unequal_seeds, 4_000),
    "grouped_images": (grouped_images, 2_000),
    "mixed_machines": (mixed_machines, 2_000),
    "unlike_kinds": (unlike_kinds, 2_000),
    "wrong_words": (wrong_words, 4_000),
    "watched_words": (watched_words, 4_000),
    "fold_scores": (fold_scores, 2_000),
    "folds": (folds, 1_000),
    "planning": (planning, 1_000),
    "tuning_noise": (tuning_noise, 2_000),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("simulations", __doc__, "NAME.md")
    parser.add_argument("name", choices=CASES)
    parser.add_argument("--studies", type=int, help="of each row [500 to 4,000]")
    options = parser.parse_args(arguments)
    rows, studies = CASES[options.name]
    studies = options.studies or studies
    table = markdown(f"{studies:,} studies a row.", list(tqdm(rows(studies))))
    save(options.out / f"{options.name}.md", table)
    print(table)


if __name__ == "__main__":
    main()
