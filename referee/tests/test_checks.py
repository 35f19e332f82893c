"""Each check finds what it is about, and is silent about a sound table."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from conftest import simulated
from referee.checks import checks
from referee.outcomes import Reading, from_frame
from referee.statistics.contrast import enough

from referee import judge

Change = Callable[[pd.DataFrame], pd.DataFrame]


def codes(table: pd.DataFrame, **options: object) -> set[str]:
    return {check.code for check in checks(from_frame(table, Reading(**options)))}  # type: ignore[arg-type]


def number(table: pd.DataFrame) -> pd.Series:
    return table["item"].str.slice(1).astype(int)


def of_b(table: pd.DataFrame) -> pd.Series:
    return (table["variant"] == "B") & (table["item"] == "i3")


def same_run(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table[(table["variant"] == "A") & (table["seed"] == 1)].assign(seed=5)])


def failed(table: pd.DataFrame) -> pd.DataFrame:
    lost = (table["variant"] == "B") & (table["seed"] == 2)
    return table.assign(correct=table["correct"].astype(float).mask(lost))


CHANGES: list[tuple[str, Change]] = [
    ("R001", lambda table: table[~of_b(table)]),
    ("R002", lambda table: table.assign(label=np.where(of_b(table), "dog", "cat"))),
    ("R002", lambda table: table.assign(group=number(table) // 10 + (table["variant"] == "B"))),
    ("R003", same_run),
    ("R004", lambda table: table[(table["variant"] == "A") | (table["seed"] == 1)]),
    ("R005", lambda table: table[(table["variant"] == "A") | table["seed"].isin((1, 4))]),
    ("R007", lambda table: table.assign(label=np.where(number(table) < 390, "cat", "dog"))),
    ("R008", lambda table: pd.concat([table, table.iloc[:1]])),
    ("R010", lambda table: table.assign(item=[f"patient{each // 10}/{each}" for each in number(table)])),
    ("R011", failed),
]


@pytest.mark.parametrize(("code", "change"), CHANGES, ids=[code for code, _ in CHANGES])
def test_a_check_finds_what_it_is_about(code: str, change: Change) -> None:
    table = simulated({"A": 0.95, "B": 0.7})
    assert code not in codes(table.assign(group=number(table) // 10))
    assert code not in codes(table)
    assert code in codes(change(table), columns={"group": "group"} if "group" in change(table) else {})


@pytest.mark.parametrize(("groups", "few"), [(8, True), (12, False)])
def test_few_groups_are_found(groups: int, few: bool) -> None:
    table = simulated({"A": 0.95, "B": 0.7})
    table["group"] = table.groupby(["variant", "seed"]).cumcount() % groups
    assert ("R014" in codes(table, columns={"group": "group"})) == few


def of_scores(**scores: list[float]) -> pd.DataFrame:
    return pd.DataFrame([{"variant": v, "seed": i, "x": s} for v, own in scores.items() for i, s in enumerate(own)])


def test_spreads_that_differ_are_found_and_equal_ones_rarely() -> None:
    table = of_scores(A=np.linspace(0, 1, 6).tolist(), B=np.linspace(0, 40, 6).tolist())
    assert "R006" in codes(table, metric="x", lower=False)
    assert "R006" not in codes(table[table["variant"] == "A"], metric="x", lower=False)
    rng, found = np.random.default_rng(0), 0
    for _ in range(100):
        table = of_scores(**{v: rng.normal(size=4).tolist() for v in "ABCDE"})
        found += "R006" in codes(table, metric="x", lower=False)
    assert found <= 12  # the binomial's 99.9 % at 5 %


def test_two_seeds_beside_more_than_four_are_not_compared() -> None:
    table = of_scores(A=[1.0, 1.1, 1.2, 1.3, 1.4], B=[0.0, 0.1, 0.2, 0.3, 0.4], C=[9.0, 9.1])
    verdict = judge(table, metric="x", lower=False)
    assert "R004 C has 2\u00a0seeds and cannot be compared; beside more than four, three are." in map(
        str, verdict.checks
    )
    assert verdict.sentence.startswith("A is better than B")
    assert "R004" not in codes(table[table["seed"] < 4], metric="x", lower=False)
    assert [enough(counts) for counts in ((2, 4), (2, 5), (1, 3, 2))] == [
        [True] * 2,
        [False, True],
        [False, True, True],
    ]


def test_seeds_that_end_in_one_of_two_states_are_found() -> None:
    table = of_scores(A=[0.9, 0.91, 0.5, 0.92], B=[0.9, 0.51, 0.5, 0.91])
    assert "R015" in codes(table, metric="x", lower=False)
    apart = of_scores(A=[0.9, 0.91, 0.93, 0.92], B=[0.5, 0.51, 0.5, 0.52])
    assert "R015" not in codes(apart, metric="x", lower=False)


def test_a_ceiling_is_found() -> None:
    assert "R012" in codes(simulated({"A": 0.99, "B": 0.985}, flips=0.0))
    assert "R012" not in codes(simulated({"A": 0.99, "B": 0.7}, flips=0.0))


def test_a_void_comparison_comes_first_and_compares_nothing() -> None:
    table = simulated({"A": 0.95, "B": 0.7})
    verdict = judge(failed(table[~of_b(table)]))
    assert verdict.checks[0].is_void
    assert not verdict.checks[-1].is_void
    assert verdict.verdict == "not comparable"
    assert verdict.sentence.startswith("Not comparable: the runs were tested on different items")
    assert not verdict.pairs


def test_a_run_that_counts_twice_makes_the_comparison_void_unless_nearly_all_is_right() -> None:
    for accuracies, void in (({"A": 0.95, "B": 0.7}, True), ({"A": 0.99, "B": 0.7}, False)):
        table = simulated(accuracies, flips=0.0 if not void else 0.1)
        table = table[table["seed"] == 1] if not void else table
        (found,) = (each for each in checks(from_frame(same_run(table))) if each.code == "R003")
        assert found.is_void == void
    assert "R003" not in codes(same_run(simulated({"A": 1.0, "B": 0.7}, seeds=1, flips=0.0)))
