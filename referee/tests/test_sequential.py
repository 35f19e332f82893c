"""Looks at a growing study: simulated studies whose truth is known, and cases by hand."""

import numpy as np
import pytest
from referee.statistics.contrast import Rule
from referee.statistics.sequential import Watch, _simulated_p, level_after, levels, watch
from scipy import stats

FOUR_TO_TEN = tuple(range(4, 11))


def scores(rng: np.random.Generator, leads: list[float], seeds: int) -> dict[int, dict[int, np.ndarray | None]]:
    """Draw a score of each variant and seed, with a deviation of one between seeds."""
    draws = rng.standard_normal((len(leads), seeds)) + np.array(leads)[:, None]
    return {v: {seed: row[seed : seed + 1] for seed in range(seeds)} for v, row in enumerate(draws)}


def simulate(leads: list[float], looks: tuple[int, ...], studies: int, margin: float | None = None) -> list[Watch]:
    rng = np.random.default_rng(len(leads))
    seeds = looks[-1]
    return [watch(scores(rng, leads, seeds), range(seeds), looks, margin) for _ in range(studies)]


def runs(studies: list[Watch]) -> float:
    return float(np.mean([sum(study.looks[-1].seeds.values()) for study in studies]))


# Published with the rule: the least level c over spreads of 1 : 1 to 4 : 1, for looks at 4, 5, …, n_max seeds.
@pytest.mark.parametrize(("most", "published"), [(10, 0.0127), (15, 0.0097)])
def test_the_level_is_that_of_the_published_table(most: int, published: float) -> None:
    assert levels(tuple(range(4, most + 1)))[0] == pytest.approx(published, rel=0.05)
    assert levels((7,)) == levels((7,), rising=True) == (0.05,)


@pytest.mark.parametrize("variants", [2, 3])
def test_equal_variants_are_rarely_called_different_at_any_look(variants: int) -> None:
    studies = simulate([0.0] * variants, FOUR_TO_TEN, 250)
    assert sum(bool(study.settled) for study in studies) <= stats.binom.ppf(0.999, 250, 0.05)
    ends = {study.stop for study in studies}
    assert ends <= {"decided", "hopeless", "out of budget"}
    assert runs(studies) < 0.7 * 10 * variants  # hopeless studies end early


@pytest.mark.parametrize("variants", [2, 3])
def test_a_lead_of_three_deviations_is_settled_before_half_of_the_runs(variants: int) -> None:
    studies = simulate([3.0] + [0.0] * (variants - 1), FOUR_TO_TEN, 400)
    assert np.mean([study.stop == "decided" for study in studies]) > 0.98
    assert runs(studies) <= 0.49 * 10 * variants


def test_equal_variants_end_as_equal_with_a_margin_and_those_apart_by_it_rarely() -> None:
    studies = simulate([0.0, 0.0, 0.0], tuple(range(4, 21)), 100, margin=2.0)
    assert np.mean([study.stop == "equal" for study in studies]) > 0.8
    # The least favorable case of two one-sided tests: the true difference is the margin itself.
    studies = simulate([2.0, 0.0], FOUR_TO_TEN, 200, margin=2.0)
    assert sum(study.stop == "equal" for study in studies) <= stats.binom.ppf(0.999, 200, 0.05)


def test_a_loser_trains_no_more_and_the_others_go_on() -> None:
    rng = np.random.default_rng(0)
    outcomes = scores(rng, [10.0, 9.8, 0.0], 10)
    for seed in range(4, 10):
        del outcomes[2][seed]
    state = watch(outcomes, range(10), FOUR_TO_TEN)
    assert set(state.looks[0].settled) == {(0, 2), (1, 2)}
    assert state.looks[0].seeds == {0: 4, 1: 4, 2: 4}
    assert state.looks[-1].seeds[2] == 4
    assert state.looks[-1].seeds[0] > 4
    assert state.missing == []


def test_the_next_look_names_its_runs() -> None:
    outcomes = scores(np.random.default_rng(0), [0.1, 0.0], 5)
    del outcomes[1][4]
    state = watch(outcomes, range(10), FOUR_TO_TEN)
    assert len(state.looks) == 1
    assert state.stop is None
    assert state.missing == [(1, 4)]
    assert watch({0: {}, 1: {}}, range(10), FOUR_TO_TEN).missing == [(v, s) for s in range(4) for v in (0, 1)]


def test_failed_runs_count_as_trained() -> None:
    outcomes = scores(np.random.default_rng(1), [20.0, 0.0], 4)
    outcomes[1][2] = None
    state = watch(outcomes, range(10), FOUR_TO_TEN)
    assert state.looks[0].seeds == {0: 4, 1: 3}
    assert state.stop == "decided"
    nothing = {0: outcomes[0], 1: dict.fromkeys(range(4))}
    assert watch(nothing, range(10), FOUR_TO_TEN).stop is None  # it may recover at a later seed


def test_a_chain_of_settled_pairs_settles_its_ends() -> None:
    study = watch(scores(np.random.default_rng(2), [20.0, 10.0, 0.0], 4), range(4), (4,))
    assert set(study.settled) == {(0, 1), (1, 2), (0, 2)}
    del study.looks[0].settled[study.looks[0].settled.index((0, 2))]
    assert study.settled[0, 2].adjusted == max(study.settled[0, 1].adjusted, study.settled[1, 2].adjusted)


def test_levels_of_wang_and_tsiatis_rise() -> None:
    # With many seeds, p gives z of a random walk: another simulation of it, of 100,000 studies, gives C.
    steps = np.arange(1, 6) / 5
    walks = np.random.default_rng(1).standard_normal((100_000, 5)).cumsum(axis=1) / np.sqrt(np.arange(1, 6))
    bound = np.quantile((np.abs(walks) * steps**0.25).max(axis=1), 0.95)
    z = stats.norm.isf(np.array(levels((40, 80, 120, 160, 200), rising=True)) / 2)
    assert z * steps**0.25 == pytest.approx(np.full(5, bound), rel=0.01)


@pytest.mark.parametrize("looks", [(3, 7), (5, 10), (3, 5, 7, 10)])
def test_extending_a_list_costs_no_more_than_five_per_cent_in_all(looks: tuple[int, ...]) -> None:
    p = next(_simulated_p(looks, "pooled"))
    crossed = p[:, 0] < 0.05
    for k in range(1, len(looks)):
        crossed |= p[:, k] <= level_after(looks[: k + 1])
    assert 0.04 < crossed.mean() <= 0.051


def test_paired_variants_are_compared_by_seed() -> None:
    # Seeds move both variants by 10, their difference by 0.1: only pairs show a lead of 1.
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 10, 4)
    a, b = (shared + lead + rng.normal(0, 0.1, 4) for lead in (1.0, 0.0))
    outcomes = {v: {seed: row[seed : seed + 1] for seed in range(4)} for v, row in enumerate((a, b))}
    assert watch(outcomes, range(4), (4,), rule=Rule("paired")).stop == "decided"
    assert watch(outcomes, range(4), (4,)).stop == "out of budget"
    outcomes[0][1] = None  # then its partner is not used either
    (look,) = watch(outcomes, range(4), (4,), rule=Rule("paired")).looks
    assert look.seeds == {0: 3, 1: 3}
