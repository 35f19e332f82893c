"""Cheats on a whole study, from its YAML to the remark in its report; and what kind of setting a key is."""

import json
from collections.abc import Callable
from pathlib import Path

import fake_vitlab
import numpy as np
import pytest
import yaml
from fake_study import FAKE_PROGRAM, Digits, variant

from vitlab.config import weights_of
from vitlab.studies.compare import compare, results_of
from vitlab.studies.file.fairness import kind_of, matters, name_of, own_classes
from vitlab.studies.file.runs import Run, plan
from vitlab.studies.file.study import read_study
from vitlab.studies.report.verdict import objections, remarks
from vitlab.studies.training.tuning import plan_tuning

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("model.init_args.backbone.class_path", "architecture"),
        ("model.init_args.backbone.init_args.init_values", "architecture"),
        ("model.init_args.backbone.init_args.drop_path_rate", "regularization"),
        ("model.init_args.backbone.init_args.init", "regularization"),
        ("model.init_args.backbone.init_args.model_kwargs.drop_block_rate", "regularization"),
        ("model.init_args.label_smoothing", "regularization"),
        ("data.init_args.mixup.init_args.alpha", "regularization"),
        ("data.init_args.augment.shift", "regularization"),
        ("model.init_args.backbone.init_args.img_size", "data"),
        ("data.class_path", "data"),
        ("model.init_args.backbone.init_args.pretrained", "weights"),
        ("model.init_args.init_from", "weights"),
        ("model.init_args.teacher.weights", "weights"),
        ("model.class_path", "recipe"),
        ("model.init_args.optimizer.init_args.lr", "recipe"),
        ("data.init_args.batch_size", "recipe"),
        ("trainer.gradient_clip_val", "recipe"),
        ("trainer.precision", "trainer"),
        ("run.not_finite", "trainer"),
        ("model.init_args.backbone.init_args.grad_checkpointing", "trainer"),
    ],
)
def test_each_setting_has_a_kind(key: str, kind: str) -> None:
    assert kind_of(key) == kind


def test_settings_are_named_as_users_know_them() -> None:
    assert name_of("model.init_args.optimizer.class_path") == "optimizer"
    assert name_of("model.init_args.teacher.model.init_args.name") == "teacher"
    assert name_of("data.init_args.batch_size") == "batch_size"


def test_an_argument_that_is_off_differs_not_from_a_class_that_lacks_it() -> None:
    key = "model.init_args.backbone.init_args.pos_drop_rate"
    assert not matters(key, {"ViT": 0.0, "Swin": "(absent)"})
    assert matters(key, {"ViT": 0.1, "Swin": "(absent)"})
    assert not matters("model.init_args.backbone.init_args.pretrained", {"ViT": "(absent)", "ResNet": False})
    assert matters("model.init_args.backbone.init_args.pretrained", {"ViT": "(absent)", "ResNet": True})
    assert not matters("data.init_args.num_workers", {"ViT": 0, "Swin": 4})
    assert matters("run.compile", {"ViT": False, "Swin": True})
    checkpointing = "model.init_args.backbone.init_args.grad_checkpointing"
    assert not matters(checkpointing, {"ViT": False, "ResNet": "(absent)"})
    assert matters(checkpointing, {"ViT": True, "ResNet": "(absent)"})


def test_weights_and_own_classes_are_found_wherever_they_are() -> None:
    timm = {"class_path": "vitlab.models.TimmModel", "init_args": {"name": "resnet18", "pretrained": True}}
    teacher = {"weights": "runs/teacher/seed-0", "model": None}
    config = {"model": {"init_args": {"backbone": timm, "teacher": teacher, "init_from": None}}}
    assert list(weights_of(config).values()) == ["timm/resnet18", "runs/teacher/seed-0"]

    config = {"trainer": {"callbacks": [{"class_path": "mine.Average"}]}, "model": {"block": "mine.Block"}}
    assert own_classes(config) == ["mine.Average"]
    assert own_classes(config, recorded=["mine.Block"]) == ["mine.Average", "mine.Block"]
    assert own_classes({"class_path": "lightning.pytorch.callbacks.EarlyStopping"}) == []


# ---- whole studies


def train(study: Path, root: Path) -> None:
    """Write the run directories of a study, as its runs would."""
    described = read_study(study)
    tuning = plan_tuning(described, root, {}).values()
    trials = [run for candidates in tuning for runs in candidates for run in runs]
    for run in [*trials, *plan(described, root)]:
        fake_vitlab.fit(run.config, overwrite=False)


def remarks_on(study: Path, root: Path) -> list[str]:
    """Return the remarks on a study whose runs are finished, or are written now."""
    train(study, root)
    results, _ = results_of(study, root)
    return [line.replace("\u00a0", " ") for line in remarks(results)]


