"""Parameters shared out over two processes (FSDP2, on the CPU): the weights are those that two whole copies reach."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule

from tests.conftest import TINY
from tests.objectives.small import CROPS
from tests.objectives.test_distributed import FIT_EACH, MUON, SWIN_V2, VIT, experiment
from vitlab.config import Config, load_yaml, merge
from vitlab.models import SwinTransformer
from vitlab.objectives import Supervised
from vitlab.objectives.ema import Ema
from vitlab.objectives.sharding import apply_fsdp
from vitlab.optim import AdamW, WarmupCosine

TWO_STEPS: Config = {
    "trainer": {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1},
    "data": {"init_args": {"batch_size": 32}},
    "model": {"init_args": {"optimizer": {"init_args": {"layer_decay": 0.75}}}},
}
KNN: Config = {"class_path": "vitlab.runs.knn_monitor.KnnMonitor", "init_args": {"every_n_epochs": 1, "most": 50}}
PICTURES: Config = {"class_path": "vitlab.analysis.image_logging.Reconstructions", "init_args": {"every_n_epochs": 1}}
EXPERIMENTS: dict[str, Config] = {
    "supervised": merge(
        experiment("Supervised", VIT, {"mixup": {}}, ema={"decay": 0.9}), {"trainer": {"gradient_clip_val": 0.1}}
    ),
    "swin_v2": experiment("Supervised", SWIN_V2),
    "muon": merge(experiment("Supervised", SWIN_V2, optimizer=MUON), {"trainer": {"gradient_clip_val": 0.1}}),
    "simmim": experiment("SimMIM", SWIN_V2, mask_patch_size=2),
    "mae": merge(
        experiment("MAE", VIT, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2),
        {"trainer": {"callbacks": [PICTURES]}},
    ),
    "dino": merge(
        experiment("DINO", VIT, {"multi_crop": CROPS}, out_dim=24, hidden_dim=32, bottleneck_dim=16, clip_grad=0.1),
        {"trainer": {"callbacks": [KNN]}},
    ),
    "msn": experiment("MSN", VIT, {"multi_crop": CROPS}, num_prototypes=6, hidden_dim=32, output_dim=16, clip_grad=0.1),
}
CONTINUED = ("supervised", "muon")
PARTS: Config = {"class_path": "fit_each.Parts"}


def write(root: str, name: str, changes: Config) -> str:
    strategy = load_yaml("overlays/fsdp2") if root == "shared" else {"trainer": {"strategy": "ddp"}}
    config = merge(merge(merge(EXPERIMENTS[name], TWO_STEPS), {"run": {"root": root}}), strategy)
    callbacks = [*config["trainer"].get("callbacks", []), *([PARTS] if root == "shared" else [])]
    path = Path(f"{root}-{changes['run']['name']}.yaml")
    path.write_text(yaml.safe_dump(merge(merge(config, {"trainer": {"devices": 2, "callbacks": callbacks}}), changes)))
    return str(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two steps of each experiment shared out and whole, and two more of some from their checkpoints."""
    folder = tmp_path_factory.mktemp("sharding")
    files = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for root in ("shared", "whole"):
            files += [write(root, name, {"run": {"name": name}}) for name in EXPERIMENTS]
            for name in CONTINUED:
                more = {"trainer": {"max_epochs": 2}, "ckpt_path": f"{root}/{name}/seed-0/checkpoints/last.ckpt"}
                files.append(write(root, name, {"run": {"name": f"more_{name}"}} | more))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        subprocess.run([*torchrun, FIT_EACH, *files], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder


def state(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EXPERIMENTS, *(f"more_{name}" for name in CONTINUED)])
def test_a_sharded_model_trains_like_a_whole_one(name: str, runs: Path) -> None:
    """By block, with averages and teachers, layer decay, each kind of clipping; continued from one whole file."""
    shared, whole = (state(runs / root / name / "seed-0") for root in ("shared", "whole"))
    assert shared["global_step"] == whole["global_step"] == (4 if name.startswith("more") else 2)
    assert shared["state_dict"].keys() == whole["state_dict"].keys()
    for key, value in whole["state_dict"].items():
        torch.testing.assert_close(
            shared["state_dict"][key], value, rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}"
        )
    states = [run["optimizer_states"][0]["state"].values() for run in (shared, whole)]
    moments = [[s["momentum_buffer" if "momentum_buffer" in s else "exp_avg"] for s in each] for each in states]
    torch.testing.assert_close(*moments, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_process_holds_half(name: str, runs: Path) -> None:
    for rank in range(2):
        parts = json.loads((runs / f"shared/{name}/seed-0/parts-{rank}.json").read_text())
        assert 0.4 < parts["own"] / parts["all"] < 0.6
        assert parts["by_block"] > 0.5 * parts["all"]


def test_blocks_of_any_network_are_sharded(tmp_path: Path) -> None:
    """Three blocks in two stages, of the trained network and of its average; then all together."""
    sizes = {"embed_dim": 8, "depths": (2, 1), "num_heads": (1, 2), "window_size": 2}
    model = SwinTransformer(img_size=8, patch_size=2, in_chans=1, num_classes=10, **sizes)  # type: ignore[arg-type]
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        objective = Supervised(model, AdamW(1e-3), WarmupCosine(), ema=Ema())
        apply_fsdp(objective, init_device_mesh("cpu", (1,)))
    finally:
        torch.distributed.destroy_process_group()
    assert sum(isinstance(module, FSDPModule) for module in objective.modules()) == 2 * 3 + 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device; on the CPU the same is tested above")
def test_gpus_share_a_model(tiny: Callable[..., Path]) -> None:
    devices = min(2, torch.cuda.device_count())
    trainer = {"accelerator": "gpu", "devices": devices, "strategy": "fsdp2", "precision": "bf16-mixed"}
    path = tiny(
        merge(TINY, {"trainer": trainer | TWO_STEPS["trainer"], "model": {"init_args": {"ema": {"decay": 0.9}}}})
    )
    subprocess.run([sys.executable, "-m", "vitlab", "fit", "--config", str(path)], check=True)
    assert state(Path("runs/tiny/seed-0"))["global_step"] == 2
