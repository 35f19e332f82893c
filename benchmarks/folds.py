"""How often folds call one of two equal learners better, over simulated data sets with trainings that share images.

An image is a label of two, and two blocks of features that say equally much about it. Learner A sees the first block,
learner B the second: on other data sets of this kind they are equally good, on this one its images favor one of them.
A seed is a partition of the images into five parts, and draws the initial weights. Beside it, the same learners on a
fixed fifth of the images for testing, as a study without folds.

    neural network   8 hidden units, trained by full batches; seeds differ
    1-NN             what it learns depends on the training images alone

`as if independent` takes the images of folds as those of a test set; `rule` lets their variance grow by `overlap_of`.

python -m benchmarks.folds
"""

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
from referee.statistics.contrast import LEVEL, Dependence, all_pairs
from scipy import stats

from benchmarks.table import OUT, markdown, save
from vitlab.data.folds import fold_numbers
from vitlab.studies.results.folds import overlap_of

STUDIES = 1_000
SEEDS = 4, 7, 20
IMAGES = 100, 400
FOLDS = 5
TESTS = "5 folds, rule", "5 folds, as if independent", "a fifth held out"
FEATURES, APART = 6, 1.6  # of a block; distance of the classes' means, in deviations
HIDDEN, STEPS, RATE = 8, 60, 0.5

Learner = Callable[[np.ndarray, np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""From features (N, F), labels (N,) and which images train (R, N) to whether each is right, (R, N)."""


def network(x: np.ndarray, y: np.ndarray, trains: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Train a network of one hidden layer on each row's images."""
    (R, _), F, sign = trains.shape, x.shape[1], 2.0 * y - 1
    first, last = rng.normal(0, F**-0.5, (R, F, HIDDEN)), rng.normal(0, HIDDEN**-0.5, (R, HIDDEN, 1))
    share = trains / trains.sum(axis=1, keepdims=True)
    for _ in range(STEPS):
        hidden = np.maximum(x @ first, 0)  # (R, N, H)
        margin = sign * (hidden @ last)[..., 0]
        slope = (-sign * share / (1 + np.exp(margin)))[..., None]  # of the logistic loss
        back = (slope * last.transpose(0, 2, 1)) * (hidden > 0)
        last -= RATE * hidden.transpose(0, 2, 1) @ slope
        first -= RATE * x.T @ back
    return np.asarray(sign * (np.maximum(x @ first, 0) @ last)[..., 0] > 0)


def nearest(x: np.ndarray, y: np.ndarray, trains: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give each image the label of the nearest of each row's training images."""
    distance = ((x[:, None] - x) ** 2).sum(axis=2)
    return np.stack([y[np.where(row, distance, np.inf).argmin(axis=1)] == y for row in trains])


LEARNERS: dict[str, Learner] = {"neural network": network, "1-NN": nearest}


def data_set(images: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the blocks of features, (2, N, F), and the labels, half of them 1."""
    y = np.arange(images) % 2
    return rng.normal(0, 1, (2, images, FEATURES)) + np.where(y, 0.5, -0.5)[:, None] * APART * FEATURES**-0.5, y


def by_folds(learner: Learner, x: np.ndarray, y: np.ndarray, seeds: int, rng: np.random.Generator) -> np.ndarray:
    """Return whether each image is right in each seed, by the model that has not seen it, (S, N)."""
    fold = np.stack([fold_numbers(y, FOLDS, seed) for seed in range(seeds)])  # (S, N); the same for both learners
    trains = np.concatenate([fold != k for k in range(FOLDS)])
    right = learner(x, y, trains, rng).reshape(FOLDS, seeds, len(y))
    return np.asarray(np.take_along_axis(right, fold[None], axis=0)[0])


def by_a_held_out_part(
    learner: Learner, x: np.ndarray, y: np.ndarray, seeds: int, rng: np.random.Generator
) -> np.ndarray:
    """Return whether each image of a fixed test part is right in each seed, (S, N / 5)."""
    tests = fold_numbers(y, FOLDS, 0) == 0
    return learner(x, y, np.tile(~tests, (seeds, 1)), rng)[:, tests]


def false_claims(learner: Learner, images: int, studies: int) -> np.ndarray:
    """Count the studies of two equal learners that call them different, by way of testing and number of seeds."""
    rng = np.random.default_rng(images)
    false = np.zeros((len(TESTS), len(SEEDS)), np.int64)
    for _ in range(studies):
        x, y = data_set(images, rng)
        folded, held_out = (
            [outcomes(learner, block, y, max(SEEDS), rng) for block in x] for outcomes in (by_folds, by_a_held_out_part)
        )
        for row, (pair, overlap) in enumerate(((folded, overlap_of(FOLDS)), (folded, 1.0), (held_out, 1.0))):
            for column, count in enumerate(SEEDS):
                tested = all_pairs([each[:count] for each in pair], dependence=Dependence(overlap=overlap))
                false[row, column] += tested[0, 1].p < LEVEL
    return false


def rows(studies: int) -> Iterator[dict[str, object]]:
    for name, learner in LEARNERS.items():
        for images in IMAGES:
            for how, counts in zip(TESTS, false_claims(learner, images, studies), strict=True):
                highest = stats.beta.ppf(0.99, counts.max() + 1, studies - counts.max())
                cells = {f"{n} seeds": f"{100 * count / studies:.1f}" for n, count in zip(SEEDS, counts, strict=True)}
                yield {"learner": name, "images": images, "test": how, **cells, "99 % bound": f"{100 * highest:.1f}"}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=STUDIES)
    studies = parser.parse_args(arguments).studies
    began = time.monotonic()
    simulated = [*rows(studies)]
    minutes = (time.monotonic() - began) / 60
    header = f"Equal learners called different, %; {studies:,} studies a row; {minutes:.0f} minutes."
    save(OUT / "folds.md", markdown(header, simulated))


if __name__ == "__main__":
    main()
