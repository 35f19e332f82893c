"""How often a study's verdict is wrong, and how often it finds a lead: simulated studies whose truth is known.

An image is classified correctly where

    difficulty_i + taste_vi + shift_vs + flip_vsi > 0

with a normal difficulty for all variants, a normal taste of each variant v, the shift of each seed s, and a flip drawn
anew for every seed and image, uniform in ±FLIP. Accuracy is about 90 %; a run's flips alone move it by 0.2 points on
10,000 images. Shifts are set in points of accuracy: normal, Student's t with 3 degrees of freedom, or normal with one
seed in ten that fails and loses FAILURE points. Without a lead all variants are equal over the population of images and
seeds, and every "better" is false.
"""

import argparse
import time
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from referee.statistics.contrast import LEVEL, Dependence, all_pairs
from scipy import stats

from benchmarks.measuring import OUT, markdown, save

DIFFICULTY = 2.2, 1.5  # mean and standard deviation
TASTE = 0.5  # standard deviation
FLIP = 1.3
FAILURE = 5.0  # points
NOISES = "normal", "t, 3 df", "1 in 10 fails"
SEEDS = 3, 5, 10, 20
IMAGES = 200, 1_000, 10_000
RUNS = 8_000  # variants × studies of a cell


class Scores(NamedTuple):
    """A study of normal scores alone: the deviation of each variant's seeds, and its mean."""

    deviations: tuple[float, ...]
    means: tuple[float, ...]


FAR = 100.0
# Two variants tie, a third is far behind, so that the two are tested without a correction.
PARTIAL = tuple(
    Scores(deviations, (0, 0, FAR))
    for deviations in ((1, 1, 1), (2, 1, 1), (2, 1, 2), (2, 2, 1), (4, 1, 1), (4, 1, 4), (4, 4, 1), (1, 1, 4))
)
QUIET = Scores((1, 1, 4, 4), (3, 0, FAR, FAR))  # the first pair is sought
FEW_SEEDS = 3, 4, 5, 7


class Design(NamedTuple):
    """A study and the world that it is drawn from."""

    variants: int
    seeds: int
    images: int
    noise: str = "normal"
    sd: float = 0.5  # of seeds, in points
    lead: float = 0.0  # of the first variant, in points
    wider: float = 1.0  # standard deviation of the first variant's seeds relative to the others'
    alone: bool = False  # only the first variant's seeds fail


# Where a test of few seeds is not exact.
UNEQUAL = tuple(
    Design(variants, seeds, 1_000, **world)
    for variants in (2, 3)
    for seeds in (3, 5, 10)
    for world in ({"wider": 4.0}, {"noise": "1 in 10 fails", "alone": True})
)


def accuracy_of(shift: np.ndarray) -> np.ndarray:
    """Return the accuracy, as a fraction, of a variant that a shift moves, over the population of images."""
    mean, sd = DIFFICULTY[0] + shift, float(np.hypot(DIFFICULTY[1], TASTE))

    def integral(x: np.ndarray) -> np.ndarray:  # ∫ Φ
        return x * stats.norm.cdf(x) + stats.norm.pdf(x)

    return (integral((mean + FLIP) / sd) - integral((mean - FLIP) / sd)) * sd / (2 * FLIP)


SHIFTS = np.linspace(-3, 3, 2001)
POINTS = 100 * (accuracy_of(SHIFTS) - accuracy_of(np.zeros(1)))  # gained by each of SHIFTS


def shifts(design: Design, variant: int, rng: np.random.Generator) -> np.ndarray:
    """Draw what each seed moves a variant by, (S,), on the scale of difficulty."""
    S = design.seeds
    points = rng.standard_t(3, S) / 3**0.5 if design.noise == NOISES[1] else rng.standard_normal(S)
    points *= design.sd * (design.wider if variant == 0 else 1)
    if design.noise == NOISES[2] and (variant == 0 or not design.alone):
        points -= FAILURE * (rng.random(S) < 0.1)
        points += FAILURE / 10 * design.alone  # equal on average
    return np.interp(points + design.lead * (variant == 0), POINTS, SHIFTS)


def outcomes(design: Design, rng: np.random.Generator) -> list[np.ndarray]:
    """Draw a study: for each variant, (S, N) bool."""
    difficulty = rng.normal(*DIFFICULTY, design.images).astype(np.float32)
    drawn = []
    for variant in range(design.variants):
        location = difficulty + TASTE * rng.standard_normal(design.images, dtype=np.float32)
        correct = np.empty((design.seeds, design.images), dtype=bool)
        for seed, shift in enumerate(shifts(design, variant, rng).astype(np.float32)):
            chance = (location + shift) / (2 * FLIP) + np.float32(0.5)
            np.less(rng.random(design.images, dtype=np.float32), chance, out=correct[seed])
        drawn.append(correct)
    return drawn


