"""`vitlab benchmark`: cost, peak memory by batch size, and the largest batch that fits; most peaks are simulated."""

import gc
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch._subclasses import FakeTensorMode

from tests.conftest import EXPERIMENTS
from vitlab import models
from vitlab.commands import benchmark
from vitlab.commands.benchmark import build_single_process
from vitlab.commands.dispatch import run
from vitlab.config import Config, merge
from vitlab.data import Digits
from vitlab.evaluation import cost
from vitlab.evaluation.allocator import map_tensors
from vitlab.evaluation.memory import (
    TrainingCost,
    attempt,
    bytes_of_tensors,
    candidates,
    in_own_process,
    largest,
    parse_bytes,
    same_global_batch,
)
from vitlab.experiment import step_cost
from vitlab.experiment.noise_training import Noise, train_on_noise, trial
from vitlab.models import Backbone, VisionTransformer
from vitlab.objectives import Supervised
from vitlab.optim import AdamW, WarmupCosine

MIB = 2**20


# The search.


@pytest.mark.parametrize("limit", [149, 150, 900, 1_000, 6_900, 7_400, 25_000, 100_000])
@pytest.mark.parametrize("global_batch", [96, 128, 250, 1000])
def test_the_found_batch_stays_below_and_the_next_candidate_does_not(limit: int, global_batch: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return 100 + 50 * size <= limit

    sizes = candidates(1, global_batch, global_batch)
    found = largest(sizes, fits)
    assert len(tried) == len(set(tried)) <= 2 * len(bin(global_batch))  # doubling, then bisection: no size twice
    if found is None:
        assert limit < 150
        return
    assert 100 + 50 * found <= limit
    rest = [size for size in sizes if size > found]
    assert not rest or 100 + 50 * rest[0] > limit


def test_candidates_are_small_multiples_of_powers_of_two_and_divisors() -> None:
    assert candidates(1, 16, 16) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16]
    assert candidates(2, 18, 18) == [2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18]
    assert {25, 50, 125} <= set(candidates(1, 250, 250))


@pytest.mark.parametrize(
    ("global_batch", "least", "most", "expected"),
    [
        (128, 1, 128, (128, 1)),
        (128, 1, 112, (64, 2)),
        (250, 1, 112, (50, 5)),
        (128, 1, 4096, (128, 1)),
        (7, 2, 6, None),
    ],
)
def test_the_override_keeps_the_global_batch(
    global_batch: int, least: int, most: int, expected: tuple[int, int] | None
) -> None:
    assert same_global_batch(global_batch, least, most) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8GiB", 8 * 2**30), ("1.5 GiB", 3 * 2**29), ("24GB", 24e9), ("24G", 24e9), ("500MiB", 500 * MIB), ("1e9", 1e9)],
)
def test_amounts_of_memory(text: str, expected: float) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "much", "8 bananas", "-8GiB", "0GiB", "1.2.3GB"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write it like 8GiB"):
        parse_bytes(text)


# What is measured.


