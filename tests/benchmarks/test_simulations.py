"""The simulated studies are as described, and each case writes its table; what the tables say takes minutes."""

from pathlib import Path

import numpy as np
import pytest
from referee.statistics.contrast import all_pairs
from referee.statistics.sequential import levels, watch

from benchmarks import rivals
from benchmarks.rivals import TOOLS, WORLDS, improvement
from benchmarks.scores import World, drawn, judged, truth, watched
from benchmarks.scores import main as scores_main
from benchmarks.simulations import (
    ACCURACIES,
    CASES,
    FAILURE,
    SHIFTS,
    Design,
    Truth,
    accuracy_of,
    bound,
    is_wrong,
    main,
    outcomes,
    shifts,
)


def rates(design: Design, studies: int = 30) -> np.ndarray:
    """Return the accuracies of simulated runs in per cent, (studies, V, S)."""
    rng = np.random.default_rng(0)
    drawn = [outcomes(design, rng) for _ in range(studies)]
    return 100 * np.array([[runs.mean(axis=1) for runs in study] for study in drawn])


def test_variants_are_equal_but_for_the_lead() -> None:
    accuracies = rates(Design(3, 4, 10_000, sd=0.3, lead=2)).mean(axis=(0, 2))
    assert accuracies[1:] == pytest.approx(100 * accuracy_of(np.zeros(1))[0], abs=0.3)
    assert accuracies[0] - accuracies[1:].mean() == pytest.approx(2, abs=0.15)


def test_flips_and_seeds_move_a_run_as_described() -> None:
    still, moved = (rates(Design(2, 10, 10_000, sd=sd)).std(axis=2, ddof=1) for sd in (0, 0.5))
    assert np.mean(still**2) ** 0.5 == pytest.approx(0.2, abs=0.02)
    assert np.mean(moved**2) ** 0.5 == pytest.approx(np.hypot(0.2, 0.5), abs=0.05)


def test_one_seed_in_ten_fails_and_variants_stay_equal_on_average() -> None:
    design = Design(2, 1000, 200, fails=True)
    drawn = (shifts(design, v, np.random.default_rng(1)) for v in (0, 1))
    fails, never = (100 * np.interp(each, SHIFTS, ACCURACIES) for each in drawn)
    assert np.mean(fails < never.mean() - FAILURE / 2) == pytest.approx(0.1, abs=0.03)
    assert fails.mean() == pytest.approx(never.mean(), abs=0.2)


def test_the_bound_is_clopper_pearsons() -> None:
    # P(X ≤ 0) = (1 − p)^100 = 1 %.
    assert bound(0, 100) == pytest.approx(1 - 0.01 ** (1 / 100))


def test_a_word_is_wrong_where_it_is_false_of_the_means() -> None:
    ahead, level, behind = (Truth("A > B", (lead, 0.0), margin=2.0) for lead in (3.0, 1.0, -3.0))
    assert [is_wrong(truth, "repeated") for truth in (ahead, level, behind)] == [False, False, True]
    assert [is_wrong(truth, "contradicted") for truth in (ahead, level, behind)] == [True, True, False]
    assert [is_wrong(Truth("A = B", (lead, 0.0), margin=2.0), "contradicted") for lead in (1.0, 3.0)] == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_table_of_each_case_is_written(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([case, "--studies", "2", "--out", str(tmp_path)])
    text = (tmp_path / f"{case}.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert text.count("\n|") > 4


def test_rivals_see_the_same_studies_and_their_claims_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rivals, "TOOLS", {name: TOOLS[name] for name in ("referee", "scipy")})  # the others are rivals
    rivals.main(["--worlds", "6", "7", "--studies", "4", "--out", str(tmp_path)])
    folds, power = (tmp_path / "rivals.md").read_text().splitlines()[-2:]
    assert folds.startswith("| 10 × 10 folds | 0.0 (4) |")
    assert power.endswith("| 100.0 (4) | 100.0 (4) |")
    drawn = [WORLDS[2].draw(3).scores for _ in range(2)]
    assert (drawn[0] == drawn[1]).all()


def test_the_probability_of_improvement_counts_a_tie_as_half() -> None:
    assert improvement(np.array([[3.0], [1.0]]), np.array([[1.0], [2.0]])) == [(1 + 1 + 0.5 + 0) / 4]


# Thousands of studies at once


def test_each_study_is_judged_by_the_rule() -> None:
    world = World((3.0, 0.0, 0.0, 1.0), (1.0, 2.0, 1.0, 4.0), (3, 5, 4, 7))
    scores = drawn(world, 30)
    found = judged(scores)
    for study in range(30):
        pairs = all_pairs([y[study][:, None] for y in scores]).values()
        assert found.adjusted[study] == pytest.approx([each.adjusted for each in pairs], rel=1e-6)
        assert found.low[study] == pytest.approx([each.interval.low for each in pairs])
    assert truth(world).tolist() == [3, 3, 2, 0, -1, -1]


def test_looks_are_those_of_a_watched_study() -> None:
    """Also losers train no more; `hopeless`, which the table leaves out, ends none of these few looks."""
    world, sizes = World((0.0, 0.0, -100.0), (1.0, 4.0, 1.0), (6, 6, 6)), (4, 5, 6)
    scores, false = drawn(world, 60), 0
    for study in range(60):
        rows = {v: {seed: y[study, seed : seed + 1] for seed in range(6)} for v, y in enumerate(scores)}
        settled = watch(rows, range(6), sizes).settled
        false += any({0, 1} == {*pair} for pair in settled)
    assert watched(world, sizes, levels(sizes), 60) >= round(100 * false / 60, 1)


def test_the_tables_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores_main(["two_states", "plans", "--studies", "20", "--out", str(tmp_path)])
    text = (tmp_path / "scores.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "seeds end in one of two states" in text
    assert np.char.count(text, "\n| 3 |") == 2
