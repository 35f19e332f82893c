"""The planner: simulated power at its answers, and cases by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from vitlab.studies.statistics.comparison import differences
from vitlab.studies.statistics.power import Pilot, detectable, images_needed, need, seeds_needed


@pytest.mark.parametrize(("variants", "sd", "difference"), [(2, 0.5, 1.0), (3, 0.5, 1.0), (3, 0.5, 0.6)])
def test_four_of_five_studies_of_the_planned_size_settle_the_difference(
    variants: int, sd: float, difference: float
) -> None:
    seeds = seeds_needed(Pilot(variants, sd**2, 0.0, 10, 1), difference)
    assert seeds is not None
    rng = np.random.default_rng(0)
    settled = []
    for _ in range(300):
        scores = rng.normal(0, sd, (variants, seeds, 1))
        scores[0] += difference
        settled.append(differences(list(scores))[0, 1].adjusted < 0.05)
    assert 0.72 < np.mean(settled) < 0.95  # Shaffer's later steps find a little more than planned


def test_the_range_contains_the_truth_in_four_of_five_pilots() -> None:
    rng = np.random.default_rng(0)
    truth = seeds_needed(Pilot(3, 0.25, 0.0, 6, 1), 1.0)
    assert truth is not None
    inside = 0
    for _ in range(300):
        pilot = Pilot(3, 0.25 * rng.chisquare(6) / 6, 0.0, 6, 1)
        answer = need(pilot, 1.0)
        assert answer.low is not None
        assert answer.high is not None
        inside += answer.low <= truth <= answer.high
    assert inside / 300 > 0.78


def test_images_are_asked_for_only_where_seeds_cannot_help() -> None:
    # (z(97.5 %) + z(80 %))² σ² / δ²: for σ² = 0.1 per image and 1 point, 785 · 0.1 / 0.01² · 1e-2 = 7,849 images.
    pilot = Pilot(2, 1e-6, 0.1 / 1000, 4, 1000)
    z = stats.norm.isf(0.025) + stats.norm.ppf(0.8)
    assert images_needed(pilot, 0.01) == math.ceil(0.1 * (z / 0.01) ** 2)
    assert need(pilot, 0.01).seeds is None
    assert images_needed(pilot, 0.05) is None
    assert need(pilot, 0.05).seeds is not None


def test_more_seeds_detect_less() -> None:
    pilot = Pilot(3, 0.25, 0.01, 6, 1000)
    sizes = [detectable(pilot, n) for n in (2, 3, 5, 10, 100)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] > 0.1 * (stats.norm.isf(0.05 / 6) + 0.84)  # what the images leave
