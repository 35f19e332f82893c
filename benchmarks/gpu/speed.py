"""Images/s, share of the device's peak and memory of training and inference in bfloat16, beside timm's.

Both models take turns in one process, eager and compiled as a whole. A third mode compiles vitlab's by block, as
`run.compile` does, beside timm's as a whole. A training step ends with fused AdamW.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.against_timm import NUM_CLASSES, build, count_flops, make_step
from benchmarks.gpu.measurement import Figures, Measurement, Setting
from benchmarks.measuring import alternate, ratios
from vitlab import models
from vitlab.evaluation.cost import PeakMemory, choose_tf32, gemm_peak, wait_for
from vitlab.internals import is_out_of_memory
from vitlab.objectives import Supervised
from vitlab.optim import AdamW, WarmupCosine


class Architecture(NamedTuple):
    """A model of 224 px, or of the size in its name."""

    name: str  # timm's
    batch: int  # images of a training step, halved until they fit
    goal: int | None  # images/s of a training step on an H200, bfloat16, compiled
    tiny: dict[str, Any]  # arguments that make it small for a dry run


TINY_VIT: dict[str, Any] = {"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 2}
TINY_SWIN: dict[str, Any] = {"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 1, 2, 2)}
TINY_CONVNEXT: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (16, 16, 32, 32)}
ARCHITECTURES = {
    "ViT-S/16": Architecture("vit_small_patch16_224", 256, 10_000, TINY_VIT),
    "ViT-B/16": Architecture("vit_base_patch16_224", 256, 3_750, TINY_VIT),
    "Swin-T": Architecture("swin_tiny_patch4_window7_224", 256, 6_100, TINY_SWIN),
    "Swin-B": Architecture("swin_base_patch4_window7_224", 128, None, TINY_SWIN),
    "Swin v2-T": Architecture("swinv2_tiny_window8_256", 256, 4_600, TINY_SWIN),
    "Swin v2-B": Architecture("swinv2_base_window8_256", 128, 2_000, TINY_SWIN),
    "ConvNeXt-T": Architecture("convnext_tiny", 256, None, TINY_CONVNEXT),
    "ResNet-50": Architecture("resnet50", 256, None, {}),
}
DRY = ("ViT-S/16", "Swin-T", "Swin v2-T", "ConvNeXt-T")  # one of each kind

# The time for equal FLOPs of the first over that of the second.
TAXES = (("Swin-T", "ViT-S/16"), ("Swin-B", "ViT-B/16"), ("Swin v2-T", "Swin-T"), ("Swin v2-B", "Swin-B"))

# At most this share of timm's time.
SHARE_OF_TIMM = {"Swin v2-T": 0.66, "Swin v2-B": 0.66}
SHARE_OF_TIMM_OTHERS = 0.80

EAGER, COMPILED, BY_BLOCK = "eager", "compiled", "compiled by block"
REPETITIONS, DRY_REPETITIONS = 20, 2
LEAST_BATCH = 8


def chosen(dry: bool) -> dict[str, Architecture]:
    return {title: ARCHITECTURES[title] for title in DRY} if dry else ARCHITECTURES


def make(architecture: Architecture, whose: str, device: torch.device, dry: bool = False) -> nn.Module:
    """Build vitlab's or timm's model without drop path; what vitlab has not of its own is timm's in its wrapper."""
    changes = architecture.tiny if dry else {}
    own = architecture.name in models.__all__
    if whose == "timm" or own:
        model = build(architecture.name, whose, False, device, **changes)
        return model if own else model.to(memory_format=torch.channels_last)  # as `TimmModel` has it
    wrapped: Callable[..., nn.Module] = models.TimmModel
    return wrapped(architecture.name, num_classes=NUM_CLASSES, drop_path_rate=0.0, model_kwargs=changes).to(device)


def side(architecture: Architecture, dry: bool) -> int:
    if dry:
        return int(architecture.tiny.get("img_size", 64))
    return 256 if architecture.name.endswith("256") else 224


def noise(architecture: Architecture, batch: int, setting: Setting) -> tuple[Tensor, Tensor]:
    images = torch.randn(batch, 3, *[side(architecture, setting.dry)] * 2, device=setting.device)
    return images, torch.randint(NUM_CLASSES, (batch,), device=setting.device)


