"""Several processes: two that share a batch do what one does with all of it, for every objective.

All runs are made by the command line, those of two processes together in one start, and read by the tests.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from torch import nn

from tests.conftest import TINY
from tests.objectives.small import BACKBONES, CROPS, OBJECTIVES, RECIPE, crops
from vitlab.commands.dispatch import run
from vitlab.config import Config, load_yaml, merge
from vitlab.distributed import local_rows, places
from vitlab.models.layers import BatchNorm
from vitlab.objectives import LeJEPA, Objective

FIT_EACH = Path(__file__).parents[1] / "fit_each.py"

VIT: Config = {
    "class_path": "vitlab.models.VisionTransformer",
    "init_args": {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2, "init": "vitlab.models.layers.fan_in"},
}
DROPPED: Config = {**VIT, "init_args": VIT["init_args"] | {"drop_path_rate": 0.5, "patch_drop_rate": 0.3}}
DEIT: Config = {**VIT, "init_args": VIT["init_args"] | {"distilled": True}}
SWIN_V2: Config = {
    "class_path": "vitlab.models.SwinTransformerV2",
    "init_args": {
        "patch_size": 1,
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 4,
        "drop_path_rate": 0.0,
    },
}
TEACHER: Config = {"model": {**VIT, "init_args": VIT["init_args"] | {"img_size": 8}}, "weights": "runs/teacher/seed-0"}
# Some gradients are 0 but for rounding (a bias of all keys changes no attention), and AdamW makes steps of any gradient
# that is above its ε.
OPTIMIZATION: Config = {
    "optimizer": {"class_path": "vitlab.optim.AdamW", "init_args": {"lr": 1.0e-3, "eps": 1.0e-5}},
    "schedule": {"class_path": "vitlab.optim.WarmupCosine", "init_args": {"warmup_epochs": 0.5}},
}
MUON: Config = {"class_path": "vitlab.optim.Muon", "init_args": {"lr": 1.0e-3, "eps": 1.0e-5}}


def experiment(objective: str, backbone: Config, data: Config | None = None, **arguments: object) -> Config:
    model = {
        "class_path": f"vitlab.objectives.{objective}",
        "init_args": {"backbone": backbone, **OPTIMIZATION, **arguments},
    }
    # 239 images to validate on and 599 to test on, which two cannot share evenly; 959 to train on, 14 batches of 64 and
    # 29 of 32, one of which is not accumulated with another.
    changes = {
        "model": model,
        "data": {"init_args": {"val_fraction": 0.2, **(data or {})}},
        "trainer": {"max_epochs": 2},
    }
    return merge(TINY, changes)


def student(backbone: Config, target: str, **data: object) -> Config:
    return experiment(
        "Distillation", backbone, dict(data), teacher=TEACHER, target={"class_path": f"vitlab.objectives.{target}"}
    )


# LeJEPA's batch norms enlarge differences of rounding: below, in float64.
EXPERIMENTS: dict[str, Config] = {
    "supervised": experiment("Supervised", VIT, {"mixup": {}}, label_smoothing=0.1, ema={"decay": 0.9}),
    "groups": experiment("Supervised", DROPPED, {"mixup": {"group": 12}}),
    "unmixed": experiment("Supervised", VIT),
    "muon": experiment("Supervised", VIT, optimizer=MUON),
    "soft": student(SWIN_V2, "SoftTarget", mixup={}),
    "hard": student(DEIT, "HardTarget"),
    "simmim": experiment("SimMIM", SWIN_V2, mask_patch_size=2),
    "mae": experiment("MAE", VIT, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2),
    "um_mae": experiment(
        "UMMAE", SWIN_V2, mask_patch_size=2, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2
    ),
    "dino": experiment("DINO", VIT, {"multi_crop": CROPS}, out_dim=24, hidden_dim=32, bottleneck_dim=16),
    "ibot": experiment("IBOT", VIT, {"multi_crop": CROPS}, out_dim=24, hidden_dim=32, bottleneck_dim=16),
    "esvit": experiment("EsViT", SWIN_V2, {"multi_crop": CROPS}, out_dim=24, hidden_dim=32, bottleneck_dim=16),
    "data2vec": experiment("Data2Vec", VIT, min_mask_patches=1, target_layers=1),
    "msn": experiment(
        "MSN", VIT, {"multi_crop": CROPS}, num_prototypes=6, hidden_dim=32, output_dim=16, mask_per_image=True
    ),
}
CLASSIFIERS = ("supervised", "unmixed", "soft", "hard")
TWO: Config = {"devices": 2, "strategy": "ddp"}


def write(root: str, name: str, batch_size: int, trainer: Config) -> str:
    path = Path(f"{root}-{name}.yaml")
    changes = {"run": {"root": root, "name": name}, "data": {"init_args": {"batch_size": batch_size}}}
    path.write_text(yaml.safe_dump(merge(EXPERIMENTS[name], changes | {"trainer": trainer})))
    return str(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train each experiment in one process with batches of 64 and in two with 32 each, one also by accumulation."""
    folder = tmp_path_factory.mktemp("processes")
    teacher = experiment("Supervised", TEACHER["model"], {"batch_size": 32})
    teacher["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 0.005
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("teacher.yaml").write_text(yaml.safe_dump(teacher))
        one = [write("one", name, 64, {}) for name in EXPERIMENTS]
        accumulated = write("accumulated", "unmixed", 32, {"accumulate_grad_batches": 2})
        for path in ("teacher.yaml", *one, accumulated):
            assert run("fit", ["--config", path]) == 0
        two = [write("two", name, 32, TWO) for name in EXPERIMENTS]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        subprocess.run([*torchrun, FIT_EACH, *two], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder


def metrics(run: Path) -> pd.DataFrame:
    """Return what was logged, without what was timed."""
    return pd.read_csv(run / "metrics.csv").drop(columns=["images_per_second", "data_wait", "tflops"])


def state(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_two_processes_train_as_one_with_the_same_global_batch(name: str, runs: Path) -> None:
    """Mixed images and λ, masks, crops, dropped branches, center, Sinkhorn, averages: none is of one process alone."""
    one, two = (runs / root / name / "seed-0" for root in ("one", "two"))
    trained = ["epoch", *(column for column in metrics(one) if column.startswith("train/"))]
    pd.testing.assert_frame_equal(metrics(two)[trained], metrics(one)[trained], rtol=1e-5)
    weights, expected = state(two)["state_dict"], state(one)["state_dict"]
    for key, value in expected.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-4, atol=5e-5, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_two_processes_evaluate_each_image_once(name: str, runs: Path) -> None:
    """239 and 599 images are odd numbers; with images counted twice, or means of means, no figure would agree."""
    one, two = (runs / root / name / "seed-0" for root in ("one", "two"))
    evaluated = [column for column in metrics(one) if column.startswith(("val", "test")) and "ece" not in column]
    pd.testing.assert_frame_equal(metrics(two)[evaluated], metrics(one)[evaluated], rtol=1e-5)
    predictions = [pd.read_parquet(run / "predictions.parquet") for run in (two, one)]
    pd.testing.assert_frame_equal(*(p[["image", "label"]] for p in predictions))
    np.testing.assert_allclose(*(np.stack(p.logits) for p in predictions), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_steps_rates_and_loss_do_not_depend_on_how_a_batch_is_factored(runs: Path) -> None:
    """64 = 2 processes × 32 = 32 accumulated twice; 29 batches of 32 are 14 steps and one batch left out."""
    one, two, accumulated = (runs / root / "unmixed" / "seed-0" for root in ("one", "two", "accumulated"))
    expected = state(one)
    assert expected["global_step"] == 28
    losses = metrics(one)["train/loss"]
    for other in (two, accumulated):
        found = state(other)
        assert found["global_step"] == 28
        assert found["lr_schedulers"] == expected["lr_schedulers"]
        groups = [[group["lr"] for group in s["optimizer_states"][0]["param_groups"]] for s in (found, expected)]
        assert groups[0] == groups[1]
        pd.testing.assert_series_equal(metrics(other)["train/loss"], losses, rtol=1e-5)
        assert json.loads((other / "summary.json").read_text())["images_seen"] == 28 * 64


@pytest.mark.release
def test_devices_2_starts_the_second_process_itself(
    tiny: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    path = tiny({"trainer": {**TWO, "limit_train_batches": 2, "limit_val_batches": 2}, "run": {"test": False}})
    command = [sys.executable, "-m", "vitlab", "fit", "--config", str(path)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    printed = capfd.readouterr()
    assert (printed.out + printed.err).count("done in") == 1  # only the first process speaks
    assert load_yaml(Path("runs/tiny/seed-0/environment.json"))["devices"] == 2


def test_a_batch_is_dealt_out_there_and_back() -> None:
    assert [places(4, rank, 3).tolist() for rank in range(3)] == [[0, 5, 6, 11], [1, 4, 7, 10], [2, 3, 8, 9]]
    assert [places(3, rank, 2).tolist() for rank in range(2)] == [[0, 3, 4], [1, 2, 5]]
    assert torch.equal(local_rows(torch.arange(6)), torch.arange(6))  # alone


# What objectives compute in two processes


TOGETHER: dict[str, Callable[[Any], Objective]] = {
    **{name: OBJECTIVES[name] for name in ("dino", "ibot", "esvit", "lejepa", "msn")},
    "visreg": lambda net: LeJEPA(net, *RECIPE, hidden_dim=24, proj_dim=6, regularizer="visreg"),
}


def two_steps(name: str, rank: int, size: int) -> dict[str, torch.Tensor]:
    """Return two losses, and weights and center after them, of a process's images of a batch."""
    torch.manual_seed(0)
    backbone = BACKBONES["swin" if name == "esvit" else "vit"]()
    objective, (views, labels) = TOGETHER[name](backbone).double(), crops(4)
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1)
    losses, own = [], places(4 // size, rank, size)
    for _ in range(2):
        torch.manual_seed(1)  # the mask of a batch, and directions
        optimizer.zero_grad()
        loss = objective.loss([view[own].double() for view in views], labels[own])
        loss.backward()
        for parameter in (p for p in objective.parameters() if p.grad is not None and size > 1):
            dist.all_reduce(parameter.grad)
            parameter.grad /= size  # as DDP
        optimizer.step()
        losses.append(loss.detach())
    return {"losses": torch.stack(losses)} | objective.state_dict()


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save([two_steps(name, rank, 2) for name in TOGETHER], Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_losses_the_gradients_and_the_center_of_one(tmp_path: Path) -> None:
    """Sinkhorn, the mean of all answers, batch norms, characteristic functions and the center are of all images, with
    their gradients.
    """
    mp.start_processes(work, args=(str(tmp_path),), nprocs=2, start_method="fork")
    shares = zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)), strict=True)
    for objective, (first, second) in zip(TOGETHER, shares, strict=True):
        alone = two_steps(objective, 0, 1)
        torch.testing.assert_close((first.pop("losses") + second.pop("losses")) / 2, alone.pop("losses"))
        for name, value in alone.items():
            assert torch.equal(first[name], second[name]), name
            # In float64, but for positions, which are resized in float32.
            torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("track", [True, False])
def test_a_batch_norm_of_one_process_is_pytorchs(track: bool) -> None:
    own, theirs = BatchNorm(8, track_running_stats=track), nn.BatchNorm1d(8, track_running_stats=track)
    for _ in ("training", "evaluation"):
        x = torch.randn(16, 8)
        torch.testing.assert_close(own(x), theirs(x))
        own.eval()
        theirs.eval()
    assert own.state_dict().keys() == theirs.state_dict().keys() - {"num_batches_tracked"}
