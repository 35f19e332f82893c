"""What a plan says, and the hours that runs of known times take."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from referee.metric import Metric
from referee.plan import Plan, describe_need, outlooks, plan, required, round_size, sizes_table
from referee.statistics.power import Need, Range, need

from referee import judge


def planned(three: pd.DataFrame) -> Plan:
    verdict = judge(three)
    assert verdict.pilot is not None
    return Plan(metric=verdict.metric, pilot=verdict.pilot, source="these runs")


def test_a_plan_is_the_need_that_the_statistics_give(three: pd.DataFrame) -> None:
    verdict = judge(three)
    assert verdict.pilot is not None
    takes = need(verdict.pilot, 0.1).seeds
    text = plan(verdict, 10.0)
    assert f"seeds of each variant  {takes.point} ({takes.low} to {takes.high})" in text
    assert "test items             the 400 there are" in text
    assert "images" not in text


def test_hours_are_those_of_the_runs_divided_by_the_runs_at_a_time(three: pd.DataFrame) -> None:
    known = dataclasses.replace(planned(three), seconds=[np.full(3, 3600.0)] * 3, jobs=2, once=4)
    assert known.runs(6) == 10
    assert known.hours(6) == pytest.approx((15, 15, 15))  # ten runs of three variants, two at a time
    assert "hours" in sizes_table(known)
    assert "hours" not in sizes_table(planned(three))


def test_seeds_are_never_fewer_than_those_of_the_first_look(three: pd.DataFrame) -> None:
    assert dataclasses.replace(planned(three), looks=(6, 7)).need(0.5).seeds.low == 6


def test_where_seeds_cannot_help_items_are_asked_for(three: pd.DataFrame) -> None:
    known = planned(three)
    sure = known.pilot.point._replace(images=0.01**2)
    text = describe_need(dataclasses.replace(known, pilot=known.pilot._replace(point=sure, low=sure, high=sure)), 0.003)
    assert text.startswith("More seeds alone will not find a true difference of 0.3")
    asked = r"It takes at least [\d,]+ test items; with twice as many, .*\d seeds of each variant\."
    assert re.search(asked, text), text[-100:]
    assert re.search(r"moves it by ± [\d.]+ points\.", text)
    known = dataclasses.replace(known, metric=Metric("nll", "min", is_fraction=False))
    pilot = known.pilot._replace(point=sure, low=sure, high=sure)
    in_nats = describe_need(dataclasses.replace(known, pilot=pilot), 0.003)
    assert re.search(r"moves it by ± 0\.0\d+\.", in_nats), in_nats


def test_what_would_settle_an_open_lead_is_said_without_a_time_that_nobody_knows(three: pd.DataFrame) -> None:
    two = judge(three[three["variant"] != "A"])
    first, last = outlooks(two)[0], outlooks(two)[-1]
    assert "settle a" in first
    assert "hours" not in first
    assert "This study would have found a true difference of" in last
    assert outlooks(judge(three)) == []  # the best variant's leads are settled


def test_a_lead_that_would_be_settled_is_that_of_the_variant_ahead(three: pd.DataFrame) -> None:
    """A variant that lost at an earlier look is listed after the others, even if it is ahead of one of them."""
    verdict = judge(three)
    (pair,) = (pair for pair in verdict.pairs if "A" not in (pair.better.name, pair.worse.name))
    assert pair.difference is not None
    other = pair.difference._replace(mean=-pair.difference.mean)
    swapped = pair._replace(better=pair.worse, worse=pair.better, difference=other, settled=False, equal=False)
    pairs = [each._replace(settled=False, equal=False) for each in verdict.pairs if each.name != pair.name]
    (told, *_) = outlooks(dataclasses.replace(verdict, pairs=[swapped, *pairs]), lambda each: True)
    assert f"of {pair.better.name} over {pair.worse.name}" in told


@pytest.mark.parametrize(("value", "rounded"), [(0.011, 0.01), (0.014, 0.015), (0.0026, 0.003), (8.9, 10.0), (1, 1)])
def test_sizes_are_round(value: float, rounded: float) -> None:
    assert round_size(value) == pytest.approx(rounded)


def test_needs_read_well() -> None:
    assert required(Need(Range(12, 8, 33))) == "8 to 33 seeds of each variant"
    assert required(Need(Range(2, 2, 2))) == "2 seeds of each variant"
    assert required(Need(Range(None, 640, None))) == "640 or more seeds of each variant"
    assert required(Need(Range(None, None, None))) == "over 1,000 seeds of each variant"
    assert required(Need(Range(7, 4, 12), Range(1456, 812, 2013))) == (
        "at least 812 to 2,100 test items; with twice as many, 4 to 12 seeds of each variant"
    )
