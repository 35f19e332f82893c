import dataclasses

import numpy as np
from fake_study import AHEAD, SIX, plain, results, right, seeds

from vitlab.studies.report.verdict import verdict


def test_between_equal_variants_there_is_no_winner_yet() -> None:
    tied = results({"A": seeds([0.95, 0.94, 0.96]), "B": seeds([0.949, 0.952, 0.948], first=5)})
    text = plain(verdict(tied))
    assert text.startswith("No winner yet (3 seeds each)")
    assert "by 0.0 points (−" in text  # with the interval of the lead
    assert tied.verdict.pairs[0].interval.low < 0 < tied.verdict.pairs[0].interval.high
    assert not tied.verdict.pairs[0].settled


def test_a_leader_may_be_better_than_one_and_undecided_against_another() -> None:
    study = {"Swin": seeds(SIX), "ViT": seeds([0.9] * 6), "Swin v2": seeds([0.951, 0.949, 0.95, 0.951, 0.953, 0.95], 9)}
    text = plain(verdict(results(study)))
    assert text.startswith("Swin v2 is better than ViT by 5.1 points (")
    assert "no winner yet against Swin" in text


def test_seeds_need_no_partner() -> None:
    unequal = {"Swin": AHEAD["Swin"], "ViT": {seed: AHEAD["ViT"][seed % 6] for seed in (7, 8, 9)}}
    text = plain(verdict(results(unequal)))
    assert text.startswith("Swin is better than ViT by 5")
    assert "(3 to 6 seeds each)" in text


def test_one_seed_tells_no_difference() -> None:
    text = verdict(results({"A": seeds([0.99]), "B": seeds([0.7])}))
    assert plain(text) == "A scored highest (99.0 %), but a single seed cannot distinguish a difference from chance."


def test_seeds_that_agree_do_not_make_three_images_a_lead() -> None:
    # Three images of 1,000 more in each of eight seeds: certain over seeds, not over images.
    base = right(0.95)
    better = base.copy()
    better[np.flatnonzero(~base)[:3]] = True
    text = verdict(results({"A": dict.fromkeys(range(8), better), "B": dict.fromkeys(range(8), base)}))
    assert text.startswith("No winner yet")


def test_nothing_to_compare_is_said() -> None:
    assert verdict(results({"A": seeds([0.9])})).startswith("Only A has finished runs")
    none = dataclasses.replace(results({"A": seeds([0.9])}), finished=[])
    assert verdict(none) == "No run finished, so there is nothing to compare."


def test_many_leads_that_are_not_settled_are_told_by_their_range() -> None:
    shares = {"A": 0.8, "B": 0.79, "C": 0.78, "D": 0.77, "E": 0.76, "F": 0.2}
    study = results({name: {seed: right(share, 100) for seed in range(3)} for name, share in shares.items()})
    told = plain(verdict(study))
    assert "no winner yet against B, C, D and E, which it leads by 1.0 to 4.0 points (3 seeds each)." in told
    assert told.startswith("A is better than F by 60.0 points (")


def test_many_settled_leads_are_told_by_their_range() -> None:
    """With seven others, two settled ones have no interval each; all are in the table."""
    shares = {"A": 0.9, "B": 0.89, "C": 0.88, "D": 0.87, "E": 0.86, "F": 0.85, "G": 0.3, "H": 0.2}
    study = results({name: {seed: right(share, 100) for seed in range(3)} for name, share in shares.items()})
    told = plain(verdict(study))
    assert told.startswith("A is better than G and H by 60.0 to 70.0 points; no winner yet against B, C, D, E and F,")
