"""Runs that branch off a longer one: they must equal runs trained from the beginning."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.kills import forked, last_words
from vitlab.config import Config, merge
from vitlab.runs.exactness import disagreements
from vitlab.studies.compare import ResolvedStudy, compare
from vitlab.studies.file.runs import own_share
from vitlab.studies.file.study import read_study

SCHEDULE = {"class_path": "vitlab.optim.WarmupStableDecay", "init_args": {"warmup_epochs": 0.5, "cooldown": 0.4}}
WIDTHS = {"A": 16, "B": 24}


@pytest.fixture
def write(tiny: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    def write(changes: Config | None = None, **keys: Any) -> Path:
        short = {
            "run": {"checkpoint": {"best": True}},
            "trainer": {"limit_train_batches": 5},
            "model": {"init_args": {"schedule": SCHEDULE}},
        }
        tiny(merge(short, changes or {}))
        variants = {
            name: {"model": {"init_args": {"backbone": {"init_args": {"embed_dim": width}}}}}
            for name, width in WIDTHS.items()
        }
        study = {
            "name": "lengths",
            "base": "tiny.yaml",
            "variants": variants,
            "seeds": [1],
            "may_differ": ["model.init_args.backbone"],
            "along": {"epochs": [1, 2, 4]},
            "branch": True,
            **keys,
        }
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in study.items() if value != "absent"}))
        return path

    return write


@pytest.mark.slow
def test_a_branch_is_the_run_of_its_length_to_the_bit(
    write: Callable[..., Path], no_figures: None, forked_runs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write()
    compare(path)
    for epochs, before in ((1, 3), (2, 6)):  # 60 % of five and of ten steps
        branch = Path(f"runs/lengths/a-{epochs}-epochs/seed-1")
        assert f"continuing from {branch}/checkpoints/last.ckpt" in Path("log.txt").read_text()
        assert Path(f"runs/lengths/a-4-epochs/seed-1/checkpoints/step-{before}.ckpt").is_file()
        assert forked(["--config", str(branch / "config.yaml"), "--run.root", "whole"]) == 0, last_words()
        assert disagreements(branch, Path("whole", *branch.parts[2:])) == []
        best = [Path(root, "checkpoints/best.ckpt") for root in (branch, Path("whole", *branch.parts[2:]))]
        epochs = [torch.load(file, weights_only=True)["epoch"] for file in best]
        assert epochs[0] == epochs[1]

    shutil.rmtree("runs/lengths/a-1-epochs/seed-1")
    Path("runs/lengths/a-4-epochs/seed-1/checkpoints/step-3.ckpt").unlink()
    compare(path)
    assert "A, 1 epochs, seed 1 trains from its beginning: runs/lengths/a-4-epochs" in capsys.readouterr().out
    alone = Path("runs/lengths/a-1-epochs/seed-1")
    assert disagreements(alone, Path("whole", *alone.parts[2:])) == []


@pytest.mark.slow
def test_a_branch_is_counted_as_its_cooldown(write: Callable[..., Path]) -> None:
    study = read_study(write())
    runs = [ResolvedStudy.of(point, Path("runs")).runs[0] for point in study.points]
    assert [own_share(study, run) for run in runs] == [0.4, 0.4, 1.0]
    assert [own_share(dataclasses.replace(study, branch=False), run) for run in runs] == [1.0, 1.0, 1.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "keys", "message"),
    [
        (
            {"model": {"init_args": {"schedule": {"class_path": "vitlab.optim.WarmupCosine", "init_args": {}}}}},
            {},
            "branch: A needs the schedule WarmupStableDecay, not vitlab.optim.WarmupCosine",
        ),
        (
            {"model": {"init_args": {"optimizer": {"init_args": {"weight_decay_end": 0.4}}}}},
            {},
            "weight_decay_end of A changes over the whole run",
        ),
        (
            {"model": {"init_args": {"schedule": {"init_args": {"warmup_epochs": 0.7}}}}},
            {},
            "A, 1 epochs, seed 1 cools down after 3 steps, before its warm-up ends. Give more epochs",
        ),
        ({}, {"along": {"images": [100, 200]}}, "only runs along an axis of epochs branch off each other"),
        ({}, {"along": "absent"}, "only runs along an axis of epochs"),
        ({}, {"branch": "yes"}, "branch: 'yes'. It should be a valid boolean"),
    ],
)
def test_runs_that_cannot_branch_are_refused(
    write: Callable[..., Path], changes: Config, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare(write(changes, **keys))
    assert not list(Path("runs").glob("**/seed-*"))
