"""From one run to the next, through the command line: pre-training, fine-tuning from it, teacher and student."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from tests.conftest import TINY
from vitlab import Experiment
from vitlab.commands.dispatch import run
from vitlab.config import Config, merge
from vitlab.models import VisionTransformer
from vitlab.models.layers import sincos_table
from vitlab.models.weights import save_weights
from vitlab.objectives import Teacher

Write = Callable[..., Path]

VIT: Config = {
    "class_path": "vitlab.models.VisionTransformer",
    "init_args": {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2},
}
REGISTERS: Config = {**VIT, "init_args": {**VIT["init_args"], "reg_tokens": 2}}
NO_CLASS_TOKEN: Config = {
    **VIT,
    "init_args": {**VIT["init_args"], "class_token": False, "global_pool": "avg", "fc_norm": False},
}
STAGES: Config = {"patch_size": 1, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
SWIN: Config = {"class_path": "vitlab.models.SwinTransformer", "init_args": STAGES}
SWIN_V2: Config = {"class_path": "vitlab.models.SwinTransformerV2", "init_args": STAGES}
OPTIMIZATION: Config = {
    "optimizer": {"class_path": "vitlab.optim.AdamW", "init_args": {"lr": 1.0e-3}},
    "schedule": {"class_path": "vitlab.optim.WarmupCosine", "init_args": {"warmup_epochs": 0.5}},
}
TWO_STEPS: Config = {"trainer": {"limit_train_batches": 2, "limit_val_batches": 2, "limit_test_batches": 1}}
DECODER: Config = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}


def objective(name: str, backbone: Config, **arguments: object) -> Config:
    return {"class_path": f"vitlab.objectives.{name}", "init_args": {"backbone": backbone, **OPTIMIZATION, **arguments}}


PRETRAININGS: dict[str, tuple[Config, Config]] = {  # what is trained, and the backbone to fine-tune
    "simmim_vit": (objective("SimMIM", VIT, mask_patch_size=2), VIT),
    "simmim_swin": (objective("SimMIM", SWIN, mask_patch_size=2), SWIN),
    "simmim_swin_v2": (objective("SimMIM", SWIN_V2, mask_patch_size=2, norm_targets=5), SWIN_V2),
    "mae_vit": (objective("MAE", VIT, **DECODER), VIT),
    "mae_registers": (objective("MAE", REGISTERS, **DECODER, released_init=True), REGISTERS),
    "mae_no_class_token": (objective("MAE", NO_CLASS_TOKEN, **DECODER, released_init=True), NO_CLASS_TOKEN),
    "simmim_no_class_token": (objective("SimMIM", NO_CLASS_TOKEN, mask_patch_size=2), NO_CLASS_TOKEN),
    "mae_variant": (objective("MAE", VIT, **DECODER, loss_on="all", mask_tokens="encoder"), VIT),
}


def fit(*arguments: object) -> int:
    return run("fit", [str(argument) for argument in arguments])


def weights(name: str, root: str = "runs", checkpoint: str = "last") -> dict[str, torch.Tensor]:
    path = Path(root, name, "seed-0", "checkpoints", f"{checkpoint}.ckpt")
    return torch.load(path, weights_only=True)["state_dict"]


# ---- pre-training


@pytest.mark.slow
@pytest.mark.parametrize("name", PRETRAININGS)
def test_a_pretraining_runs_and_its_encoder_is_fine_tuned(
    name: str, tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    model, backbone = PRETRAININGS[name]
    assert fit("--config", tiny({"model": model, **TWO_STEPS}, name), "--run.checkpoint.best", "true") == 0
    pretrained = Path("runs", name, "seed-0")
    summary = json.loads((pretrained / "summary.json").read_text())
    assert "val/loss" in summary["metrics"]
    assert not [key for key in summary["metrics"] if "top1" in key or key.startswith("test")]
    assert not (pretrained / "predictions.parquet").exists()
    assert (pretrained / "checkpoints" / "best.ckpt").is_file()

    capsys.readouterr()
    supervised = objective("Supervised", backbone, init_from=str(pretrained))
    # Pre-trained on all images, fine-tuned on few. Without a step, the weights are those that were loaded.
    still: Config = {"trainer": {"max_epochs": 1, "limit_train_batches": 1, "limit_test_batches": 1}}
    supervised["init_args"]["optimizer"]["init_args"] = {"lr": 1.0e-12, "weight_decay": 0.0}
    few: Config = {"data": {"init_args": {"train_images": 80}}}
    assert fit("--config", tiny({"model": supervised, **still, **few}, "finetune")) == 0
    report = capsys.readouterr().err
    assert "not used: decoder" in report
    before, after = weights(name), weights("finetune")
    encoder = [key for key in after if key.startswith("backbone.") and ".head." not in key]
    assert len(encoder) > 20
    for key in encoder:
        torch.testing.assert_close(after[key], before[key], msg=key)


@pytest.mark.slow
def test_maes_encoder_is_fine_tuned_with_the_mean_of_its_tokens(
    tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """As published: the final norm of the pre-training is dropped, one after pooling starts afresh, and the positions,
    fixed until then, are trained."""
    model = objective("MAE", {**VIT, "init_args": VIT["init_args"] | {"fixed_pos_embed": True}}, **DECODER)
    fit("--config", tiny({"model": model, **TWO_STEPS}, "mae"))
    backbone = {**VIT, "init_args": VIT["init_args"] | {"global_pool": "avg"}}
    capsys.readouterr()
    supervised = objective("Supervised", backbone, init_from="runs/mae/seed-0")
    assert fit("--config", tiny({"model": supervised, **TWO_STEPS}, "finetune")) == 0
    report = capsys.readouterr().err
    assert "missing, left as initialized: fc_norm.weight, fc_norm.bias, head.weight, head.bias" in report
    assert "left over, not used: norm.weight, norm.bias" in report
    fixed, trained = (weights(name)["backbone.pos_embed"] for name in ("mae", "finetune"))
    assert torch.equal(fixed[0, 1:], sincos_table(16, 4, 4))
    assert not torch.equal(trained, fixed)
    torch.testing.assert_close(trained, fixed, atol=0.01, rtol=0)  # after two steps


@pytest.mark.slow
def test_a_run_starts_from_the_average_of_another_or_from_its_trained_weights(tiny: Write) -> None:
    averaged = objective("Supervised", VIT, ema={"decay": 0.9})
    averaged["init_args"]["optimizer"]["init_args"] = {"lr": 0.1}
    assert fit("--config", tiny({"model": averaged, **TWO_STEPS}, "averaged")) == 0
    still = objective("Supervised", VIT, init_from="runs/averaged/seed-0")
    still["init_args"]["optimizer"]["init_args"] = {"lr": 1.0e-12, "weight_decay": 0.0}
    for raw, part in ((False, "average.module."), (True, "backbone.")):
        path = tiny({"model": still, **TWO_STEPS}, f"raw-{raw}")
        assert fit("--config", path, "--model.init_raw", str(raw).lower(), "--run.test", "false") == 0
        started = weights(f"raw-{raw}")["backbone.blocks.0.mlp.fc1.weight"]
        before = weights("averaged")
        torch.testing.assert_close(started, before[f"{part}blocks.0.mlp.fc1.weight"])
        assert not torch.allclose(before["backbone.head.weight"], before["average.module.head.weight"])


def test_the_validation_loss_is_of_the_same_masks_after_every_epoch(tiny: Write) -> None:
    """With a learning rate of almost nothing, it stays what it is; the training loss, of new masks, does not."""
    model, _ = PRETRAININGS["mae_vit"]
    arguments = ["--model.optimizer.lr", "1e-12", "--model.optimizer.weight_decay", "0", "--trainer.max_epochs", "3"]
    assert fit("--config", tiny({"model": model, **TWO_STEPS}, "mae"), *arguments) == 0
    metrics = pd.read_csv("runs/mae/seed-0/metrics.csv")
    assert metrics["val/loss"].dropna().nunique() == 1
    assert metrics["train/loss"].dropna().nunique() == 3


def test_best_is_the_checkpoint_of_the_lowest_validation_loss(tiny: Write) -> None:
    model, _ = PRETRAININGS["simmim_vit"]
    # Soon worse than the start.
    arguments = ["--model.optimizer.lr", "0.3", "--trainer.max_epochs", "4", "--run.checkpoint.best", "true"]
    assert fit("--config", tiny({"model": model, **TWO_STEPS}, "simmim"), *arguments) == 0
    losses = pd.read_csv("runs/simmim/seed-0/metrics.csv")["val/loss"].dropna().tolist()
    checkpoint = torch.load("runs/simmim/seed-0/checkpoints/best.ckpt", weights_only=True)
    assert checkpoint["epoch"] == losses.index(min(losses))


@pytest.mark.slow
def test_a_pretraining_is_validated_and_not_tested(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = PRETRAININGS["mae_vit"]
    path = tiny({"model": model, **TWO_STEPS}, "mae")
    fit("--config", path)
    capsys.readouterr()
    assert run("test", ["--config", str(path)]) == 2
    assert "MAE learns no classes; `probe` measures its features" in capsys.readouterr().err
    assert run("validate", ["--config", str(path)]) == 0
    assert "val/loss" in capsys.readouterr().err


# ---- pairs that cannot work


def refused(path: Path, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert fit("--config", path, *arguments) == 2
    _, error, message = capsys.readouterr().err.partition("error: ")  # what precedes it is what classes replace
    assert error
    assert len(message.splitlines()) <= 5
    assert not Path("runs").exists()
    return message


def test_mae_refuses_a_swin_when_the_file_is_read(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(tiny({"model": objective("MAE", SWIN, **DECODER)}), capsys)
    assert "vitlab.models.SwinTransformer does not correspond to a subclass of VisionTransformer" in message
    message = refused(tiny({"model": objective("MAE", VIT, **DECODER)}), capsys, "--model.backbone", "SwinTransformer")
    assert "model.backbone: SwinTransformer is not of the class that is expected here" in message


# ---- teacher and student

DEIT: Config = {**VIT, "init_args": VIT["init_args"] | {"distilled": True}}
TEACHER: Config = {**VIT, "init_args": VIT["init_args"] | {"img_size": 8, "init": "vitlab.models.layers.fan_in"}}


def student(weights: Path | str | None, backbone: Config = DEIT, target: str = "HardTarget") -> Config:
    return objective(
        "Distillation",
        backbone,
        teacher={"model": TEACHER, "weights": weights and str(weights)},
        target={"class_path": f"vitlab.objectives.{target}"},
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a teacher until it is better than chance; return its run directory."""
    root = tmp_path_factory.mktemp("teacher")
    config = merge(TINY, {"model": objective("Supervised", TEACHER), "trainer": {"max_epochs": 3}})
    (root / "teacher.yaml").write_text(yaml.safe_dump(config))
    arguments = ["--run.root", root, "--run.test", "false", "--model.optimizer.lr", "0.005"]
    assert fit("--config", root / "teacher.yaml", *arguments) == 0
    return root / "teacher" / "seed-0"


