"""The simulated studies are as described, and the tables are written; what the tables say takes minutes."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.verdicts import FAILURE, NOISES, Design, accuracy_of, bound, claims, main, outcomes, shifts


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
    design = Design(2, 1000, 200, noise=NOISES[2], alone=True)
    fails, never = (np.interp(shifts(design, v, np.random.default_rng(1)), *ACCURACIES) for v in (0, 1))
    assert np.mean(fails < never.mean() - FAILURE / 2) == pytest.approx(0.1, abs=0.03)
    assert fails.mean() == pytest.approx(never.mean(), abs=0.2)


GRID = np.linspace(-3, 3, 2001)
ACCURACIES = GRID, 100 * accuracy_of(GRID)


def test_a_lead_is_claimed_for_the_first() -> None:
    some, first = claims(Design(2, 3, 1000, lead=10), 5)
    assert some == first == 5


def test_the_bound_is_clopper_pearsons() -> None:
    # P(X ≤ 0) = (1 − p)^100 = 1 %.
    assert bound(0, 100) == pytest.approx(1 - 0.01 ** (1 / 100))


def test_the_tables_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmarks.verdicts.IMAGES", (200,))
    main(["--runs", "6"])
    text = (tmp_path / "runs" / "benchmark" / "verdicts.md").read_text()
    assert text in capsys.readouterr().out
    assert "| 4 | 200 | 1 in 10 fails |" in text
    assert "Two kinds that move variants unlike" in text
