"""The example of an objective, copied into a package: trained, continued, probed, exported and fine-tuned."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torchvision.ops import sigmoid_focal_loss

from tests.objectives.small import CROPS
from vitlab.commands.dispatch import run
from vitlab.experiment.experiment import Experiment
from vitlab.objectives import Objective


@pytest.fixture
def toy(write_toy: Callable[[str], str]) -> str:
    return write_toy("objective")


@pytest.mark.slow(edge=True)
def test_the_objective_is_a_complete_file(
    toy: str, tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything that comes after training takes the teacher, which the checkpoint names."""
    assert len(toy.splitlines()) <= 40
    short = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 0, "limit_test_batches": 1}
    changes = {"data": {"init_args": {"multi_crop": CROPS}}, "trainer": short}
    path = str(tiny(changes | {"model": {"class_path": "mine.objective.BYOL"}}, "byol"))
    assert run("fit", ["--config", path]) == 0
    directory = Path("runs/longer/seed-0")
    more = ["--ckpt_path", "runs/byol/seed-0/checkpoints/last.ckpt", "--run.name", "longer"]
    assert run("fit", ["--config", path, "--trainer.max_epochs", "2", *more]) == 0
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["steps"] == 4
    assert summary["metrics"]["train/loss"] < 4
    assert not (directory / "checkpoints" / "best.ckpt").exists()  # a moving teacher's losses do not compare

    checkpoint = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)
    prefix = checkpoint["vitlab_encoder"]
    assert prefix == "teacher.module.backbone."
    state = checkpoint["state_dict"]
    teacher = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
    assert not torch.equal(teacher["blocks.0.mlp.fc1.weight"], state["backbone.blocks.0.mlp.fc1.weight"])
    objective = Objective.load_from_checkpoint(directory / "checkpoints" / "last.ckpt")  # type: ignore[type-abstract]
    assert all(torch.equal(value, teacher[name]) for name, value in objective.encoder.state_dict().items())

    config = str(directory / "config.yaml")
    assert run("probe", ["--config", config]) == 0
    assert run("export", ["--config", config, "--format", "safetensors"]) == 0
    exported = load_file(directory / "export" / "model.safetensors")
    assert exported.keys() == teacher.keys()
    assert all(torch.equal(exported[name], teacher[name]) for name in teacher)

    still = {"optimizer": {"init_args": {"lr": 1e-12, "weight_decay": 0.0}}, "init_from": str(directory)}
    capsys.readouterr()
    tuned = str(tiny({"model": {"init_args": still}, "trainer": short | {"limit_train_batches": 1}}, "tuned"))
    assert run("fit", ["--config", tuned]) == 0
    assert f"{prefix}*" in capsys.readouterr().err
    weights = torch.load("runs/tuned/seed-0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(weights["backbone.blocks.0.mlp.fc1.weight"], teacher["blocks.0.mlp.fc1.weight"])
    for command in ("test", "validate"):
        assert run(command, ["--config", config]) == 2
        assert len(capsys.readouterr().err.partition("error: ")[2].splitlines()) <= 2


def test_the_loss_on_labels_trains_and_is_tested(
    write_toy: Callable[[str], str], tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its oracle is torchvision's focal loss: with the logits 0 and x, a softmax is the sigmoid of x."""
    assert len(write_toy("labeled").splitlines()) <= 60
    short = {"max_epochs": 1, "limit_train_batches": 2}
    changes = {"trainer": short, "model": {"class_path": "mine.labeled.Focal", "init_args": {"gamma": 1.5}}}
    assert run("fit", ["--config", str(tiny(changes, "focal"))]) == 0
    metrics = json.loads(Path("runs/focal/seed-0/summary.json").read_text())["metrics"]
    assert {"test/top1", "test/ece", "val/loss"} <= metrics.keys()

    objective = Experiment("runs/focal/seed-0").objective
    x, labels = torch.randn(6), torch.tensor([0, 1, 1, 0, 1, 0])
    monkeypatch.setattr(objective.backbone, "forward", lambda images: torch.stack([torch.zeros(6), x], dim=1))
    expected = sigmoid_focal_loss(x, labels.float(), alpha=-1, gamma=1.5, reduction="mean")
    torch.testing.assert_close(objective.loss([torch.zeros(6, 1, 8, 8)], labels), expected)
