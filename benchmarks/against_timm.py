"""Speed and memory of vitlab's models against timm's, with the same weights, batch and process.

    python -m benchmarks.against_timm swin_tiny_patch4_window7_224 --precision bfloat16

The steps of the two alternate; a ratio is the median over neighboring steps. Each peak memory is measured in a process
of its own.
"""

import argparse
import difflib
import multiprocessing
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.interleaved_timing import alternate, clock_for, ratios
from benchmarks.table import OUT, machine, markdown, save
from vitlab import models
from vitlab.evaluation.cost import PeakMemory, device_for, dtype_of, flops_of, gemm_peak, wait_for

NAMES = (
    "vit_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "swinv2_tiny_window16_256",
)
_STAGES = {"img_size": 32, "embed_dim": 64, "depths": (2, 4), "num_heads": (2, 4), "window_size": 4, "num_classes": 10}
SPEEDRUN: dict[str, tuple[str, dict[str, Any]]] = {
    "speedrun_vit": (
        "vit_tiny_patch16_224",
        {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 4, "global_pool": "avg", "num_classes": 10},
    ),
    "speedrun_swin": ("swin_tiny_patch4_window7_224", _STAGES),
    "speedrun_swinv2": ("swinv2_tiny_window8_256", _STAGES),
}
"""Models of both with the sizes of experiments/speedrun."""
TRAINER_PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed"}
NUM_CLASSES = 1000
GEMM_SIDE = 2048


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each model, and rewrite the table after it."""
    parser = argparse.ArgumentParser("python -m benchmarks.against_timm", description=__doc__.partition("\n")[0])
    known = f"models that both have, or {', '.join(SPEEDRUN)}"
    parser.add_argument("names", nargs="*", metavar="NAME", default=NAMES, help=known)
    parser.add_argument("--precision", nargs="+", choices=TRAINER_PRECISION, default=list(TRAINER_PRECISION))
    parser.add_argument("--batch", type=int, default=8, help="images per step [8]")
    parser.add_argument("--repetitions", type=int, default=15, help="timed steps of each [15]")
    parser.add_argument("--compile", action="store_true", help="compile both with torch.compile")
    parser.add_argument("--out", type=type(OUT), default=OUT, help=f"folder of models.md [{OUT}]")
    options = parser.parse_args(arguments)
    if problem := misspelled(options.names):
        parser.error(problem)
    device = device_for("auto")
    header = f"{machine(device, 'timm')} Ratios are vitlab over timm: below 1 is faster or smaller."
    rows: list[dict[str, str]] = []
    for name, precision in tqdm([(name, precision) for name in options.names for precision in options.precision]):
        for phase in ("training", "inference"):
            how = (name, precision, options.batch, phase, options.compile, device)
            rows.append(compare(*how, options.repetitions))
            save(options.out / "models.md", markdown(header, rows))
    print(markdown(header, rows), end="")


def compare(
    name: str, precision: str, batch_size: int, phase: str, compiled: bool, device: torch.device, repetitions: int
) -> dict[str, str]:
    """Measure training or inference of one model; return a row of the table."""
    pair = {whose: build(name, whose, compiled, device) for whose in ("vitlab", "timm")}
    peak = gemm_peak(dtype_of(TRAINER_PRECISION[precision]), device, GEMM_SIDE, clock=clock_for(device))
    pair["vitlab"].load_state_dict(pair["timm"].state_dict())
    images, labels = random_batch(name, batch_size, device)
    steps = {whose: make_step(model, images, labels, phase, precision) for whose, model in pair.items()}
    times = alternate(steps, repetitions, device)
    q1, middle, q3 = ratios(times["vitlab"], times["timm"])
    flops = count_flops(pair["vitlab"], images[:1], labels[:1], phase)
    rate = {whose: batch_size / statistics.median(seconds) for whose, seconds in times.items()}
    memory = {whose: peak_memory(name, whose, precision, batch_size, phase, compiled, device) for whose in pair}
    return {
        "model": name,
        "phase": phase,
        "precision": f"{precision}, compiled" if compiled else precision,
        "batch": str(batch_size),
        "images/s, vitlab": f"{rate['vitlab']:.1f}",
        "images/s, timm": f"{rate['timm']:.1f}",
        "time ratio [quartiles]": f"**{middle:.2f}** [{q1:.2f}, {q3:.2f}]",
        "of GEMM peak, vitlab": f"{flops * rate['vitlab'] / peak:.0%}",
        "of GEMM peak, timm": f"{flops * rate['timm'] / peak:.0%}",
        "memory ratio": f"{memory['vitlab'] / max(memory['timm'], 1):.2f}",
    }


def misspelled(names: Sequence[str]) -> str:
    """Return what is wrong with the first name that is not a model of both; nothing where all are."""
    for name in names:
        if name not in SPEEDRUN and (name not in models.__all__ or not timm.is_model(name)):
            near = difflib.get_close_matches(name, filter(timm.is_model, models.__all__), n=1)
            return f"vitlab and timm do not both have a model {name}." + (f" Did you mean {near[0]}?" if near else "")
    return ""


def size_of(name: str) -> tuple[int, int]:
    """Return the height and width in pixels that a named model is made for."""
    published, changes = SPEEDRUN.get(name, (name, {}))
    with torch.device("meta"):
        return vars(models)[published](**changes).img_size


def build(name: str, whose: str, compiled: bool, device: torch.device, **changes: Any) -> nn.Module:
    """Build vitlab's or timm's model of that name without drop path, compiled in place if asked.

    Args:
        changes: further arguments, which both call the same.
    """
    published, own = SPEEDRUN.get(name, (name, {}))
    arguments: dict[str, Any] = {"num_classes": NUM_CLASSES, "drop_path_rate": 0.0, **own, **changes}
    model = timm.create_model(published, **arguments) if whose == "timm" else vars(models)[published](**arguments)
    model = model.to(device)
    if compiled:
        model.compile()
    return model


def make_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    phase: str,
    precision: str,
    optimizer: torch.optim.Optimizer | None = None,
) -> Callable[[], object]:
    """Return one step: forward, backward and, if given, the optimizer's, or forward alone; bfloat16 by autocast, as a
    Trainer does it."""
    autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def training() -> None:
        model.zero_grad(set_to_none=True)
        with autocast:
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        if optimizer is not None:
            optimizer.step()

    def inference() -> None:
        with torch.inference_mode(), autocast:
            model(images)

    model.train(phase == "training")
    return training if phase == "training" else inference


def count_flops(model: nn.Module, image: Tensor, label: Tensor, phase: str) -> int:
    """Count the FLOPs of one image's step; a multiplication with its addition counts as two."""
    return flops_of(make_step(model, image, label, phase, "float32"))


def peak_memory(
    name: str, whose: str, precision: str, batch_size: int, phase: str, compiled: bool, device: torch.device
) -> int:
    """Return the bytes that two steps need beyond the model itself, measured in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        threads = torch.get_num_threads()
        return pool.submit(_peak, name, whose, precision, batch_size, phase, compiled, device, threads).result()


def _peak(
    name: str, whose: str, precision: str, batch: int, phase: str, compiled: bool, device: torch.device, threads: int
) -> int:
    torch.set_num_threads(threads)
    model = build(name, whose, compiled, device)
    images, labels = random_batch(name, batch, device)
    memory = PeakMemory(device)
    step = make_step(model, images, labels, phase, precision)
    for _ in range(2):
        step()
    wait_for(device)
    return memory.growth()


def random_batch(name: str, batch_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return images of the model's size and labels, of ten classes so that all models have them."""
    images = torch.randn(batch_size, 3, *size_of(name), device=device)
    return images, torch.randint(10, (batch_size,), device=device)


if __name__ == "__main__":
    main()
