"""Test images with every variant's prediction, those on which the variants disagree first."""

from dataclasses import dataclass

import numpy as np

from vitlab.evaluation.predictions import probabilities
from vitlab.evaluation.thumbnails import PIXELATED_BELOW, data_uri
from vitlab.studies.baselines import Images
from vitlab.studies.results import RunResult, StudyResults

SHOWN = 60  # images at most


@dataclass(frozen=True)
class Prediction:
    """One variant's prediction for an image, from the run of the shown seed, and how many seeds are correct."""

    variant: str
    index: int  # position in the study: decides color and marker
    predicted: str
    confidence: float
    right: bool
    seeds_right: int
    seeds: int


@dataclass(frozen=True)
class Card:
    """One image of the gallery."""

    name: str
    label: str
    data_uri: str
    pixelated: bool
    answers: list[Prediction]  # in the order of the ranking

    @property
    def disputed(self) -> bool:
        """Whether the variants' predictions differ."""
        return len({answer.predicted for answer in self.answers}) > 1


def shown_seed(results: StudyResults) -> int:
    """Return the seed whose models are shown: the first one that most variants have finished."""
    finished = [result.run.seed for result in results.finished]
    return max(results.study.seeds, key=finished.count)


def interesting(results: StudyResults) -> np.ndarray:
    """Return the indices of all test images, the most informative first.

    1. Images on which the shown models disagree, by how much the variants' accuracies over all seeds differ.
    2. Images that all of them get wrong, then those that all get right, by increasing confidence in the label.
    """
    shown = _models(results)
    guesses = np.stack([result.predictions.logits.argmax(axis=1) for result in shown])  # (V, N)
    disputed = (guesses != guesses[0]).any(axis=0)
    right = np.stack([np.mean([run.correct for run in result.runs], axis=0) for result in results.ranking])  # (V, N)
    uneven = right.max(axis=0) - right.min(axis=0)
    confidence = np.mean([_confidence_in_label(result) for result in shown], axis=0)
    # lexsort: the last key is the primary one
    return np.lexsort((confidence, right.mean(axis=0), -uneven * disputed, ~disputed))


def gallery(results: StudyResults, images: Images) -> list[Card]:
    """Return the most informative test images."""
    indices = interesting(results)[:SHOWN].tolist()
    shown = {result.run.variant: result for result in _models(results)}
    probability = {variant: probabilities(result.predictions.logits[indices]) for variant, result in shown.items()}
    cards = []
    for position, (index, image) in enumerate(zip(indices, images.raw_images("test", indices), strict=True)):
        answers = []
        for variant in (result for result in results.ranking if result.variant in shown):
            guess = int(probability[variant.variant][position].argmax())
            answers.append(
                Prediction(
                    variant=variant.variant,
                    index=variant.index,
                    predicted=results.class_names[guess],
                    confidence=float(probability[variant.variant][position, guess]),
                    right=bool(guess == results.labels[index]),
                    seeds_right=int(sum(run.correct[index] for run in variant.runs)),
                    seeds=len(variant.runs),
                )
            )
        cards.append(
            Card(
                name=results.images[index],
                label=results.class_names[results.labels[index]],
                data_uri=data_uri(image),
                pixelated=max(image.shape[:2]) < PIXELATED_BELOW,
                answers=answers,
            )
        )
    return cards


def _models(results: StudyResults) -> list[RunResult]:
    seed = shown_seed(results)
    return [run for variant in results.ranking for run in variant.runs if run.run.seed == seed]


def _confidence_in_label(result: RunResult) -> np.ndarray:
    """Return the probability that a model assigns to each image's label, (N,)."""
    probability = probabilities(result.predictions.logits)
    return np.take_along_axis(probability, result.predictions.labels[:, None], axis=1)[:, 0]
