"""Optimizers that are not of this package, named by their class in YAML."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from vitlab.commands.dispatch import run
from vitlab.objectives import Objective
from vitlab.optim import AnyOptimizer


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_what_the_groups_set_is_no_argument(name: str) -> None:
    with pytest.raises(ValueError, match=f"arguments has {name}; give it beside `arguments`"):
        AnyOptimizer(1e-3, optimizer=torch.optim.NAdam, arguments={name: 0.1})


@pytest.mark.parametrize(
    ("name", "arguments"), [("timm.optim.Lamb", {"betas": [0.9, 0.99]}), ("timm.optim.Muon", {"momentum": 0.9})]
)
def test_timms_optimizers_train_and_their_run_is_built_again(
    name: str, arguments: dict[str, object], tiny: Callable[..., Path]
) -> None:
    """With layer decay in the groups' own rates, and with what the configuration stores."""
    settings = {"lr": 1e-3, "weight_decay": 0.1, "layer_decay": 0.5, "optimizer": name, "arguments": arguments}
    optimizer = {"class_path": "vitlab.optim.AnyOptimizer", "init_args": settings}
    trainer = {"limit_train_batches": 2, "limit_val_batches": 1}
    path = tiny({"model": {"init_args": {"optimizer": optimizer}}, "trainer": trainer})
    assert run("fit", ["--config", str(path), "--run.test", "false"]) == 0
    last = Path("runs/tiny/seed-0/checkpoints/last.ckpt")
    state = torch.load(last, weights_only=True)
    rates = {group["initial_lr"] for group in state["optimizer_states"][0]["param_groups"]}
    assert rates == {1e-3, 5e-4, 2.5e-4, 1.25e-4}
    assert all(value.isfinite().all() for value in state["state_dict"].values())
    stored = yaml.safe_load(Path("runs/tiny/seed-0/config.yaml").read_text())["model"]["init_args"]["optimizer"]
    assert stored["init_args"]["arguments"] == arguments
    built = Objective.load_from_checkpoint(last).optimizer  # type: ignore[type-abstract]
    assert built.optimizer.__name__ == name.rpartition(".")[2]  # type: ignore[attr-defined]
