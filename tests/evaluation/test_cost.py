import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from tests.conftest import EXPERIMENTS
from tests.objectives.small import SMALL, STAGES
from vitlab import models
from vitlab.commands.dispatch import run
from vitlab.config import Config
from vitlab.evaluation.cost import (
    Rapl,
    bytes_of_tensors,
    choose_tf32,
    count_flops,
    count_flops_in_training,
    device_for,
    dtype_of,
    flops_of,
    gemm_peak,
    meter_for,
)
from vitlab.experiment.experiment import Experiment
from vitlab.experiment.noise import Noise, flops_per_image, on_noise
from vitlab.internals import flop_counter
from vitlab.models import Backbone, SwinTransformer, SwinTransformerV2, VisionTransformer
from vitlab.objectives import Distillation


def test_fused_attention_is_counted_like_its_products() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    # Two products of (N × D) by (D × N), two FLOPs for each multiplication with its addition; H heads.
    heads, tokens, width = 3, 16, 8
    assert count_flops(Attention(), torch.randn(1, heads, tokens, width)) == 2 * 2 * heads * tokens * tokens * width


@pytest.mark.parametrize("shape", [(8, 4, 32, 2, 2), (16, 4, 32, 2, 2), (8, 8, 32, 2, 2), (8, 4, 64, 3, 5)], ids=str)
def test_blocks_take_the_flops_of_swins_formulas(shape: tuple[int, ...]) -> None:
    """Liu et al. 2021, equations 1 and 2, and 8hwC² of the MLP; torch counts two FLOPs for each multiply-add."""
    side, window, width, depth, batch = shape
    heads, tokens = width // 32, side**2
    vit = VisionTransformer(side, 1, 1, 1, embed_dim=width, depth=depth, num_heads=heads)
    sizes = {"embed_dim": width, "depths": (depth,), "num_heads": (heads,), "window_size": window}
    swin = SwinTransformer(side, 1, in_chans=1, num_classes=1, **sizes)  # type: ignore[arg-type]
    for model, attended, grid in ((vit, tokens, (tokens,)), (swin, window**2, (side, side))):
        layer = 4 * tokens * width**2 + 2 * attended * tokens * width + 8 * tokens * width**2
        blocks = nn.Sequential(*model.blocks).eval()
        assert count_flops(blocks, torch.randn(batch, *grid, width)) == 2 * batch * depth * layer


def test_a_model_that_averages_views_at_test_time_takes_more_flops_than_in_training() -> None:
    class Averaging(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            shifts = (0,) if self.training else (-1, 0, 1)
            return sum((super(Averaging, self).forward(x.roll(shift, 1)) for shift in shifts), torch.zeros(()))

    model, images = Averaging(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)), torch.randn(4, 8)
    assert count_flops_in_training(model, images) == 2 * 8 * 8
    assert count_flops(model, images[:1]) == 3 * 2 * 8 * 8


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
def test_without_a_gpu_everything_is_measured_on_the_cpu() -> None:
    assert device_for("auto") == device_for("gpu") == device_for("cpu") == torch.device("cpu")


# FLOPs of a step, and the peak of a device


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


# Energy


def package(root: Path, index: int, microjoules: int, kind: str = "package") -> Path:
    """Write what Linux shows of a processor package's counter, and of a part of it that must not count twice."""
    for name in (f"intel-rapl:{index}", f"intel-rapl:{index}:0"):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "max_energy_range_uj").write_text("1000000\n")
        (root / name / "energy_uj").write_text(f"{microjoules}\n")
        (root / name / "name").write_text(f"{kind}-{index}\n")
    return root / f"intel-rapl:{index}" / "energy_uj"


def test_packages_add_up_and_an_overflow_is_no_step_back(tmp_path: Path) -> None:
    first, second = package(tmp_path, 0, 100_000), package(tmp_path, 1, 900_000)
    package(tmp_path, 2, 0, "psys")  # the platform, whose energy includes the packages'
    meter = Rapl(tmp_path)
    assert meter.joules() == 0
    first.write_text("300000\n")
    second.write_text("200000\n")  # past its range of 1 J
    assert meter.joules() == pytest.approx(0.2 + 0.3)


