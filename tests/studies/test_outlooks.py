"""What the report says would settle an open lead, and what the study could have found."""

import dataclasses
import re

import numpy as np
from fake_study import results, seeds
from referee.formats import SPACE
from referee.plan import pilot_of
from referee.statistics.power import detectable, need

from vitlab.studies.file.format import duration
from vitlab.studies.file.metric import Metric
from vitlab.studies.report.verdict import outlooks
from vitlab.studies.results import StudyResults


def lines(study: StudyResults) -> list[str]:
    return [line.replace(SPACE, " ") for line in outlooks(study)]


CLOSE = {"A": seeds([0.95, 0.96, 0.957]), "B": seeds([0.945, 0.95, 0.948], 50)}


def test_seeds_and_minutes_that_settle_a_lead_are_told() -> None:
    """The study has been looked at with 3 seeds, so that more seeds of it are tested at a stricter level."""
    study = results(CLOSE)
    pilot = study.verdict.pilot
    assert pilot is not None
    assert pilot.level(7) < 0.05
    plan, found = lines(study)
    small, large = need(pilot, 0.007).seeds, need(pilot, 0.01).seeds
    start = r"To settle a true lead of 0\.7 points here, plan"
    assert re.fullmatch(rf"{start} {small} seeds of each variant \((.*)\); of 1 point, {large}\.", plan)
    # Two variants of 60 s a run, as many at a time as there are cores.
    alone = lines(dataclasses.replace(study, study=dataclasses.replace(study.study, jobs=1)))[0]
    least = duration(small.low * 120, small.low * 120).replace(SPACE, " ")
    assert f"({least} or more)" in alone
    amount = f"{100 * detectable(pilot, 3):.1f}"
    assert found == (
        f"This study would have found a true difference of {amount} points in 4 of 5 repetitions; smaller ones may "
        "have been missed."
    )


def test_what_could_be_found_depends_on_the_pair_where_spreads_do() -> None:
    """B repeats A; C, as good, differs between seeds by two points."""
    study = results(CLOSE | {"C": seeds([0.93, 0.97, 0.95], 100)})
    assert study.verdict.pilot is not None
    pairs = [pair for pair in study.verdict.pairs if pair.better is study.verdict.ranking[0]]
    found = sorted(100 * detectable(pilot_of(pair, study.verdict, study.verdict.pilot), 3) for pair in pairs)
    assert found[1] > 1.5 * found[0]
    assert f"a true difference of {found[0]:.1f} to {found[1]:.1f} points, by pair, in 4 of 5" in lines(study)[-1]


def test_a_settled_study_has_no_outlook() -> None:
    assert outlooks(results({"A": seeds([0.95, 0.951]), "B": seeds([0.85, 0.851])})) == []
    assert outlooks(results({"A": seeds([0.95]), "B": seeds([0.94])})) == []  # a single seed tells no variance


def test_after_many_seeds_what_is_excluded_is_told() -> None:
    ten = [0.95, 0.951, 0.949, 0.95, 0.952, 0.95, 0.95, 0.948, 0.951, 0.95]
    study = results({"A": seeds(ten), "B": seeds(ten[::-1], 50)})
    (pair,) = study.verdict.pairs
    limit = f"{100 * max(-pair.interval.low, pair.interval.high):.1f}"
    assert lines(study)[0] == f"Undecided after 10 seeds; a true difference above {limit} points is excluded."


def test_where_seeds_cannot_help_the_images_are_named() -> None:
    # Twenty of 1,000 images tell A from B, the same ones with each seed: seeds add nothing to what the images say.
    hard = np.arange(1000) >= 20
    a, b = hard.copy(), hard.copy()
    a[:11], b[11:20] = True, True
    study = results({"A": dict.fromkeys(range(6), a), "B": dict.fromkeys(range(6), b)})
    # var(a − b) = 0.02, so ± 1.96 √(0.02 / 1,000) = 0.9 points
    assert re.fullmatch(
        r"More seeds alone will not settle a lead of 0\.2 points here: the choice of 1,000 test images moves it by "
        r"± 0\.9\. It takes at least [\d,]+ to [\d,]+ test images; with twice as many, [\d,]+( to [\d,]+)? seeds "
        r"of each variant\.",
        lines(study)[0],
    )


def test_a_pilot_that_cannot_exclude_seeds_sends_nobody_for_images() -> None:
    """Images are named only if even their low end is too much."""
    study = results(CLOSE)
    assert study.verdict.pilot is not None
    point = study.verdict.pilot.point._replace(images=1e-4)
    vague = study.verdict.pilot._replace(point=point, low=point._replace(images=1e-7), high=point)
    study.__dict__["verdict"] = dataclasses.replace(study.verdict, pilot=vague)
    assert need(vague, 0.007).images is None
    assert re.search(r"\d+ or more seeds", lines(study)[0])


def test_the_pilot_averages_the_images_over_pairs() -> None:
    three = results({**CLOSE, "C": seeds([0.94, 0.942, 0.944], 80)}).verdict
    pairs = [pair.difference.images for pair in three.pairs]
    assert min(pairs) < three.pilot.point.images < max(pairs)


def test_numbers_read_well() -> None:
    assert duration(600, 2100).replace(SPACE, " ") == "10 to 35 minutes"
    assert duration(1200, 18_000).replace(SPACE, " ") == "20 minutes to 5 hours"
    assert duration(180, 180).replace(SPACE, " ") == "3 minutes"
    assert duration(86_400 * 3, None).replace(SPACE, " ") == "3 days or more"
    assert Metric().size(0.01).replace(SPACE, " ") == "1 point"
    assert Metric("rmse", "min").size(0.25) == "0.25"
