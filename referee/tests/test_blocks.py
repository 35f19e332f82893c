"""Runs of several machines or versions are compared within them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from referee.__main__ import main
from referee.statistics.blocks import estimated, first_confounded
from referee.statistics.contrast import LEVEL, Cells, all_pairs
from scipy import stats

from referee import judge

SEEDS = 6
HALVES = np.arange(SEEDS) % 2
COLUMNS = ["variant", "seed", "score", "block"]


def scores(rng: np.random.Generator, *means: float) -> list[np.ndarray]:
    return [rng.normal(mean, 1, (SEEDS, 1)) for mean in means]


def test_seeds_that_are_blocks_of_their_own_are_compared_as_pairs() -> None:
    # Two variants, each seed of both on one machine: the additive model is Student's paired test.
    rng = np.random.default_rng(0)
    machine = rng.normal(0, 10, (SEEDS, 1))
    a, b = (each + machine for each in scores(rng, 1.5, 0))
    found = all_pairs([a, b], blocks=[np.arange(SEEDS)] * 2)[0, 1]
    expected = stats.ttest_rel(a[:, 0], b[:, 0])
    assert found.mean == pytest.approx((a - b).mean())
    assert found.freedom == pytest.approx(SEEDS - 1)
    assert found.p == pytest.approx(float(expected.pvalue), rel=1e-6)


def test_a_pair_of_three_is_the_contrast_of_an_analysis_of_variance() -> None:
    # Least squares on variants and machines, with runs missing in places: the textbook's mean and variance.
    rng = np.random.default_rng(1)
    means, blocks = (2.0, 0.0, 1.0), [HALVES, np.array([0, 0, 0, 0, 1, 1]), HALVES]
    drawn = [y + 5 * of[:, None] for y, of in zip(scores(rng, *means), blocks, strict=True)]
    y, machine = np.concatenate(drawn)[:, 0], np.concatenate(blocks)
    X = np.column_stack([np.kron(np.eye(3), np.ones((SEEDS, 1))), machine])
    fit = np.linalg.lstsq(X, y, rcond=None)[0]
    cells = Cells(drawn, blocks=blocks)
    for (a, b), found in all_pairs(drawn, blocks=blocks).items():
        contrast = np.eye(4)[a] - np.eye(4)[b]
        assert found.mean == pytest.approx(contrast @ fit)
        assert cells.blocks is not None
        assert cells.blocks.growth({a: 1, b: -1}) == pytest.approx(
            contrast @ np.linalg.inv(X.T @ X) @ contrast * SEEDS / 2
        )
        assert found.freedom <= len(y) - 4


def test_kinds_of_machines_that_move_variants_unlike_are_not_compared() -> None:
    rng, void = np.random.default_rng(8), []
    for unlike in (0.0, 3.0):
        rows = [(v, s, rng.normal(v == "a") + unlike * (v == "a") * (s % 2), str(s % 2))
                for v in "ab" for s in range(20)]  # fmt: skip
        table = pd.DataFrame(rows, columns=COLUMNS)
        void.append([check.code for check in judge(table).checks if check.is_void])
    assert void == [[], ["R016"]]


def test_a_single_block_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    drawn = [rng.random((5, 300)) < accuracy for accuracy in (0.9, 0.85, 0.8)]
    told = all_pairs(drawn, blocks=[np.zeros(5)] * 3)
    for pair, untold in all_pairs(drawn).items():
        assert told[pair].p == pytest.approx(untold.p)
        assert told[pair].interval == pytest.approx(untold.interval)


@pytest.mark.parametrize("variants", [2, 3])
def test_equal_variants_on_unequal_shares_of_two_machines_are_rarely_called_different(variants: int) -> None:
    # One variant has more of its seeds on the machine that scores two deviations higher. Not told, that is a lead.
    rng, wrong, studies = np.random.default_rng(3), np.zeros(2), 400
    blocks = [np.array([0, 1, 1, 1, 1, 1]), *[np.array([0, 0, 0, 0, 0, 1])] * (variants - 1)]
    for _ in range(studies):
        drawn = [y + 2 * of[:, None] for y, of in zip(scores(rng, *[0] * variants), blocks, strict=True)]
        wrong += [any(d.adjusted < LEVEL for d in all_pairs(drawn, blocks=of).values()) for of in (None, blocks)]
    untold, told = wrong
    assert untold / studies > 0.2
    assert told <= stats.binom.ppf(0.999, studies, 0.05)


def test_nothing_is_left_where_no_run_can_be_held_against_another() -> None:
    a, b = scores(np.random.default_rng(5), 100, 0)
    found = all_pairs([a, b], blocks=[np.arange(SEEDS), np.arange(SEEDS, 2 * SEEDS)])[0, 1]
    assert found.p == 1
    assert np.isinf(estimated([a[:, 0], b[:, 0]], [np.zeros(SEEDS), np.ones(SEEDS)]).growth({0: 1, 1: -1}))


@pytest.mark.parametrize(
    ("test", "swin", "apart"),
    [
        ("pooled", {"1": "x", "2": "y"}, False),
        ("pooled", {"1": "z", "2": "z"}, True),
        ("paired", {"1": "x", "2": "y"}, True),
        ("paired", {"1": "x", "2": "x"}, False),
        ("exact", {"1": "x", "2": "y"}, True),
    ],
)
def test_which_variants_cannot_be_told_from_their_blocks(test: str, swin: dict[str, str], apart: bool) -> None:
    assert first_confounded({"vit": {"1": "x", "2": "x"}, "none": {}, "swin": swin}, test) == (
        ("vit", "swin") if apart else None
    )


def table(machines: tuple[str, str]) -> pd.DataFrame:
    rng = np.random.default_rng(6)
    rows = [
        {"variant": name, "seed": seed, "score": score + rng.normal(0, 0.1) + 5 * (machine == "new"), "block": machine}
        for name, score, usual in (("a", 1.0, machines[0]), ("b", 0.0, machines[1]))
        for seed in range(1, 7)
        for machine in [usual if seed % 2 else machines[0]]
    ]
    return pd.DataFrame(rows)


def test_a_table_of_scores_tells_blocks_by_a_column_and_the_report_names_them(tmp_path: Path) -> None:
    mixed = table(("old", "new"))
    assert judge(mixed).sentence.startswith("a is better than b by 1.0")
    assert judge(mixed.drop(columns="block")).verdict == "no winner yet"  # b's machine hides it
    mixed.rename(columns={"block": "host"}).to_csv(tmp_path / "mixed.csv", index=False)
    assert main([str(tmp_path / "mixed.csv"), "--block", "host", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# a is better than b by 1.0")
    assert "The runs come from 2 kinds of machines or places (new, old); what each adds to all scores is" in text


def test_a_variant_that_ran_elsewhere_is_not_compared() -> None:
    apart = table(("old", "new"))
    apart.loc[apart["variant"] == "b", "block"] = "new"
    verdict = judge(apart)
    assert verdict.verdict == "not comparable"
    assert [check.code for check in verdict.checks if check.is_void] == ["R013"]
    assert "a ran in old, b in new" in verdict.sentence


def spread(machines: dict[str, str]) -> pd.DataFrame:
    rows = [(v, s, s**2 + (v == "A"), at) for v, own in machines.items() for s, at in enumerate(own)]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_blocks_that_leave_no_degree_of_freedom_are_not_compared() -> None:
    # Four runs, and four unknowns: two means, and what y and z add.
    verdict = judge(spread({"A": "xy", "B": "yz"}))
    assert verdict.sentence.replace("\u00a0", " ").startswith("Not comparable: 4 runs in 3 blocks leave no degree of")
    assert [check.code for check in verdict.checks if check.is_void] == ["R013"]
    # The first look has these four runs, and a third seed tells that more will come.
    verdict = judge(spread({"A": "xyx", "B": "yzy"}), looks=[2, 4])
    assert np.isnan(verdict.pairs[0].interval.high)
    assert verdict.metric.bracket(verdict.pairs[0].interval, 1) == ""
    assert verdict.record()["pairs"][0]["high"] is None


def test_a_run_of_two_blocks_is_refused() -> None:
    rows = pd.DataFrame({"variant": "a", "seed": 1, "item": [1, 2], "correct": [1, 0], "block": ["x", "y"]})
    with pytest.raises(ValueError, match='A run has rows of several blocks; block="block"'):
        judge(rows)


def test_a_plan_takes_the_spread_within_blocks() -> None:
    # Seeds 0.3 apart on machines 4 apart: the pilot's variance over seeds is that of 0.3, of many such tables.
    found = []
    for number in range(40):
        rng = np.random.default_rng(number)
        rows = [(v, s, rng.normal(0, 0.3) + 4 * (s % 3), f"m{s % 3}") for v in "ab" for s in range(1, 7)]
        pilot = judge(pd.DataFrame(rows, columns=COLUMNS)).pilot
        assert pilot is not None
        found.append(pilot.point.seeds)
    assert np.mean(found) == pytest.approx(0.3**2, rel=0.2)


def test_looks_take_blocks_off_as_a_single_look_does() -> None:
    rng = np.random.default_rng(7)
    rows = [(v, s, 2 * (v == "a") + rng.normal(0, 0.3) + 4 * (s % 2), f"m{s % 2}") for v in "ab" for s in range(1, 7)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    watched = judge(table, looks=[4, 6])
    assert watched.watch is not None
    assert watched.watch.stop == "decided"
    assert len(watched.watch.looks) == 1  # the machines' four points would hide it
    untold = judge(table.drop(columns="block"), looks=[4, 6])
    assert untold.watch is not None
    assert untold.watch.looks[0].settled == []
