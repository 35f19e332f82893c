"""FLOPs of a step, and the peak of a device."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.objectives.small import SMALL, STAGES
from vitlab.commands.dispatch import run
from vitlab.evaluation.cost import choose_tf32, dtype_of, gemm_peak
from vitlab.internals import flop_counter
from vitlab.models import SwinTransformer, SwinTransformerV2, VisionTransformer

FAMILIES = {
    "vit": lambda **changes: VisionTransformer(patch_size=2, embed_dim=32, depth=2, num_heads=2, **SMALL, **changes),
    "swin": lambda **changes: SwinTransformer(**STAGES, **SMALL, **changes),
    "swin_v2": lambda **changes: SwinTransformerV2(**STAGES, **SMALL, **changes),
}


def flops(model: torch.nn.Module) -> int:
    with flop_counter() as counter:
        model(torch.randn(2, 1, 8, 8)).sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_checkpoint_recomputes_is_counted_once(family: str) -> None:
    """The oracle is the same model that holds its activations."""
    assert flops(FAMILIES[family](grad_checkpointing=True)) == flops(FAMILIES[family]())


def test_the_peak_is_a_rate_and_draws_no_number() -> None:
    before = torch.get_rng_state()
    assert 1e6 < gemm_peak(torch.float32, torch.device("cpu"), side=128, repetitions=1) < 1e15
    assert torch.equal(torch.get_rng_state(), before)


DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "64-true": torch.float64}


@pytest.mark.parametrize("precision", DTYPES)
def test_the_peak_is_of_the_type_that_is_multiplied(precision: str) -> None:
    assert dtype_of(precision) == DTYPES[precision]


@pytest.mark.parametrize(("precision", "rounds"), [("bf16-mixed", True), ("16-mixed", True), ("32-true", False)])
def test_a_gpu_rounds_float32_products_in_mixed_precision_alone(precision: str, rounds: bool) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        choose_tf32(precision)
        assert torch.backends.cuda.matmul.allow_tf32 is rounds
        assert torch.backends.cudnn.allow_tf32 is rounds
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_a_run_on_a_cpu_leaves_its_products_alone(tiny: Callable[..., Path]) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    short = {"trainer": {"precision": "bf16-mixed", "limit_train_batches": 1}, "run": {"test": False}}
    assert run("fit", ["--config", str(tiny(short))]) == 0
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
