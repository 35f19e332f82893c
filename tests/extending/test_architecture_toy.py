"""The example of an architecture, copied into a package, trains, and every tool works on what it learned."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import EXPERIMENTS, TINY
from vitlab.commands.dispatch import run
from vitlab.config import Config, merge
from vitlab.objectives import SimMIM, Supervised
from vitlab.optim import AdamW, WarmupCosine

EXAMPLE = EXPERIMENTS.parent / "examples/architecture.py"
FIT_EACH = EXPERIMENTS.parent / "tests/fit_each.py"
CONFIG = "runs/convnext/seed-0/config.yaml"
TWO_STEPS: Config = {
    "model": {
        "init_args": {
            "backbone": {"class_path": "mine.architecture.ConvNeXt", "init_args": {"dim": 16, "depth": 2}},
            "optimizer": {"init_args": {"layer_decay": 0.75}},
        }
    },
    "trainer": {"limit_train_batches": 2, "limit_val_batches": 2},
    "run": {"name": "convnext", "test": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Copy the example into a package, and train it for two steps."""
    folder = tmp_path_factory.mktemp("extending")
    code = EXAMPLE.read_text()
    _, _, program = code.partition('"""\n\n')
    assert 0 < program.count("\n") <= 40
    (folder / "mine").mkdir()
    (folder / "mine/architecture.py").write_text(code)
    (folder / "convnext.yaml").write_text(yaml.safe_dump(merge(TINY, TWO_STEPS)))
    sharded = {"trainer": {"strategy": "fsdp2", "devices": 2, "callbacks": [{"class_path": "fit_each.Parts"}]}}
    config = merge(merge(TINY, TWO_STEPS), merge(sharded, {"run": {"name": "sharded"}}))
    (folder / "sharded.yaml").write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        assert run("fit", ["--config", "convnext.yaml"]) == 0
        yield folder


@pytest.fixture
def model(folder: Path) -> Any:
    from mine.architecture import ConvNeXt  # type: ignore[import-not-found]

    torch.manual_seed(0)
    return ConvNeXt(img_size=8, in_chans=1, num_classes=10, dim=16, depth=2)


def test_layer_decay_counts_its_blocks(model: Any) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    depths = [{names[id(p)].split(".")[0] for p in group} for group in model.parameters_by_depth()]
    assert depths == [{"patch_embed"}, {"blocks"}, {"blocks"}, {"norm", "head"}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["probe", "--config", CONFIG], "runs/convnext/seed-0"),
        (["visualize", "--config", CONFIG, "--out", "pictures"], "pictures/amplitude.png"),
        (["export", "--config", CONFIG, "--format", "safetensors", "onnx", "--out", "export"], "export/model.onnx"),
        (["transfer", "--config", CONFIG, "--sizes", "16", "--out", "transfer"], "transfer/transfer.csv"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_tool_takes_it(command: list[str], file: str, folder: Path) -> None:
    assert run(command[0], command[1:]) == 0
    assert (folder / file).exists()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_its_blocks_are_compiled(model: Any) -> None:
    torch.compiler.reset()
    views, labels = [torch.randn(2, 1, 8, 8)], torch.tensor([1, 2])
    objective = Supervised(model, AdamW(1e-3), WarmupCosine())
    expected = objective.loss(views, labels)
    objective.compile_parts(backend="eager")
    assert all(block._compiled_call_impl is not None for block in model.blocks)
    torch.testing.assert_close(objective.loss(views, labels), expected)


def test_it_pretrains_with_simmim(model: Any) -> None:
    objective = SimMIM(model, AdamW(1e-3), WarmupCosine(), mask_patch_size=4)
    objective.loss([torch.randn(2, 1, 8, 8)], torch.tensor([0, 0])).backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())


@pytest.mark.release
def test_two_processes_shard_it(folder: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": f"{EXPERIMENTS.parent}:{folder}", "OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, FIT_EACH, "sharded.yaml"], check=True, env=environment)
    for rank in range(2):
        parts = json.loads((folder / f"runs/sharded/seed-0/parts-{rank}.json").read_text())
        assert parts["own"] < 0.7 * parts["all"]