def test_a_machine_without_counters_has_no_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="no energy counter"):
        Rapl(tmp_path)
    monkeypatch.setattr("vitlab.evaluation.cost.Rapl.__init__.__defaults__", (tmp_path,))
    assert meter_for(torch.device("cpu")) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_uses_energy() -> None:
    meter = meter_for(torch.device("cuda"))
    if meter is None:
        pytest.skip("this GPU has no energy counter")
    before = meter.joules()
    x = torch.randn(8192, 8192, device="cuda")
    for _ in range(50):
        x @ x
    torch.cuda.synchronize()
    assert meter.joules() > before


# Of an experiment's own training step


Tiny = Callable[..., Path]


def test_a_run_logs_peak_memory_and_inference_images_per_second(finished: Path) -> None:
    cost = json.loads((finished / "summary.json").read_text())["cost"]
    backbone = Experiment("tiny.yaml").objective.backbone
    assert cost["parameters"] == sum(parameter.numel() for parameter in backbone.parameters())
    assert cost["train_peak_bytes"] > 4 * 4 * cost["parameters"]  # weights, gradients and two moments
    assert cost["inference_peak_bytes"] >= 4 * cost["parameters"]
    assert cost["inference_images_per_second"] > 0
    assert cost["flops"] == cost["train_forward_flops"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of training on noise
@pytest.mark.parametrize("files", ["mae_digits", "distillation_digits/base distillation_digits/hard", "dino_digits"])
def test_flops_are_those_of_the_objective_with_its_decoder_and_teacher(files: str) -> None:
    sources = [EXPERIMENTS / f"{name}.yaml" for name in files.split()]
    small = Experiment(*sources, "data.batch_size=4").config
    experiment = on_noise(small)
    objective, data = experiment.objective, experiment.data
    found = flops_per_image(small)
    if isinstance(objective, Distillation):
        objective.teacher.prepare(torch.device("cpu"), data.mean, data.std)
    views, labels = data.on_after_batch_transfer(Noise(data, [1]).batch(), 0)
    own = flops_of(lambda: objective.loss(views, labels).backward())
    assert found == pytest.approx(own / 4, rel=0.01)
    alone = flops_of(lambda: objective.backbone(views[0]).sum().backward())
    assert own != pytest.approx(alone, rel=0.2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_teacher_that_is_a_run_costs_as_one_that_is_named(tiny: Tiny) -> None:
    taught_by = tiny({"trainer": {"limit_train_batches": 1}}, "taught_by")
    model = Experiment(taught_by).config["model"]["init_args"]["backbone"]

    def flops(teacher: Config) -> float:
        distillation = {
            "class_path": "vitlab.objectives.Distillation",
            "init_args": {"target": {"class_path": "vitlab.objectives.HardTarget"}, "teacher": teacher},
        }
        return flops_per_image(Experiment(tiny({"model": distillation}, "student")).config)

    named = flops({"model": model})
    assert flops({"weights": str(taught_by)}) == named  # before it is trained
    Experiment(taught_by).fit()
    assert flops({"weights": "runs/taught_by/seed-0"}) == named


def test_what_starts_from_the_training_images_is_counted_without_them(tiny: Tiny) -> None:
    assert flops_per_image(Experiment(tiny({"model": {"init_args": {"whiten": True}}})).config) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["msn_digits", "simmim_digits"])
def test_other_objectives_too_are_counted_without_data_or_weights(name: str) -> None:
    assert flops_per_image(Experiment(EXPERIMENTS / f"{name}.yaml", "data.batch_size=4").config) > 0


# Peak memory


MIB = 2**20


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
    "name", ["vit_tiny_patch4_32", "swin_mini_patch2_window4_32", "swinv2_mini_patch2_window4_32", "SwinTransformer"]
)
def test_checkpointed_models_hold_far_less_for_the_backward_pass(name: str) -> None:
    sizes: dict[str, Any] = {"img_size": 32} | (
        {"patch_size": 2, "window_size": 4} if name == "SwinTransformer" else {}
    )
    make: Callable[..., Backbone] = vars(models)[name]
    images = torch.randn(1, 3, 32, 32)
    plain, checkpointed = (held_for_backward(make(**sizes, grad_checkpointing=on), images) for on in (False, True))
    assert checkpointed < plain / 3


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