@pytest.mark.slow
@pytest.mark.parametrize("target", ["HardTarget", "SoftTarget"])
@pytest.mark.parametrize("backbone", [DEIT, SWIN_V2], ids=["deit", "swin_v2"])
def test_a_student_learns_from_a_run(
    backbone: Config, target: str, teacher: Path, tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    model = student(teacher, backbone, target)
    model["init_args"]["ema"] = {"decay": 0.9}
    assert fit("--config", tiny({"model": model, **TWO_STEPS}, "student")) == 0
    assert "The teacher classifies " in capsys.readouterr().err
    assert not [key for key in weights("student") if "teacher" in key]
    metrics = json.loads(Path("runs/student/seed-0/summary.json").read_text())["metrics"]
    heads = {"val_class/top1", "val_distillation/top1", "val_prob/top1"}
    assert (heads <= set(metrics)) == (backbone is DEIT)
    assert {"val/top1", "val_ema/top1", "test/top1"} <= set(metrics)
    assert run("test", ["--config", "runs/student/seed-0/config.yaml"]) == 0  # the teacher is not needed any more


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    [
        {**VIT, "init_args": VIT["init_args"] | {"global_pool": "avg", "norm": "batch"}},
        DEIT,
        {**SWIN, "init_args": STAGES | {"shift": False, "position_bias": "absolute"}},
        {"class_path": "vitlab.models.resnet_micro_16"},
    ],
    ids=["vit", "deit", "swin", "resnet"],
)
def test_a_run_of_any_kind_teaches_by_its_name_alone(
    backbone: Config, tiny: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Teacher, "examine", lambda *args: None)  # two steps make no teacher
    assert fit("--config", tiny({"model": objective("Supervised", backbone), **TWO_STEPS}, "teacher")) == 0
    model = student("runs/teacher/seed-0")
    model["init_args"]["teacher"] = {"weights": "runs/teacher/seed-0"}
    assert fit("--config", tiny({"model": model, **TWO_STEPS}, "student")) == 0
    teacher, run = Teacher(weights="runs/teacher/seed-0"), Experiment.load("runs/teacher/seed-0")
    teacher.prepare(torch.device("cpu"), run.data.mean, run.data.std)
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(teacher(images), run.model.eval()(images))


def test_a_teachers_normalization_is_read_from_its_run(finished: Path) -> None:
    of_run = Teacher(weights=str(finished))
    of_run.prepare(torch.device("cpu"), (0.5,), (0.25,))
    pixels = torch.rand(2, 1, 8, 8)
    seen = (pixels - 0.5) / 0.25 * of_run.scale + of_run.shift
    torch.testing.assert_close(seen, (pixels - 0.305) / 0.376)  # that of the digits


def test_a_teacher_that_is_not_there_is_refused(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(tiny({"model": student("runs/teacher/seed-0")}), capsys)
    assert "teacher.weights: no weights at runs/teacher/seed-0" in message


def test_a_teacher_of_other_classes_is_refused(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny({"model": student(None)})
    message = refused(path, capsys, "--model.teacher.model.num_classes", "7")
    assert "model.teacher.model.num_classes is 7, but vitlab.data.Digits has num_classes 10" in message


def test_weights_of_a_teacher_of_other_classes_are_refused(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    save_weights(VisionTransformer(8, 2, 1, 7, embed_dim=16, depth=2, num_heads=2), "seven.safetensors")
    message = refused(tiny({"model": student("seven.safetensors")}), capsys)
    assert "has no head.weight, head.bias that fits 10 classes" in message