def held_for_backward(model: nn.Module, images: torch.Tensor) -> int:
    """Return the bytes that a forward pass keeps, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, int] = {}

    def hold(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda x: x):
        model(images).sum().backward()
    return sum(held.values())


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch4_32", "swin_mini_patch2_window4_32", "swinv2_mini_patch2_window4_32", "SwinTransformer"],
)
def test_checkpointed_models_hold_far_less_for_the_backward_pass(name: str) -> None:
    sizes: dict[str, Any] = {"img_size": 32} | (
        {"patch_size": 2, "window_size": 4} if name == "SwinTransformer" else {}
    )
    make: Callable[..., Backbone] = vars(models)[name]
    images = torch.randn(1, 3, 32, 32)
    plain, checkpointed = (held_for_backward(make(**sizes, grad_checkpointing=on), images) for on in (False, True))
    assert checkpointed < plain / 3


@pytest.mark.parametrize("name", ["vit_tiny_patch4_32", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_the_key_reaches_named_sizes(name: str, tiny: Callable[..., Path]) -> None:
    backbone = {"class_path": f"vitlab.models.{name}", "init_args": {"grad_checkpointing": True}}
    config = tiny({"model": {"init_args": {"backbone": backbone}}})
    experiment = build_single_process(["--config", str(config), "--data.image_size", "32"])
    switches = [
        m.grad_checkpointing for m in experiment.objective.backbone.modules() if hasattr(m, "grad_checkpointing")
    ]
    assert switches
    assert all(switches)


def peaks_of_a_deep_model() -> list[int]:
    peaks = []
    for checkpointing in (True, False):
        map_tensors()
        model = VisionTransformer(8, 1, 1, 10, depth=16, embed_dim=32, num_heads=2, grad_checkpointing=checkpointing)
        objective = Supervised(model, AdamW(lr=1e-3, weight_decay=0.05), WarmupCosine(warmup_epochs=0))
        like = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
        peaks.append(train_on_noise(objective, Digits(batch_size=64), like, accumulate=1, steps=2).peak_bytes)
    return peaks


@pytest.mark.slow
def test_a_deep_model_peaks_lower_when_checkpointed() -> None:
    peaks = in_own_process(peaks_of_a_deep_model)
    assert peaks is not None
    checkpointed, plain = peaks
    assert checkpointed < plain / 2


def test_tensors_are_counted_once_for_each_memory_and_those_without_memory_not_at_all() -> None:
    gc.collect()  # or tensors of an earlier test die in between
    before = bytes_of_tensors()
    with FakeTensorMode():
        fake = torch.empty(MIB)  # torch.export leaves such tensors behind, which say that they are on the CPU
    none = [fake, torch.empty(MIB, device="meta"), torch.empty(MIB).to_sparse()]
    held = torch.ones(256, requires_grad=True)
    held.sum().backward()  # its gradient is a second memory; a view is none
    views = [held.detach(), held[:4]]
    grown = bytes_of_tensors() - before
    assert len(none) + len(views) == 5
    assert grown == 2 * 256 * 4


def test_out_of_memory_is_an_answer_and_other_errors_are_errors() -> None:
    assert attempt(torch.empty, 2**60) is None
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        attempt(torch.dot, torch.ones(2), torch.ones(3))


@pytest.mark.filterwarnings("ignore")  # as in a trial's own process
@pytest.mark.parametrize(
    "files",
    ["dino_digits", "msn_digits", "mae_digits", "simmim_digits", "distillation_digits/base distillation_digits/hard"],
)
def test_every_objective_can_be_tried_without_data_or_weights(files: str, tiny: Callable[..., Path]) -> None:
    arguments = [part for name in files.split() for part in ("--config", str(EXPERIMENTS / f"{name}.yaml"))]
    found = trial(build_single_process(arguments).config, 4, accumulate=2, steps=2)
    assert found.batch_size == 4
    assert min(found.peak_bytes, found.process_bytes, found.seconds_per_image) > 0


def test_images_are_enlarged_on_the_way_as_the_experiment_says() -> None:
    noise = Noise(Digits(batch_size=4, image_size=24), batches=1)
    (images,), _ = noise.on_after_batch_transfer(noise.batch(), 0)
    assert images.shape == (4, 1, 24, 24)


# The commands.


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a trial take 1 GiB and 10 MiB an image, or 4 MiB checkpointed; return the list of sizes tried."""
    tried: list[int] = []

    def run_trial(_: object, config: Config, size: int, *args: object, **kwargs: object) -> TrainingCost | None:
        tried.append(size)
        checkpointed = args == (1, benchmark.STEPS, True)
        peak = 2**30 + (4 if checkpointed else 10) * MIB * size
        seconds = 0.4 if checkpointed else 0.3
        return None if size > 10_000 else TrainingCost(size, peak, peak + 2**29, seconds)

    monkeypatch.setattr("vitlab.evaluation.memory.in_own_process", run_trial)
    return tried