def test_seeds_and_variants_that_are_dropped_leave_a_trace(write_study: Write, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    assert not [line for line in remarks_on(write_study(), root) if "Left out" in line]
    two = {"ViT": variant(0.94, size=1.0), "Swin": variant(0.965, size=1.6)}
    (line,) = (line for line in remarks_on(write_study(seeds=[1, 3], variants=two), root) if "Left out" in line)
    start = "Left out: 5 finished runs in the study's folder are not in this comparison (Swin, seed 2: 9"
    assert line.startswith(start)
    for name in ("swin-v2, seed 1: 9", "swin-v2, seed 2: 9", "swin-v2, seed 3: 9", "ViT, seed 2: 9"):
        assert name in line


def test_a_recipe_that_differs_is_never_silent(write_study: Write, tmp_path: Path) -> None:
    swin = variant(0.97) | {"data": {"init_args": {"batch_size": 16}}, "run": {"not_finite": "skip", "compile": True}}
    swin["model"]["init_args"]["label_smoothing"] = 0.2
    variants = {"ViT": variant(0.9), "Swin": swin}
    (undeclared,) = objections_to(write_study(variants=variants), tmp_path / "a")
    assert undeclared == (
        "Not a pure architecture comparison: label smoothing, batch size, not finite and compile differ too, and the "
        "study does not declare it."
    )
    study = write_study(variants=variants, may_differ=["model", "data", "run"])
    assert objections_to(study, tmp_path / "b") == []
    (declared,) = (line for line in remarks_on(study, tmp_path / "b") if line.startswith("Declared"))
    assert declared == (
        "Declared, but not architecture: batch_size (recipe); label_smoothing (regularization); not_finite, compile "
        "(trainer). The differences are not the architectures' alone."
    )


def objections_to(study: Path, root: Path) -> list[str]:
    train(study, root)
    return objections(results_of(study, root)[0])


def test_variants_that_differ_in_what_a_run_does_are_two_experiments(write_study: Write, tmp_path: Path) -> None:
    compiled = {"ViT": variant(0.9), "compiled": variant(0.9) | {"run": {"compile": True}}}
    assert len(plan(read_study(write_study(variants=compiled, may_differ=["run.compile"])), tmp_path)) == 6


def test_a_run_directory_with_another_not_finite_is_not_refused(write_study: Write, tmp_path: Path) -> None:
    train(write_study(seeds=[1, 2]), tmp_path)
    base = yaml.safe_load((tmp_path / "base.yaml").read_text())
    study = write_study(seeds=[1, 2])
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base | {"run": {"not_finite": "skip", "compile": True}}))
    results, _ = results_of(study, tmp_path)
    assert len(results.finished) == 6


def test_tuning_runs_and_weights_to_start_from_are_counted(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    earlier = tmp_path / "runs" / "mae" / "seed-0"
    earlier.mkdir(parents=True)
    (earlier / "summary.json").write_text(json.dumps({"seconds": 750.0, "images_seen": 1_200_000}))
    started = variant(0.97, best_lr=0.2)
    started["model"]["init_args"]["init_from"] = "runs/mae/seed-0"
    lines = remarks_on(
        write_study(
            variants={"ViT": variant(0.94, best_lr=0.2), "Swin": started},
            seeds=[1, 2],
            may_differ=["model.init_args.backbone", "model.init_args.init_from"],
            tune={"space": {"model.init_args.lr": [0.1, 0.2]}, "within": "study", "seeds": [5]},
        ),
        tmp_path / "runs",
    )
    text = "\n".join(lines)
    assert "Declared, but not architecture: init_from (weights)." in text
    assert "Weights from elsewhere: Swin from runs/mae/seed-0 (12:30 of training, 1,200,000 images)." in text
    assert "Tuning took 4 more runs, 2:20 of training on 4,000 images." in text


def test_another_study_on_the_same_test_images_is_named(write_study: Write, tmp_path: Path) -> None:
    train(write_study(name="First try", seeds=[1, 2]), tmp_path)
    line = remarks_on(write_study(), tmp_path)[-1]
    assert line.startswith("Another study in this folder used the same test images (first-try);")


def test_the_report_shows_copies_of_training_images_and_prints_them_first(
    write_study: Write, tmp_path: Path, no_figures: None, digits: Digits, caplog: pytest.LogCaptureFixture
) -> None:
    splits = dict(digits.splits)
    caplog.set_level("INFO", "vitlab")
    try:
        digits.splits["test"] = splits["test"].copy()
        digits.splits["test"][:4] = splits["train"][:4]
        study = write_study(seeds=[1, 2])
        train(study, tmp_path)
        report = compare(study, tmp_path, program=FAKE_PROGRAM)
    finally:
        digits.splits |= splits
    line = "in the train split too, byte for byte, which inflates accuracy: 4 of 597 (test/00000 = "
    assert line in report.read_text().replace("\u00a0", " ")
    assert line in caplog.text.replace("\u00a0", " ")


def test_copies_in_the_data_of_one_variant_alone_are_found(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def images_of(run: Run) -> Digits:
        digits = Digits()
        if run.variant == "Swin":
            digits.splits["train"] = np.concatenate([digits.splits["train"], digits.splits["test"][:7]])
        return digits

    monkeypatch.setattr("vitlab.studies.compare.images_of", images_of)
    more = variant(0.965) | {"data": {"init_args": {"root": "more"}}}
    study = write_study(variants={"ViT": variant(0.94), "Swin": more}, may_differ=["model", "data"], seeds=[1, 2])
    text = "\n".join(remarks_on(study, tmp_path))
    assert "in the train split too, byte for byte, which inflates accuracy: 7 of 597" in text.replace("\u00a0", " ")
    assert "Declared, but not architecture: root (data)" in text
