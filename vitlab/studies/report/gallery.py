"""Test images with every variant's prediction, those on which the variants disagree first."""

from dataclasses import dataclass

import numpy as np

from vitlab.evaluation.predictions import PIXELATED_BELOW, data_uri, probabilities
from vitlab.studies.file.fairness import Images
from vitlab.studies.results.run import RunResult
from vitlab.studies.results.table import StudyResults

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
    shown = [model.predictions.logits for model in models_shown(results).values()]
    guesses = np.stack([logits.argmax(axis=1) for logits in shown])  # (V, N)
    disputed = (guesses != guesses[0]).any(axis=0)
    right = np.stack([np.mean([run.correct for run in result.runs], axis=0) for result in results.ranking])  # (V, N)
    uneven = right.max(axis=0) - right.min(axis=0)
    labels = results.labels[:, None]
    confidence = np.mean([np.take_along_axis(probabilities(logits), labels, axis=1)[:, 0] for logits in shown], axis=0)
    # lexsort: the last key is the primary one
    return np.lexsort((confidence, right.mean(axis=0), -uneven * disputed, ~disputed))


def gallery(results: StudyResults, images: Images) -> list[Card]:
    """Return the most informative test images."""
    indices = interesting(results)[:SHOWN].tolist()
    models = models_shown(results)
    probability = {variant: probabilities(model.predictions.logits[indices]) for variant, model in models.items()}
    cards = []
    for position, (index, image) in enumerate(zip(indices, images.raw_images("test", indices), strict=True)):
        label = results.labels[index]
        answers = []
        for result in (result for result in results.ranking if result.variant in models):
            row = probability[result.variant][position]
            guess = int(row.argmax())
            seeds_right = int(sum(run.correct[index] for run in result.runs))
            name, confidence = results.class_names[guess], float(row[guess])
            fields = (name, confidence, bool(guess == label), seeds_right, len(result.runs))
            answers.append(Prediction(result.variant, result.index, *fields))
        pixelated = max(image.shape[:2]) < PIXELATED_BELOW
        cards.append(Card(results.images[index], results.class_names[label], data_uri(image), pixelated, answers))
    return cards


def models_shown(results: StudyResults) -> dict[str, RunResult]:
    """Return by variant the run of the shown seed, in the order of the ranking."""
    seed = shown_seed(results)
    return {result.variant: run for result in results.ranking for run in result.runs if run.run.seed == seed}