def test_the_table_is_written_as_csv_and_markdown(
    fake: list[int], tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--batches", "32", "16", "20000", "--out", str(tmp_path / "out")]
    assert run("benchmark", ["memory", "--config", str(tiny()), *sizes]) == 0
    table = pd.read_csv(tmp_path / "out" / "memory.csv")
    assert table.batch_size.tolist() == [16, 16, 32, 32, 20000, 20000]
    assert table.grad_checkpointing.tolist() == [False, True] * 3
    assert table.peak_bytes[:4].tolist() == [2**30 + n * MIB for n in (160, 64, 320, 128)]
    assert table.peak_bytes[4:].isna().all()
    text = (tmp_path / "out" / "memory.md").read_text()
    assert text == capsys.readouterr().out
    assert "| 16 | 1.16 | 1.06 | **0.92** | 1.33 |" in text
    assert "| 20000 | out of memory | out of memory |  |  |" in text


def test_the_largest_batch_and_its_override_are_printed(
    fake: list[int], tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["batch", "--config", str(tiny()), "--memory", "2GiB", "--data.batch_size", "60"]
    assert run("benchmark", [*command, "--trainer.accumulate_grad_batches", "2"]) == 0
    out = capsys.readouterr().out
    assert "The largest batch within 2.00 GiB: 48\n" in out  # 51 images would fit, and 56 are the next candidate
    assert "The same 120 images a step: --data.batch_size 40 --trainer.accumulate_grad_batches 3" in out
    assert max(fake) <= 120


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["batch"], "give a limit, like --memory 8GiB"),
        (["batch", "--memory", "8 bananas"], "8 bananas is not an amount"),
        (["batch", "--memory", "1GiB"], "Not even a batch of 1 fits into 1.00 GiB"),
        (["batch", "--memory", "1GiB", "--data.mixup", "{mixup_alpha: 0.8}"], "Not even a batch of 2 fits"),
        (["batch", "--memory", "2GiB", "--data.batch_size", "61"], "--data.batch_size 1 "),
        (["batch", "--memory", "2GiB", "--most", "0"], "--most 0"),
        (["memory", "--batches", "0"], "--batches 0"),
        (["memory", "--model.backbone.norm", "batch"], "norm: batch has no grad_checkpointing to measure"),
    ],
)
def test_mistakes_are_named_with_a_remedy(
    arguments: list[str],
    message: str,
    fake: list[int],
    tiny: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = run("benchmark", [arguments[0], "--config", str(tiny()), *arguments[1:]])
    captured = capsys.readouterr()
    assert status == (0 if message.startswith("--data") else 2)
    assert message in captured.out + captured.err


@pytest.mark.slow
def test_an_experiment_is_measured_in_processes_of_its_own(tiny: Callable[..., Path]) -> None:
    # The limit of 64 MiB beyond what starting takes is far below what this batch needs.
    config = build_single_process(["--config", str(tiny())]).config
    small = in_own_process(trial, config, 32, 2, 2)
    assert small is not None
    assert small.batch_size == 32
    assert 0 < small.peak_bytes < small.process_bytes
    wide = merge(config, {"model": {"init_args": {"backbone": {"init_args": {"embed_dim": 512, "depth": 12}}}}})
    assert in_own_process(trial, wide, 256, 2, 2, limit=64 * MIB) is None


def test_an_experiment_is_measured_when_a_line_comes_in(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """So `compare` lets the variants of a study take turns: ready once built, and after each turn."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n"))
    monkeypatch.setattr(step_cost, "SECONDS", 0.05)
    assert run("benchmark", ["--config", str(tiny()), "--json", "cost.json", "--in_turn", "2"]) == 0
    output = capsys.readouterr().out
    assert output.count(cost.READY) == 3
    assert "[" in next(line for line in output.splitlines() if line.startswith("training, images/s"))  # quartiles
    found = cost.Cost.read(Path("cost.json"))
    assert found.repetitions >= 2
    assert found.processes == 2