def claims(design: Design, studies: int) -> tuple[int, int]:
    """Count the studies that call any variant better, and those that call the first better than all others."""
    rng = np.random.Generator(np.random.SFC64(zlib.crc32(repr(design).encode())))
    some = first = 0
    for _ in range(studies):
        found = all_pairs(outcomes(design, rng))
        better = {pair for pair, d in found.items() if d.adjusted < LEVEL}
        some += bool(better)
        first += all((0, other) in better and found[0, other].mean > 0 for other in range(1, design.variants))
    return some, first


def called_different(study: Scores, seeds: int, studies: int) -> int:
    """Count the studies that call the first two variants different."""
    rng = np.random.Generator(np.random.SFC64(zlib.crc32(repr((study, seeds)).encode())))
    drawn = rng.normal(np.array(study.means), study.deviations, (studies, seeds, len(study.means)))
    return sum(all_pairs(list(scores.T[:, :, None]))[0, 1].adjusted < LEVEL for scores in drawn)


def bound(count: int, studies: int) -> float:
    """Return the one-sided 99 % upper bound of a rate."""
    return float(stats.binomtest(count, studies, alternative="less").proportion_ci(0.99).high)


def false_claims(runs: int) -> Iterator[dict[str, object]]:
    """Yield a row for variants × images × noise, with a column for each number of seeds."""
    for variants in (2, 3, 4):
        studies = max(1, runs // variants)
        for images in IMAGES:
            for noise in NOISES:
                rates = {S: claims(Design(variants, S, images, noise), studies)[0] for S in SEEDS}
                yield {
                    "variants": variants,
                    "images": f"{images:,}",
                    "seeds' noise": noise,
                    **{f"{S} seeds": f"{100 * count / studies:.1f}" for S, count in rates.items()},
                    "99 % bound": f"{100 * max(bound(count, studies) for count in rates.values()):.1f}",
                }


def unequal_seeds(runs: int) -> Iterator[dict[str, object]]:
    """Yield a row for each of UNEQUAL: false claims."""
    for design in UNEQUAL:
        studies = max(1, runs // design.variants)
        alone = "only the first fails" if design.alone else f"the first {design.wider:g} times as wide"
        size = {"variants": design.variants, "seeds": design.seeds, "images": f"{design.images:,}"}
        yield size | {"seeds' noise": alone, "false claims, %": share(claims(design, studies)[0], studies)}


def partial_nulls(runs: int) -> Iterator[dict[str, object]]:
    """Yield a row for each of PARTIAL: false claims about the two that are equal."""
    studies = 4 * runs // 3
    for study in PARTIAL:
        counts = {seeds: called_different(study, seeds, studies) for seeds in FEW_SEEDS}
        yield {
            "sds of the equal two": f"{study.deviations[0]:g} and {study.deviations[1]:g}",
            "of the third": f"{study.deviations[2]:g}",
            **{f"{seeds} seeds": share(count, studies) for seeds, count in counts.items()},
            "99 % bound from 4 on": f"{100 * max(bound(counts[seeds], studies) for seeds in FEW_SEEDS[1:]):.1f}",
        }


def quiet_pairs(runs: int) -> Iterator[dict[str, object]]:
    """Yield how often a pair is found that is 3 of its own deviations apart, beside a pair with four times as many."""
    yield {f"{seeds} seeds": share(called_different(QUIET, seeds, runs), runs) for seeds in FEW_SEEDS}


def in_groups(variants: int, groups: int, seeds: int, studies: int) -> tuple[int, int]:
    """Count studies of equal variants that call one better: with the groups of ten images told, and untold."""
    rng = np.random.Generator(np.random.SFC64(zlib.crc32(repr(("groups", variants, groups, seeds)).encode())))
    codes, told, untold = np.repeat(np.arange(groups), 10), 0, 0
    for _ in range(studies):
        easy = rng.standard_normal(groups) + 0.7 * rng.standard_normal((variants, groups))
        image = 0.7 * rng.standard_normal((variants, 1, 10 * groups))
        seed = 0.5 * rng.standard_normal((variants, seeds, 10 * groups))
        outcomes = list(easy[:, None, codes] + image + seed > -0.8)
        told += any(each.adjusted < LEVEL for each in all_pairs(outcomes, dependence=Dependence(codes)).values())
        untold += any(each.adjusted < LEVEL for each in all_pairs(outcomes).values())
    return told, untold


def grouped_images(runs: int) -> Iterator[dict[str, object]]:
    """Yield a row for each number of variants, groups of ten images, and seeds."""
    for variants, groups, seeds in ((2, 60, 3), (2, 60, 5), (2, 60, 10), (3, 60, 5), (3, 100, 10), (2, 20, 5)):
        studies = runs // 4
        told, untold = in_groups(variants, groups, seeds, studies)
        yield {
            "variants": variants,
            "groups": groups,
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


def mixed_machines(runs: int) -> Iterator[dict[str, object]]:
    """Yield studies whose machines lie 2 deviations of a seed apart: told, and untold.

    The columns are false claims about equal variants, and the first variant's lead of 3 deviations, found.
    """
    for how in MIXTURES:
        for variants, seeds in ((2, 4), (2, 8), (3, 4), (3, 8)):
            rng = np.random.Generator(np.random.SFC64(zlib.crc32(repr((how, variants, seeds)).encode())))
            studies, counts = runs // 4, np.zeros((2, 2), int)
            for _ in range(studies):
                blocks = machines_of(how, variants, seeds, rng)
                classes = np.sort(2 * rng.standard_normal(seeds)) if "one for" in how else np.array([0.0, 2.0])
                noise = rng.standard_normal((variants, seeds))
                for lead in (0, 1):
                    scores = [
                        (y + classes[of] + 3 * lead * (variant == 0))[:, None]
                        for variant, (y, of) in enumerate(zip(noise, blocks, strict=True))
                    ]
                    for told in (0, 1):
                        found = all_pairs(scores, blocks=blocks if told else None)
                        first = found[0, 1].adjusted < LEVEL and found[0, 1].mean > 0
                        counts[lead, told] += first if lead else any(d.adjusted < LEVEL for d in found.values())
            yield {
                "machines": how,
                "variants": variants,
                "seeds": seeds,
                "false": share(int(counts[0, 1]), studies),
                "99 % bound": f"{100 * bound(int(counts[0, 1]), studies):.1f}",
                "false, untold": share(int(counts[0, 0]), studies),
                "found": share(int(counts[1, 1]), studies),
                "found, untold": share(int(counts[1, 0]), studies),
            }


def wrong_tables(runs: int) -> Iterator[dict[str, object]]:
    """Yield how many studies print an interval without the true lead: as it is, or as it agrees with the word."""
    for variants in (3, 4, 6):
        for seeds in FEW_SEEDS:
            rng = np.random.Generator(np.random.SFC64(zlib.crc32(repr(("tables", variants, seeds)).encode())))
            wrong, places = np.zeros(2), np.arange(variants)
            means = 8 * (places // 2) + 0.01 * (places % 2)
            for scores in rng.normal(means, 1, (runs, seeds, variants)):
                missed = np.zeros(2, bool)
                for (a, b), each in all_pairs(list(scores.T[:, :, None])).items():
                    true, (_, low, high) = means[a] - means[b], each.interval
                    printed = min(low, 0.0), max(high, 0.0)
                    if each.adjusted <= LEVEL:
                        printed = (max(low, 0.0), high) if each.mean > 0 else (low, min(high, 0.0))
                    missed |= not low <= true <= high, not printed[0] <= true <= printed[1]
                wrong += missed
            as_they_are, as_printed = (share(int(count), runs) for count in wrong)
            yield {"variants": variants, "seeds": seeds, "as they are": as_they_are, "as printed": as_printed}


def leads_of_scores(runs: int) -> Iterator[dict[str, object]]:
    """Yield how often the first, 3 deviations ahead of equal others, is better than all, and than the second."""
    for variants in (2, 3, 4, 5, 6, 8):
        found: dict[str, object] = {"variants": variants}
        for seeds in (*FEW_SEEDS, 10):
            rng = np.random.Generator(np.random.SFC64(zlib.crc32(repr(("lead", variants, seeds)).encode())))
            best = second = 0
            for scores in rng.normal([3] + [0] * (variants - 1), 1, (runs, seeds, variants)):
                pairs = all_pairs(list(scores.T[:, :, None]))
                better = [
                    pairs[0, other].adjusted <= LEVEL and pairs[0, other].mean > 0 for other in range(1, variants)
                ]
                best, second = best + all(better), second + better[0]
            found[f"{seeds} seeds"] = f"{share(best, runs)}, {share(second, runs)}"
        yield found


def share(count: int, studies: int) -> str:
    """Return a share in per cent."""
    return f"{100 * count / studies:.1f}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts", description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=RUNS, help="variants × studies of each cell (default: %(default)s)")
    runs = parser.parse_args(arguments).runs
    start = time.process_time()
    each = f"{runs:,} / variants studies a cell"
    tables = [
        markdown(f"Studies of equal variants that call one better, %; {each}.", list(false_claims(runs))),
        markdown("Equal variants whose seeds vary unequally.", list(unequal_seeds(runs))),
        markdown("Two variants tie, a third is far behind, scores alone; false claims, %.", list(partial_nulls(runs))),
        markdown("A quiet pair beside a noisy one, found, %.", list(quiet_pairs(runs))),
        markdown("Equal variants on images in groups of ten, false claims, %.", list(grouped_images(runs))),
        markdown("Runs on several kinds of machines, %.", list(mixed_machines(runs))),
        markdown(
            "Studies with an interval that lacks the true lead, %; pairs of near equals, 8 deviations apart.",
            list(wrong_tables(runs)),
        ),
        markdown(
            "A first variant 3 deviations ahead of others: better than all, and than one, %.",
            list(leads_of_scores(runs)),
        ),
    ]
    print("\n".join(tables))
    print(f"{time.process_time() - start:.0f} s of processor time")
    save(OUT / "verdicts.md", *tables)


if __name__ == "__main__":
    main()
