"""Two runs are compared to the bit, and a run that is really killed is the undisturbed one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from vitlab.runs.exactness import differences_after_kills, disagreements

RUN, COPY = Path("runs/tiny/seed-0"), Path("copy")


@pytest.fixture
def two_runs(finished: Path) -> None:
    shutil.copytree(finished, COPY)


def change_state(change: Callable[[dict[str, Any]], None]) -> None:
    state = torch.load(COPY / "checkpoints/last.ckpt", weights_only=True)
    change(state)
    torch.save(state, COPY / "checkpoints/last.ckpt")


@pytest.mark.slow
def test_one_bit_of_difference_is_named(two_runs: None) -> None:
    assert disagreements(RUN, COPY) == []
    weight = "backbone.blocks.0.mlp.fc1.weight"

    def turn_a_bit(state: dict[str, Any]) -> None:
        state["state_dict"][weight].view(torch.int32)[0, 0] ^= 1

    change_state(turn_a_bit)
    assert disagreements(RUN, COPY) == [f"state_dict.{weight}"]


def test_each_part_of_a_result_is_compared(two_runs: None) -> None:
    def change(state: dict[str, Any]) -> None:
        state["optimizer_states"][0]["state"][3]["exp_avg"] += 1
        state["lr_schedulers"][0]["last_epoch"] += 1
        state["callbacks"]["RandomState"]["processes"][0]["torch"][7] += 1

    change_state(change)
    table = pd.read_csv(COPY / "metrics.csv")
    table.loc[0, "val/loss"] += 1e-7
    table.assign(images_per_second=0).to_csv(COPY / "metrics.csv", index=False)
    predictions = pd.read_parquet(COPY / "predictions.parquet")
    predictions.iloc[::-1].reset_index(drop=True).to_parquet(COPY / "predictions.parquet")
    assert disagreements(RUN, COPY) == [
        "optimizer_states.0.state.3.exp_avg",
        "lr_schedulers.0.last_epoch",
        "random generators.processes.0.torch",
        "metrics.csv",
        "predictions.parquet",
    ]


@pytest.mark.slow
def test_a_run_that_fails_by_itself_is_told_apart(tiny: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ended before any kill:\n(.|\n)*no option run.overwritten"):
        differences_after_kills([str(tiny()), "--run.overwritten", "true"], [3], tmp_path / "runs")
