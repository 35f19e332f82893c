"""What a claim has to have before anybody runs it: a source to look up, a margin that can be reached, fresh seeds."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from referee.formats import counted, listed

from vitlab.studies.file.registration import record_of
from vitlab.studies.file.study import Study, read_study
from vitlab.studies.planning import Planned, plan_study

MOST_SEEDS = 50  # of each variant; a claim that takes more is not decided in an afternoon
PLACE = re.compile(r"\b(tables?|tab\.|figures?|fig\.|sections?|sec\.|appendix|equations?|eq\.)\s*\w", re.IGNORECASE)
PAGE = re.compile(r"\b(pages?|pp?\.)\s*\d", re.IGNORECASE)
WHERE = re.compile(r"arxiv|doi|https?://", re.IGNORECASE)


class Check(NamedTuple):
    """One thing that was looked at."""

    passed: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok ' if self.passed else 'NO '} {self.text}"


def checks(path: Path, root: Path) -> list[Check]:
    """Check the claim of a study; nothing is trained or written.

    Raises:
        ValueError: the study has no claim, or a mistake that `compare` would refuse too.
    """
    study = read_study(path)
    if study.claim is None:
        raise ValueError(f"{path} has no `claim`. docs/claims.md explains how to write one.")
    try:
        margin = _margin(plan_study(path, root))
    except ValueError as unknown:  # how a metric of its own varies
        margin = Check(False, f"margin {study.margin:g}: {' '.join(str(unknown).removeprefix(f'{path}: ').split())}")
    return [*_source(study), *_published(study), *_registration(study), margin]


def _source(study: Study) -> Iterator[Check]:
    assert study.claim is not None
    for pattern, what in ((PLACE, "table, figure or section"), (PAGE, "page"), (WHERE, "arXiv number, DOI or address")):
        found = pattern.search(study.claim.source)
        yield Check(bool(found), f"source: {'has' if found else 'add'} the {what}")


def _published(study: Study) -> Iterator[Check]:
    """Check that the published figures are as the claim expects them."""
    assert study.claim is not None
    published, sign = study.claim.published, -1 if study.metric and study.metric["mode"] == "min" else 1
    for first, relation, second in study.claim.relations:
        if missing := [name for name in (first, second) if name not in published]:
            yield Check(False, f"published: add the figure of {missing[0]}, as printed")
            continue
        lead = sign * (published[first] - published[second])
        agrees = lead > 0 if relation == ">" else True
        figures = f"{first} {published[first]:g}, {second} {published[second]:g}"
        yield Check(agrees, f"published: {figures}" + ("" if agrees else f" are not {first} {relation} {second}"))


def _registration(study: Study) -> Iterator[Check]:
    record = record_of(study)
    known = bool(record) and record[-1]["digest"] == study.digest
    yield Check(known, f"registered on {record[-1]['registered']}" if known else "register it: `compare` does, first")
    earlier = record[:-1] if known else record
    used = sorted({seed for each in earlier if each["words"] for seed in each["seeds"]} & {*study.seeds})
    seen = f"seeds {listed([*map(str, used)])} have results that were seen; give new ones"
    yield Check(not used, seen if used else f"seeds {study.seeds[0]} to {study.seeds[-1]} are new")


def _margin(planned: Planned) -> Check:
    """Check that a difference of the margin would be found with few seeds, by the finished runs or before any."""
    assert planned.study.margin is not None
    takes = planned.need(planned.metric.own(planned.study.margin))
    basis = f"by {counted(planned.finished, 'finished run')}" if planned.finished else "before any run"
    if takes.images is not None:
        return Check(False, f"margin {planned.study.margin:g}: too small for the test images; take more, or another")
    seeds = takes.seeds.point
    needs = f"over {MOST_SEEDS}" if seeds is None else counted(seeds, "seed")
    passed = seeds is not None and seeds <= MOST_SEEDS
    much = "" if passed else f"; at most {MOST_SEEDS}: take a larger margin, or trainings whose seeds agree"
    return Check(passed, f"margin {planned.study.margin:g}: takes {needs} of each variant, {basis}{much}")
