"""What a report remarks on, and what makes a comparison void: each test tries to get past it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from fake_study import AHEAD, costing, plain, results, seeds

from vitlab.config import ABSENT
from vitlab.evaluation.predictions import Predictions
from vitlab.studies.file.registration import UNFINISHED, Outcome
from vitlab.studies.file.runs import Difference, Run
from vitlab.studies.file.study import Budget
from vitlab.studies.report import page
from vitlab.studies.report.verdict import objections, remarks, remarks_above, remarks_below, verdict
from vitlab.studies.results import Compute, Context, RunResult, StudyResults

ARCHITECTURE = Difference("model.init_args.backbone.class_path", {"Swin": "a.B", "ViT": "a.C"}, declared=True)


def each(study: StudyResults, change: Any) -> StudyResults:
    """Return a study with `change(run)` of every run."""
    return dataclasses.replace(study, finished=[change(run) for run in study.finished])


def environments(**by_variant: Any) -> StudyResults:
    """Return the clear lead with an environment for each variant, or a list of one per seed."""

    def change(run: RunResult) -> RunResult:
        own = by_variant[run.run.variant]
        return dataclasses.replace(run, environment=own[run.run.seed % len(own)] if isinstance(own, list) else own)

    return each(results(AHEAD), change)


def summaries(budget: Budget | None = None, **by_variant: dict[str, Any]) -> StudyResults:
    """Return the clear lead with entries of summary.json by variant."""
    study = results(AHEAD)
    if budget is not None:
        study = dataclasses.replace(study, study=dataclasses.replace(study.study, budget=budget))

    def change(run: RunResult) -> RunResult:
        return dataclasses.replace(run, summary=run.summary | by_variant.get(run.run.variant, {}))

    return each(study, change)


def declared(study: StudyResults, *differences: Difference) -> StudyResults:
    """Return a study whose `may_differ` lists what these differences declare."""
    keys = [difference.key for difference in differences if difference.declared]
    return dataclasses.replace(
        study, differences=list(differences), study=dataclasses.replace(study.study, may_differ=keys)
    )


# ---- settings


def test_an_undeclared_difference_makes_the_comparison_void() -> None:
    study = declared(
        results(AHEAD),
        ARCHITECTURE,
        Difference("model.init_args.optimizer.init_args.lr", {"Swin": 0.002, "ViT": 0.001}, declared=False),
        Difference("data.init_args.batch_size", {"Swin": 64, "ViT": 128}, declared=False),
    )
    (text,) = objections(study)
    assert text.startswith("Not a pure architecture comparison: learning rate and batch size differ too")
    assert remarks(study) == [text]


def test_a_declared_difference_that_is_not_architecture_is_named() -> None:
    study = declared(
        results(AHEAD),
        ARCHITECTURE,
        Difference("model.init_args.optimizer.init_args.lr", {"Swin": 0.002, "ViT": 0.001}, declared=True),
        Difference("data.init_args.batch_size", {"Swin": 64, "ViT": 128}, declared=True),
        Difference("model.init_args.backbone.init_args.drop_path_rate", {"Swin": 0.2, "ViT": 0.1}, declared=True),
        Difference("model.init_args.backbone.init_args.img_size", {"Swin": 32, "ViT": 64}, declared=True),
        Difference("trainer.precision", {"Swin": "bf16-mixed", "ViT": "32-true"}, declared=True),
    )
    assert objections(study) == []
    (remark,) = remarks(study)
    assert ": img_size (data); lr, batch_size (recipe); drop_path_rate (regularization); precision (trainer)." in remark


def test_an_argument_that_one_backbone_takes_from_the_data_is_no_difference() -> None:
    size = Difference("model.init_args.backbone.init_args.img_size", {"Swin": 64, "ViT": None}, declared=True)
    classes = Difference("model.init_args.backbone.init_args.num_classes", {"Swin": 5, "ViT": ABSENT}, declared=True)
    study = declared(results(AHEAD), ARCHITECTURE, size, classes)
    assert remarks(study) == []
    swin_on_two = trained_on(Swin=["a"], ViT=["b"])
    assert "training images" in objections(declared(swin_on_two, ARCHITECTURE, size))[0]


def test_a_winner_that_costs_more_than_what_it_beats_says_so_in_numbers() -> None:
    cost, cheap = {"parameters": 373_000, "flops": 32_800_000}, {"parameters": 300_000, "flops": 8_700_000}
    (remark,) = map(plain, remarks(costing(results(AHEAD), Swin=cost, ViT=cheap)))
    assert remark.startswith("Swin costs more than ViT: FLOPs per image 32.8 M instead of 8.70 M.")
    assert remarks(costing(results(AHEAD), Swin=cheap, ViT=cost)) == []
    slow = summaries(Swin={"seconds": 100.0})
    assert plain(remarks(slow)[0]).startswith("Swin costs more than ViT: training time 1:40 instead of 1:00.")


def test_a_variant_that_joined_after_a_look_is_named() -> None:
    look = {"variants": [{"variant": "Swin"}], "seeds": [1], "stop": None, "failures": {}}
    study = dataclasses.replace(results(AHEAD), log=[look])
    said = "ViT joined after a look at the others: more than 5 % of claims about it may be false."
    assert said in map(plain, remarks(study))
    both = {**look, "variants": [{"variant": "Swin"}, {"variant": "ViT"}]}
    assert said not in map(plain, remarks(dataclasses.replace(study, log=[both, look])))
    failed = {**look, "failures": {"ViT, seed 1": "out of memory"}}  # planned from the start
    assert said not in map(plain, remarks(dataclasses.replace(study, log=[failed, look])))


def test_two_remarks_stand_above_the_ranking_and_the_others_below() -> None:
    study = results(
        {"A": seeds([0.9, 0.91]), "B": seeds([0.52, 0.51])},
        failures=failed("B", 6),
        context=Context(left_out=[("ViT, seed 9", 0.971)], trials=8, trial_seconds=60, studies=["other"]),
    )
    above, below = remarks_above(study), remarks_below(study)
    assert [line.split(" ")[0] for line in map(plain, above)] == ["1", "B"]  # failed runs, and a baseline
    assert sorted(above + below) == sorted(remarks(study))
    assert any("Left out" in line for line in below)
    assert "Tuning took" in plain("".join(below))
    void = trained_on(Swin=["a", "b"], ViT=["a"])
    assert remarks_above(void)[: len(objections(void))] == objections(void)


def test_a_study_of_recipes_says_that_it_is_one() -> None:
    study = declared(results(AHEAD), Difference("model.init_args.label_smoothing", {"Swin": 0.1, "ViT": 0.0}, True))
    (remark,) = remarks(study)
    assert remark.startswith("All variants have the same architecture; they differ, as declared, in label_smoothing")


def test_weights_from_elsewhere_and_the_compute_behind_them_are_named() -> None:
    compute = [
        Compute("runs/mae/seed-0", ["Swin"], taught=False, seconds=750, images=1_200_000),
        Compute("timm/resnet18", ["Swin", "ViT"], taught=True),
    ]
    study = results(AHEAD, context=Context(compute=compute, trials=12, trial_seconds=3600, trial_images=60_000))
    weights, trials = map(plain, remarks(study))
    assert "Swin from runs/mae/seed-0 (12:30 of training, 1,200,000 images); all variants taught by timm" in weights
    assert trials.startswith("Tuning took 12 more runs, 1:00:00 of training on 60,000 images.")


# ---- runs


def failed(variant: str, *failing: int, why: str = "exit status 1: boom") -> list[Outcome]:
    return [Outcome(Run(variant, seed, {}, Path("x")), why) for seed in failing]


def test_failures_are_named_with_the_mean_that_they_would_give() -> None:
    study = results(AHEAD, failures=failed("ViT", 6, 7))
    assert objections(study) == []
    first, second = map(plain, remarks(study))
    assert first.startswith("2 of 14 runs failed and are excluded from all averages (ViT, seed 6: exit status 1: boom;")
    # Three classes: (6 · 90.03 + 2 · 33.33) / 8
    assert second == "ViT failed in 2 of 8 seeds; counted as chance (33 %), its mean would be 75.9 % instead of 90.0 %."


def test_a_variant_whose_survivors_lead_is_not_better() -> None:
    study = results(AHEAD, failures=failed("Swin", 6))
    (objection,) = objections(study)
    assert "its mean would be 86.2 % instead of 95.0 %, so its lead is that of selected runs." in plain(objection)
    assert len(remarks(study)) == 2  # the objection is not repeated
    equal = results({"A": AHEAD["Swin"], "B": AHEAD["Swin"]}, failures=failed("A", 6))
    assert objections(equal) == []  # nobody leads


def test_runs_that_are_not_finished_yet_are_no_failures() -> None:
    study = results(AHEAD, failures=failed("Swin", 6, why=UNFINISHED))
    assert objections(study) == []
    assert len(remarks(study)) == 1


def test_finished_runs_that_the_study_leaves_out_are_named() -> None:
    study = results(AHEAD, context=Context(left_out=[("ViT, seed 9", 0.971), ("old, seed 1", None)]))
    (remark,) = remarks(study)
    assert "not in this comparison (ViT, seed 9: 97.1 %; old, seed 1: no score)." in plain(remark)


def test_runs_that_ended_early_are_named() -> None:
    assert remarks(summaries(Swin={"epochs": 2}, ViT={"epochs": 2})) == []
    (remark,) = map(plain, remarks(summaries(ViT={"epochs": 1})))
    assert remark.startswith("ViT trained 1 epoch instead of 2 (seed 0, 1, 2, 3, 4 and 5): something ended")


def test_unequal_numbers_of_training_images_are_named() -> None:
    (remark,) = remarks(summaries(ViT={"images_seen": 2100}))
    assert remark == "The runs did not see equally many training images: Swin 2,000; ViT 2,100."
    # A budget of FLOPs gives variants unequal numbers of images, but all runs of a variant the same.
    assert remarks(summaries(Budget(flops=1e9), ViT={"images_seen": 2100})) == []


def test_averaged_weights_that_are_clearly_better_are_named() -> None:
    def averaged(run: RunResult) -> RunResult:
        own, right_class = run.predictions, np.eye(3)[run.predictions.labels] == 1
        better = np.log(np.where(right_class, 0.9, 0.05)).astype(np.float32)
        averages = better if run.run.variant == "ViT" else own.logits
        return dataclasses.replace(run, predictions=Predictions(own.images, own.labels, own.logits, averages))

    (remark,) = remarks(each(results(AHEAD), averaged))
    assert plain(remark).startswith("ViT is ranked by its last weights (90.0 %); the averages of its weights are")


# ---- code and environment


def test_an_environment_of_one_variant_alone_makes_the_comparison_void() -> None:
    old, new = {"torch": "2.14", "command": "a"}, {"torch": "2.15", "command": "b"}
    (objection,) = objections(environments(Swin=old, ViT=new))
    assert "(torch: Swin 2.14; ViT 2.15)" in objection
    assert remarks(environments(Swin=old, ViT=new)) == [objection]
    partly = environments(Swin=old, ViT=[old, new])  # as of a variant that a growing study gave up before an update
    assert objections(partly) == []
    (remark,) = remarks(partly)
    assert remark == (
        "The runs come from different environments (torch: 2.14, 2.15). Variants are compared within kinds of machines."
    )


def test_classes_of_machines_are_told_apart_by_all_that_differs_between_them() -> None:
    # Each version and each device trained both variants, but no machine did.
    old = [{"torch": "2.14", "device": "A100"}, {"torch": "2.15", "device": "H100"}]
    new = [{"torch": "2.15", "device": "A100"}, {"torch": "2.14", "device": "H100"}]
    (objection,) = objections(environments(Swin=old, ViT=new))
    assert objection.startswith("On several machines, Swin ran in torch 2.14, device A100 and torch 2.15, device H100")
    assert objection.endswith("they share no block, and the lead may come from there.")


def test_other_code_is_another_environment_and_another_commit_of_the_same_code_is_not() -> None:
    same = environments(Swin={"git": "1", "code": "a"}, ViT={"git": "2-dirty", "code": "a"})
    assert remarks(same) == []
    (objection,) = objections(environments(Swin={"git": "1-dirty", "code": "a"}, ViT={"git": "1-dirty", "code": "b"}))
    assert "(code: Swin a; ViT b)" in objection


def test_a_precision_that_the_study_sets_is_no_environment() -> None:
    study = environments(Swin={"precision": "bf16-mixed"}, ViT={"precision": "32-true"})
    assert len(objections(study)) == 1
    precision = Difference("trainer.precision", {"Swin": "bf16-mixed", "ViT": None}, declared=True)
    assert objections(declared(study, ARCHITECTURE, precision)) == []


def trained_on(**digests: list[str]) -> StudyResults:
    """Return the clear lead with a hash of the training images for each variant and seed, in turn."""

    def change(run: RunResult) -> RunResult:
        own = digests[run.run.variant]
        return dataclasses.replace(run, data={"splits": {"train": {"digest": own[run.run.seed % len(own)]}}})

    return each(results(AHEAD), change)


def test_training_images_that_changed_between_runs_make_the_comparison_void() -> None:
    assert remarks(trained_on(Swin=["a"], ViT=["a"])) == []
    assert remarks(trained_on(Swin=["a"], ViT=[""])) == []  # of an older version
    (objection,) = objections(trained_on(Swin=["a", "b"], ViT=["a"]))
    assert "(hash a: seed 0, 2 and 4; hash b: seed 1, 3 and 5)" in objection
    assert "Remove the run directories of one hash" in objection
    study = trained_on(Swin=["a", "b"], ViT=["a", "b"])
    assert verdict(study).startswith("Not comparable: The runs of Swin were trained on different images")
    drawn = dataclasses.replace(study.study, vary=("init", "order", "augmentation", "images"))
    assert objections(dataclasses.replace(study, study=drawn)) == []
    (objection,) = objections(trained_on(Swin=["b"], ViT=["a"]))
    assert "(training images: Swin b; ViT a)" in objection
    root = Difference("data.init_args.root", {"Swin": "x", "ViT": "y"}, declared=True)
    assert objections(declared(trained_on(Swin=["b"], ViT=["a"]), ARCHITECTURE, root)) == []


def test_runs_of_one_variant_with_other_code_make_the_comparison_void() -> None:
    first, second = ({"sources": {"mine.Shifted": {"file": "mine.py", "hash": value}}} for value in ("1a", "2b"))
    (objection,) = objections(environments(Swin=[first, first, second], ViT={}))
    assert "differ in code, mine.Shifted (hash 1a: seed 0, 1, 3 and 4; hash 2b: seed 2 and 5)." in objection
    assert objections(environments(Swin=[first, {}], ViT={})) == []  # an older run recorded no code
    assert objections(environments(Swin=first, ViT=second)) == []


def test_folds_of_one_variant_with_other_code_make_the_comparison_void() -> None:
    study = results(AHEAD)
    code = [{"sources": {"mine.Shifted": {"file": "mine.py", "hash": value}}} for value in ("1a", "2b")]
    parts = [dataclasses.replace(study.finished[0], environment=each) for each in code]
    joined = [dataclasses.replace(study.finished[0], parts=tuple(parts)), *study.finished[1:]]
    (objection,) = objections(dataclasses.replace(study, finished=joined))
    assert objection == "The runs of Swin differ in code, mine.Shifted (hash 1a: seed 0; hash 2b: seed 0)."


def test_runs_of_one_variant_with_other_weights_make_the_comparison_void() -> None:
    first, second = ({"weights": {"model.init_args.init_from": {"path": "a", "hash": h}}} for h in ("1a", "2b"))
    (objection,) = objections(environments(Swin=[first, second], ViT={}))
    assert objection.startswith("The runs of Swin differ in weights, model.init_args.init_from (hash 1a: seed 0")


def test_a_class_of_the_users_own_is_named_with_its_file_and_hash() -> None:
    recorded = {"sources": {"mine.Shifted": {"file": "/home/mine.py", "hash": "1a2b"}}}
    study = environments(Swin=recorded, ViT={})

    def own(run: RunResult) -> RunResult:
        backbone = {"class_path": "mine.Shifted" if run.run.variant == "Swin" else "vitlab.models.VisionTransformer"}
        config = run.run.config | {"model": {"init_args": {"backbone": backbone}}}
        return dataclasses.replace(run, run=dataclasses.replace(run.run, config=config))

    (remark,) = remarks(each(study, own))
    assert remark.startswith("Swin uses a class of your own: mine.Shifted (/home/mine.py, hash 1a2b).")
    (unknown,) = remarks(each(environments(Swin={}, ViT={}), own))
    assert "mine.Shifted (its code was not recorded)" in unknown


def test_a_model_that_does_more_at_test_time_than_in_training_is_named() -> None:
    averaging, other = {"flops": 300, "train_forward_flops": 100}, {"flops": 300, "train_forward_flops": 300}
    (remark,) = remarks(costing(results(AHEAD), ViT=averaging, Swin=other))
    assert remark == "A forward pass of ViT takes 3.0 times as many FLOPs at test as in training."


def test_a_run_that_continued_with_other_code_is_named() -> None:
    study = environments(Swin=[{}, {}, {}, {}, {}, {"changed": ["git", "sources"]}], ViT={})
    assert remarks(study) == ["Swin, seed 5 was continued after git and sources had changed."]


# ---- images


def test_other_studies_on_the_same_test_images_are_named() -> None:
    (remark,) = remarks(results(AHEAD, context=Context(studies=["first-try", "second-try"])))
    assert remark.startswith("2 other studies in this folder used the same test images (first-try, second-try);")


# ---- splits and baselines


def test_tests_on_the_validation_images_are_told() -> None:
    study = results(AHEAD)
    assert remarks(study) == []
    study.finished[0].data["test_is_validation"] = True
    (remark,) = remarks(study)
    assert plain(remark).startswith("The 1,000 test images are also the validation images: best.ckpt and every tuned")
    assert "1,000 test images (the validation images) of 3 classes" in plain(page._summary(study)[0])


def test_variants_whose_lead_over_a_baseline_can_be_chance_are_named() -> None:
    (remark,) = remarks(results({"A": seeds([0.9, 0.91]), "B": seeds([0.52, 0.51])}))
    assert plain(remark) == "B (51.5 %) does not beat k-NN on raw pixels (50.0 %) beyond chance."
    (remark,) = remarks(results({"A": seeds([0.52]), "B": seeds([0.45])}))
    assert plain(remark) == "No variant beats k-NN on raw pixels (50.0 %) beyond chance: A 52.0, B 45.0."


def test_a_baseline_has_a_sampling_error_too_and_a_variant_that_of_its_seeds() -> None:
    # Over images alone, 1.96 √(.25 / 1,000 + .25 / test_images): ± 4.4 points if k-NN saw 1,000 images, ± 10 if 100.
    study = results({"A": seeds([0.56, 0.56]), "B": seeds([0.56, 0.56], 9)})
    for images, lines in ((1000, 0), (100, 1)):
        measured = dataclasses.replace(study.baselines, test_images=images)
        assert len(remarks(dataclasses.replace(study, baselines=measured))) == lines
    # Seeds that spread by 10 points: Student's t.
    assert "A (56.0 %)" in plain(remarks(results({"A": seeds([0.46, 0.66]), "B": seeds([0.9, 0.9])}))[-1])
