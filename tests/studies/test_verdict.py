import dataclasses
from pathlib import Path

import numpy as np
from fake_study import result, results, right

from vitlab.studies.grid import Difference, Run
from vitlab.studies.runner import Outcome
from vitlab.studies.verdict import remarks, verdict
from vitlab.studies.wording import SPACE


def plain(text: str) -> str:
    return text.replace(SPACE, " ")


def seeds(accuracies: list[float], first: int = 0) -> dict[int, np.ndarray]:
    return {seed: right(accuracy, seed=first + seed) for seed, accuracy in enumerate(accuracies)}


AHEAD = {"Swin": seeds([0.95, 0.951, 0.949, 0.95]), "ViT": seeds([0.90, 0.902, 0.899, 0.9])}


def test_a_clear_lead_is_called_ahead_with_its_interval() -> None:
    # Differences 5.0, 4.9, 5.0, 5.0 points: mean 4.975, s = .05, t(3 df, 97.5 %) = 3.182: ± .08 points.
    assert plain(verdict(results(AHEAD))) == "Swin is ahead of ViT by 5.0 points [4.9, 5.1]."


def test_equal_variants_are_not_separable() -> None:
    tied = {"A": seeds([0.95, 0.94, 0.96]), "B": seeds([0.949, 0.952, 0.948], first=5)}
    text = plain(verdict(results(tied)))
    assert text.startswith("Not separable at 3 seeds: A has the highest mean, 0.0 points [")
    assert text.endswith("] over B.")


def test_a_leader_may_be_ahead_of_one_and_level_with_another() -> None:
    study = {"Swin v2": seeds([0.951, 0.949, 0.95, 0.951], first=9), **AHEAD}
    text = plain(verdict(results(study)))
    assert text.startswith("Swin v2 is ahead of ViT by 5.0 points [")
    assert "but not separable from Swin (0.0 points [" in text
    assert text.endswith("at 4 seeds.")


def test_one_seed_tells_no_difference() -> None:
    text = verdict(results({"A": seeds([0.99]), "B": seeds([0.7])}))
    assert plain(text) == "A scored highest (99.0 %), but one seed each cannot tell a difference from chance."


def test_seeds_that_agree_do_not_make_three_images_a_lead() -> None:
    # Three images of 1,000 more in each of three seeds: certain over seeds, not over images (p = 3/1000 of any kind).
    base = right(0.95)
    better = base.copy()
    better[np.flatnonzero(~base)[:3]] = True
    text = verdict(results({"A": dict.fromkeys((1, 2, 3), better), "B": dict.fromkeys((1, 2, 3), base)}))
    assert text.startswith("Not separable")


def test_nothing_to_compare_is_said() -> None:
    assert verdict(results({"A": seeds([0.9])})).startswith("Only A has finished runs")
    none = dataclasses.replace(results({"A": seeds([0.9])}), finished=[])
    assert verdict(none) == "No run finished, so there is nothing to compare."


def test_a_clean_study_needs_no_remark() -> None:
    assert remarks(results(AHEAD)) == []


def test_failures_are_named() -> None:
    failed = Outcome(Run("ViT", 4, {}, Path("x")), "exit status 1: boom")
    (remark,) = remarks(results(AHEAD, failures=[failed]))
    assert remark == "1 of 9 runs failed and enter no average (ViT, seed 4: exit status 1: boom)."


def test_runs_below_a_baseline_are_marked() -> None:
    study = results({"A": seeds([0.9, 0.45]), "B": seeds([0.3, 0.3])})
    majority, neighbours = map(plain, remarks(study))
    assert majority == "2 of 4 runs do not beat majority class (34.0 %): all of B."
    assert neighbours == "3 of 4 runs do not beat k-NN on raw pixels (50.0 %): A with seed 1 and all of B."
    everyone = remarks(results({"A": seeds([0.4]), "B": seeds([0.45])}))
    assert list(map(plain, everyone)) == ["No run beats k-NN on raw pixels (50.0 %)."]


def test_undeclared_differences_and_mixed_environments_are_named() -> None:
    study = results(AHEAD, differences=[Difference("data.crop", {"Swin": 1, "ViT": 2}, declared=False)])
    assert remarks(study) == ["The variants differ in more than the study declares: data.crop."]
    labels = study.labels
    mixed = [
        result(name, seed, right(0.9), labels, torch=version, command=version)
        for name, seed, version in (("Swin", 1, "2.14"), ("ViT", 1, "2.15"))
    ]
    assert remarks(dataclasses.replace(results(AHEAD), finished=mixed)) == [
        "The runs do not come from the same environment (torch: 2.14, 2.15)."
    ]
