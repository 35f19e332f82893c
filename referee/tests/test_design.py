"""What a plan that is known changes: the order of variants, the level, and the names of those that lost runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import simulated
from referee.answer import answered
from referee.judging import of_trainings
from referee.outcomes import Outcomes, Run, from_frame
from referee.report.along import Line, best_where, line_parts
from referee.report.differences import differences_section
from referee.report.document import Table
from referee.statistics.sequential import level_after
from referee.verdict import Design, Verdict

from referee import judge


def table(accuracies: dict[str, float], seeds: int = 4) -> Outcomes:
    return from_frame(simulated(accuracies, seeds=seeds))


def test_a_plan_ranks_and_names_a_variant_with_a_single_run() -> None:
    outcomes = table({"A": 0.9, "B": 0.7, "C": 0.5})
    lost = Outcomes([run for run in outcomes.runs if run.variant != "A" or run.seed == "1"], outcomes.metric)
    assert [each.name for each in of_trainings(lost, Design(seeds=tuple("1234"))).ranking] == ["A", "B", "C"]
    assert [each.name for each in judge(lost).ranking] == ["B", "C", "A"]
    assert judge(lost).sentence.startswith("B is better than C")
    assert "A scored highest" in of_trainings(lost, Design(seeds=tuple("1234"))).sentence


def test_seeds_that_were_added_after_a_look_are_tested_at_a_stricter_level() -> None:
    outcomes = table({"A": 0.9, "B": 0.7})
    extended = of_trainings(outcomes, Design(seeds=tuple("1234"), extended=(2,)))
    assert extended.level == level_after((2, 4)) < of_trainings(outcomes, Design(seeds=tuple("1234"))).level == 0.05


def test_a_paired_test_leaves_out_a_seed_that_failed_in_one_variant() -> None:
    outcomes = table({"A": 0.9, "B": 0.7})
    runs = [*outcomes.runs[:3], Run("A", "4", np.array([np.nan])), *outcomes.runs[4:]]
    verdict = of_trainings(Outcomes(runs, outcomes.metric), Design("paired", seeds=tuple("1234")))
    assert [len(each.runs) for each in verdict.ranking] == [3, 3]
    assert verdict.pairs[0].difference is not None


def test_a_paired_test_pairs_by_seed_whatever_the_order_of_the_rows() -> None:
    outcomes = table({"A": 0.9, "B": 0.7})
    shuffled = Outcomes([*outcomes.runs[:4], *outcomes.runs[:3:-1]], outcomes.metric)
    one, other = (judge(each, test="paired").pairs[0] for each in (outcomes, shuffled))
    assert one.difference is not None
    assert one.p == other.p


@pytest.mark.parametrize(("seeds", "number"), [("5678", 0), ("4567", 1)])
def test_a_paired_test_needs_two_seeds_that_variants_share(seeds: str, number: int) -> None:
    outcomes = table({"A": 0.9, "B": 0.7})
    others = [replace(run, seed=seed) for run, seed in zip(outcomes.of("B"), seeds, strict=True)]
    with pytest.raises(
        ValueError, match=f"two seeds that all variants share, not {number}. Give all variants the same"
    ):
        judge(Outcomes([*outcomes.of("A"), *others], outcomes.metric), test="paired")
    with pytest.raises(ValueError, match=r"of 3 variants one leaves the race.*Give two variants, no looks"):
        judge(table({"A": 0.9, "B": 0.7, "C": 0.5}), test="paired", looks=(2, 3, 4))
    assert judge(table({"A": 0.9, "B": 0.7, "C": 0.5}), test="paired").pairs


def test_a_variant_without_a_result_keeps_its_place_in_the_looks() -> None:
    outcomes = table({"A": 0.9, "B": 0.7}, seeds=3)
    failed = [Run("0", str(seed), np.array([np.nan])) for seed in (1, 2, 3)]
    verdict = of_trainings(Outcomes([*failed, *outcomes.runs], outcomes.metric), Design(looks=(3, 4)))
    assert verdict.watch is not None
    assert [(each.name, each.index) for each in verdict.ranking] == [("A", 1), ("B", 2)]
    assert verdict.watch.settled.keys() == {("A", "B")}
    assert verdict.pairs[0].settled


def test_a_record_answers_for_two_variants_and_against_all(three: pd.DataFrame) -> None:
    record = judge(three).record()
    words = [answered(record, *asked)[1] for asked in ((), ("A",), ("B", "A"), ("B", "C"))]
    assert words == ["better", "better", "worse", "no winner yet"]
    with pytest.raises(ValueError, match="'D' is not a variant"):
        answered(record, "D")
    with pytest.raises(ValueError, match="name two different variants"):
        answered(record, "A", "A")


def test_every_column_is_explained(three: pd.DataFrame) -> None:
    parts = differences_section(judge(three), None)
    columns = next(part for part in parts if isinstance(part, Table)).columns
    explained = " ".join(getattr(part, "text", "") for part in parts)
    for column in (columns[2], *columns[4:], "Better", "Undecided"):
        assert f"*{column.split(', ')[0]}".replace("\n", " ") in explained


def test_one_run_each_is_explained_by_its_own_test() -> None:
    models = judge(simulated({"A": 0.9, "B": 0.7}, seeds=1))
    text = " ".join(getattr(part, "text", "") for part in differences_section(models, None))
    assert "the smallest level at which the pair is called better; chance is other test items." in text
    assert "seeds" not in text


def along(points: list[dict[str, float]]) -> Line:
    verdicts: list[Verdict] = [of_trainings(table(each), Design(seeds=tuple("1234"))) for each in points]
    x = [10.0**k for k in range(len(points))]
    return Line("images", x, [f"{value:g} images" for value in x], verdicts, 0.05 / len(points))


def test_a_line_says_which_variant_is_best_where_and_where_two_cross(tmp_path: Path) -> None:
    line = along([{"A": 0.9, "B": 0.7}, {"A": 0.7, "B": 0.9}])
    assert best_where(line).startswith("At 1 images, A is better than all others, ahead of the next by")
    table = next(part for part in line_parts(line, "line", tmp_path) if isinstance(part, Table))
    assert [row.cells for row in table.rows] == [["1 and 10", "A is better at 1; B is better at 10"]]
    deeper = along([{"A": 0.9, "B": 0.7}] * 2)._replace(labels=["depth 1", "depth 10"])
    assert best_where(deeper).startswith("From depth 1 to depth 10, A is better")
