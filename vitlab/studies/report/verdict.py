"""The verdict of a study: referee's, unless something else than the declared settings differs between its variants."""

from dataclasses import replace

import referee.plan
from referee.checks import Check
from referee.claim import OPEN
from referee.formats import counted
from referee.statistics.power import MOST_SEEDS, Need
from referee.verdict import Pair, Verdict

from vitlab.studies.file.format import duration
from vitlab.studies.file.study import Study
from vitlab.studies.report.beaten import not_beyond_baselines
from vitlab.studies.report.remarks import objections
from vitlab.studies.results.table import StudyResults

FEW_IMAGES = 100  # below which 95 % intervals of an accuracy are 10 points wide and more


def judged(results: StudyResults) -> Verdict:
    """Return the verdict with the objections to the study, each of which makes it void."""
    void = [line.replace("Not a pure ", "not a pure ", 1) for line in objections(results)]
    return replace(results.verdict, checks=[Check("", line, is_void=True) for line in void])


def verdict(results: StudyResults) -> str:
    """Return the headline: what the study shows, or why it shows nothing; and if no variant beats a baseline."""
    vain = [line for line in not_beyond_baselines(results) if line.startswith("No variant")][:1]
    return " ".join([judged(results).sentence, *vain])


def outlooks(results: StudyResults) -> list[str]:
    """List what is excluded, what would settle the leads that are open, and what the study could have found.

    The leads are those of the best variant; of a study that tests a claim, those of its relations that are open.
    """
    claim, at_once = results.study.claim, runs_at_once(results)
    relations = zip(claim.relations, results.verdict.relations, strict=True) if claim else ()
    still_open = [{relation.first, relation.second} for relation, found in relations if found.word == OPEN]

    def is_claimed(pair: Pair) -> bool:
        return {pair.better.name, pair.worse.name} in still_open

    def time_of(needed: Need) -> str:
        each = sum(result.mean("seconds") for result in results.ranking) / at_once
        low, high = (None if seeds is None else seeds * each for seeds in needed.seeds[1:])
        time = duration(MOST_SEEDS * each, None) if low is None else duration(low, high)
        return time if results.study.jobs else f"{time}, one run at a time"

    if objections(results):
        return []
    lines = referee.plan.outlooks(judged(results), is_claimed if claim else None, time_of)
    return [*lines, *few_images(results.study, len(results.labels))] if lines and results.by_image else lines


def few_images(study: Study, images: int) -> list[str]:
    """Say what helps more than seeds where there are few test images."""
    remedy = "more pictures help" if study.folds else "more pictures, or `folds`, which tests each of them, help"
    return [f"With {counted(images, 'test image')}, {remedy} more than seeds."] if images < FEW_IMAGES else []


def runs_at_once(results: StudyResults) -> int:
    """Return how many runs the study trains at a time, whichever machine reads this: one where its file gives none."""
    return min(results.study.jobs or 1, len(results.finished))
