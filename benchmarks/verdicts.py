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
from itertools import product
from typing import NamedTuple

import numpy as np
from referee.judging import UNLIKE
from referee.statistics.blocks import interaction
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


class Design(NamedTuple):
    """A study and the world that it is drawn from."""

    variants: int
    seeds: int
    images: int
    noise: str = "normal"
    sd: float = 0.5  # of seeds, in points
    lead: float = 0.0  # of the first variant, in points
    alone: bool = False  # only the first variant's seeds fail


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
    points *= design.sd
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
    """Yield false claims where a few seeds do not show a failure that only the first variant has."""
    for images, variants, seeds in product((1_000, 10_000), (2, 3), (3, 5, 10)):
        design, studies = Design(variants, seeds, images, NOISES[2], alone=True), max(1, runs // variants)
        size = {"variants": design.variants, "seeds": design.seeds, "images": f"{design.images:,}"}
        yield size | {"false claims, %": share(claims(design, studies)[0], studies)}


def in_groups(variants: int, groups: int, seeds: int, unlike: bool, studies: int) -> tuple[int, int, float]:
    """Count studies of equal variants that call one better: with the groups of ten images told, and untold.

    Of `unlike` groups a tenth have 91 images, the others one. The last number is how many groups of equal size tell as
    much.
    """
    rng = np.random.Generator(np.random.SFC64(zlib.crc32(repr(("groups", variants, groups, seeds, unlike)).encode())))
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


def grouped_images(runs: int) -> Iterator[dict[str, object]]:
    """Yield a row for each number of variants, groups of ten images, and seeds."""
    alike = ((2, 60, 3), (2, 60, 5), (2, 60, 10), (3, 60, 5), (3, 100, 10), (2, 20, 5))
    for variants, groups, seeds, unlike in (*((*each, False) for each in alike), (2, 60, 10, True), (2, 200, 10, True)):
        studies = runs // 4
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


def mixed_machines(runs: int) -> Iterator[dict[str, object]]:
    """Yield studies whose machines lie 2 deviations of a seed apart: false claims about equal variants.

    *Found* is the first variant's lead of 3 deviations over the second.
    """
    for how, (variants, seeds) in product(MIXTURES, ((2, 4), (2, 8), (3, 4), (3, 8))):
        rng = np.random.Generator(np.random.SFC64(zlib.crc32(repr((how, variants, seeds)).encode())))
        studies, some, first = runs // 4, 0, 0
        for _ in range(studies):
            blocks = machines_of(how, variants, seeds, rng)
            classes = np.sort(2 * rng.standard_normal(seeds)) if "one for" in how else np.array([0.0, 2.0])
            scores = [(rng.standard_normal(seeds) + classes[of])[:, None] for of in blocks]
            some += any(each.adjusted <= LEVEL for each in all_pairs(scores, blocks=blocks).values())
            found = all_pairs([scores[0] + 3, *scores[1:]], blocks=blocks)[0, 1]
            first += found.adjusted <= LEVEL and found.mean > 0
        row = {"machines": how, "variants": variants, "seeds": seeds, "false": share(some, studies)}
        yield row | {"99 % bound": f"{100 * bound(some, studies):.1f}", "found": share(first, studies)}


def unlike_kinds(runs: int) -> Iterator[dict[str, object]]:
    """Yield studies of equal variants each of which every kind of machine moves by itself, by two deviations of a seed.

    *Compared*: calls one better though the F test of R016 would not make the study void.
    """
    for variants, seeds in ((2, 4), (2, 8), (3, 4), (3, 8)):
        rng, claimed = np.random.Generator(np.random.SFC64(zlib.crc32(repr((variants, seeds)).encode()))), np.zeros(2)
        blocks = [np.arange(seeds) % 2] * variants
        for _ in range(runs // 4):
            scores = [rng.normal(0, 2, 2)[of] + rng.standard_normal(seeds) for of in blocks]
            found = all_pairs([y[:, None] for y in scores], blocks=blocks).values()
            is_claimed = any(each.adjusted <= LEVEL for each in found)
            claimed += is_claimed, is_claimed and interaction(scores, blocks) >= UNLIKE
        some, compared = (share(int(count), runs // 4) for count in claimed)
        yield {"variants": variants, "seeds": seeds, "false": some, "compared": compared}


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
        markdown("Equal variants of which one seed in ten of the first alone fails.", list(unequal_seeds(runs))),
        markdown("Equal variants on images in groups of ten, false claims, %.", list(grouped_images(runs))),
        markdown("Runs on several kinds of machines, %.", list(mixed_machines(runs))),
        markdown("Two kinds that move variants unlike, %.", list(unlike_kinds(runs))),
    ]
    print("\n".join(tables))
    print(f"{time.process_time() - start:.0f} s of processor time")
    save(OUT / "verdicts.md", *tables)


if __name__ == "__main__":
    main()