def speeds(setting: Setting) -> Iterator[Measurement]:
    """Yield eager training first, and what compiles longest last."""
    for mode in (EAGER, COMPILED, BY_BLOCK):
        for phase in ("training", "inference"):
            for title, architecture in chosen(setting.dry).items():
                if setting.dry and mode != EAGER and title != "ViT-S/16":
                    continue  # compiling takes long on a CPU, even by a backend that only traces
                name = f"{title}, {phase}, {mode}"
                yield Measurement(name, partial(compare, title, architecture, phase, mode, setting))


def compare(title: str, architecture: Architecture, phase: str, mode: str, setting: Setting) -> Figures:
    """Measure vitlab's model beside timm's, at the largest batch that fits both."""
    batch = 2 if setting.dry else architecture.batch
    while True:
        try:
            figures = at_batch(architecture, phase, mode, batch, setting)
            return {"model": title, "phase": phase, "mode": mode, "batch": batch, **figures}
        except RuntimeError as error:
            if not is_out_of_memory(error) or batch <= LEAST_BATCH:
                raise
        torch.cuda.empty_cache()
        torch.compiler.reset()
        batch //= 2


def at_batch(architecture: Architecture, phase: str, mode: str, batch: int, setting: Setting) -> Figures:
    device = setting.device
    pair = {whose: make(architecture, whose, device, setting.dry) for whose in ("vitlab", "timm")}
    images, labels = noise(architecture, batch, setting)
    sample = images[: 2 if phase == "training" else 1]  # batch norm trains on two images or more
    flops = count_flops(pair["vitlab"], sample, labels[: len(sample)], phase) // len(sample)
    optimizers = {
        whose: torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True) if phase == "training" else None
        for whose, model in pair.items()
    }
    for whose, model in pair.items():
        compile_as(model, mode if whose == "vitlab" or mode == EAGER else COMPILED, setting.dry)
    steps: dict[str, Callable[[], object]] = {
        whose: make_step(model, images, labels, phase, "bfloat16", optimizers[whose]) for whose, model in pair.items()
    }
    with products_as_in("bf16-mixed"):
        times = alternate(steps, DRY_REPETITIONS if setting.dry else REPETITIONS, device)
        peaks = {whose: peak_bytes(whose, pair, optimizers[whose], steps[whose], device) for whose in pair}
    peak = peak_of(device)
    rates = {whose: batch / statistics.median(seconds) for whose, seconds in times.items()}
    return {
        "gflops": flops / 1e9,
        "images_per_second": rates["vitlab"],
        "timm_images_per_second": rates["timm"],
        "ratio": list(ratios(times["vitlab"], times["timm"])),
        "peak_tflops": peak / 1e12,
        "mfu": flops * rates["vitlab"] / peak,
        "timm_mfu": flops * rates["timm"] / peak,
        "bytes": peaks["vitlab"],
        "timm_bytes": peaks["timm"],
    }


def compile_as(model: nn.Module, mode: str, dry: bool) -> None:
    """Compile a model in place. In a dry run the program is traced and not translated."""
    backend = "eager" if dry else "inductor"
    if mode == COMPILED:
        model.compile(backend=backend, dynamic=False)
    elif mode == BY_BLOCK:
        assert isinstance(model, models.ImageModel)
        Supervised(model, AdamW(1e-3), WarmupCosine()).compile_parts(backend)


def peak_bytes(
    whose: str,
    pair: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer | None,
    step: Callable[[], object],
    device: torch.device,
) -> int:
    """Return the memory of one step with the weights and moments that it needs, without the other model's."""
    for model in pair.values():
        model.zero_grad(set_to_none=True)
    kept = [*pair[whose].parameters(), *pair[whose].buffers()]
    for state in optimizer.state.values() if optimizer else ():
        kept += [value for value in state.values() if isinstance(value, Tensor)]
    memory = PeakMemory(device)
    step()
    wait_for(device)
    return memory.growth() + sum(tensor.nbytes for tensor in kept)


@cache
def peak_of(device: torch.device) -> float:
    return gemm_peak(torch.bfloat16, device, *([] if device.type == "cuda" else [128, 1]))


@contextmanager
def products_as_in(precision: str) -> Iterator[None]:
    """Multiply float32 within the block as a GPU does in a run of this precision."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    choose_tf32(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
