"""A variant with `frozen` trains nothing but a classifier: what a study plans for it, and what its report says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_study import results, right, variant
from referee.judging import of_trainings
from referee.outcomes import Outcomes, Run
from referee.verdict import Design

from vitlab.config import merge
from vitlab.studies.file.metric import TOP1
from vitlab.studies.file.runs import differing_keys, plan
from vitlab.studies.file.study import read_study
from vitlab.studies.report.cost import flops_of
from vitlab.studies.report.verdict import remarks
from vitlab.studies.results import StudyResults

Write = Callable[..., Path]
FROZEN = {
    "frozen": {"probe": "linear"},
    **merge(variant(0.9), {"model": {"init_args": {"init_from": "a.safetensors"}}}),
}


def test_it_takes_no_epoch_of_the_budget(write_study: Write, tmp_path: Path) -> None:
    study = read_study(write_study(variants={"tuned": variant(0.95), "as given": FROZEN}))
    tuned, given = plan(study, tmp_path)[:2]
    assert (tuned.epochs, given.epochs) == (4, 0)
    assert given.config["run"]["probe"] == "linear"
    assert tuned.config["run"].get("probe") is None
    assert study.frozen == {"as given"}
    declared = {each.key: each.declared for each in differing_keys(study, [tuned, given])}
    assert declared["trainer.max_epochs"]
    assert declared["run.probe"]


def test_it_declares_no_other_length_of_variants_that_train(write_study: Write, tmp_path: Path) -> None:
    tuned, longer = variant(0.95), {**variant(0.9), "trainer": {"max_epochs": 9}}
    study = read_study(write_study(variants={"tuned": tuned, "longer": longer, "as given": FROZEN}, budget=None))
    declared = {each.key: each.declared for each in differing_keys(study, plan(study, tmp_path))}
    assert (declared["trainer.max_epochs"], declared["run.probe"]) == (False, True)
    study = read_study(write_study(variants={"knn": {**FROZEN, "frozen": {"probe": "knn"}}, "as given": FROZEN}))
    assert [each.declared for each in differing_keys(study, plan(study, tmp_path))] == [True]


def test_another_budget_buys_the_others_their_length(write_study: Write, tmp_path: Path) -> None:
    study = read_study(write_study(variants={"tuned": variant(0.95), "as given": FROZEN}, budget={"images": 400}))
    assert [run.epochs for run in plan(study, tmp_path)[:2]] == [3, 0]  # the base's, until the budget is spent


@pytest.mark.parametrize("frozen", ["linear", {"probe": "svm"}, {"probe": "knn", "k": 5}])
def test_a_wrong_probe_is_answered_with_the_right_ones(write_study: Write, frozen: Any) -> None:
    variants = {"tuned": variant(0.95), "as given": {**variant(0.9), "frozen": frozen}}
    with pytest.raises(ValueError, match=r"as given: frozen: .*linear or knn"):
        read_study(write_study(variants=variants))


def test_random_features_are_not_taken_for_those_of_a_model(write_study: Write, tmp_path: Path) -> None:
    """A timm model's name is no weights: without `pretrained` it is built at random."""
    random = {"frozen": {"probe": "linear"}, **variant(0.9)}
    study = read_study(write_study(variants={"tuned": variant(0.95), "as given": random}))
    with pytest.raises(ValueError, match=r"'as given' is frozen, and has random weights. Set init_from"):
        plan(study, tmp_path)


def test_what_takes_no_step_is_not_tuned(write_study: Write) -> None:
    tune = {"space": {"model.init_args.lr": [0.1, 0.2]}}
    with pytest.raises(ValueError, match="'as given' is frozen and takes no steps"):
        read_study(write_study(variants={"tuned": variant(0.95), "as given": FROZEN}, tune=tune))


def given_and_tuned() -> StudyResults:
    found = results({"tuned": {1: right(0.9)}, "as given": {1: right(0.8)}})
    for result in found.finished:
        result.summary.update(images_seen=100, seconds=10.0)
        if result.run.variant == "as given":
            result.run.config["trainer"] = {**result.run.config.get("trainer", {}), "max_epochs": 0}
            result.run.config["run"] = {**result.run.config.get("run", {}), "probe": "knn"}
    return found


def test_its_images_cost_a_forward_pass() -> None:
    found = given_and_tuned()
    for result in found.finished:
        result.summary["cost"] = {"flops": 2_000}
    spent = {result.variant: flops_of(result) for result in found.ranking}
    assert spent == {"tuned": None, "as given": 2_000 * 100}


def test_the_report_names_it() -> None:
    found = given_and_tuned()
    (line,) = [each for each in remarks(found) if "frozen" in each]
    assert line == ("as given is frozen: no step trains the network, k-NN of its features is all that is fitted.")


@pytest.mark.slow
def test_seeds_that_are_all_equal_make_no_more_false_claims() -> None:
    """Simulated: networks of equal accuracy on the images at large, two of them probes of given weights."""
    rng, wrong, studies = np.random.default_rng(0), 0, 200
    items = np.array([str(index) for index in range(400)])
    for _ in range(studies):
        runs, difficulty = [], rng.normal(0, 0.25, 400)
        for name in ("frozen a", "frozen b", "trained a", "trained b"):
            chance = 0.75 + 0.6 * difficulty + 0.8 * rng.normal(0, 0.25, 400)  # of being right, a network's own
            given = rng.random(400) < chance
            for seed in "1234":
                drawn = rng.random(400) < chance + rng.normal(0, 0.02)
                runs.append(Run(name, seed, given if name.startswith("frozen") else drawn, items))
        table = Outcomes(runs, TOP1, planned=[], unit="image")
        wrong += any(pair.settled for pair in of_trainings(table, Design(seeds=tuple("1234"))).pairs)
    assert wrong / studies < 0.05 + 3 * (0.05 * 0.95 / studies) ** 0.5
