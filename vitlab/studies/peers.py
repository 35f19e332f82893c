"""Our models beside timm's: the same weights, batch and process, one step of each in turn.

Ratios are medians over neighboring turns (`turns`). Peak memory is taken in a process of its own for each.
"""

import csv
import difflib
import multiprocessing
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitlab import models
from vitlab.evaluation.cost import PeakMemory, device_name
from vitlab.evaluation.flops import dtype_of, flops_of, gemm_peak, wait_for
from vitlab.evaluation.interleaved_timing import alternate, clock_for, ratios

Precision = Literal["float32", "bfloat16"]
Phase = Literal["training", "inference"]
Whose = Literal["vitlab", "timm"]

TRAINER_PRECISION: dict[Precision, Literal["32-true", "bf16-mixed"]] = {"float32": "32-true", "bfloat16": "bf16-mixed"}

NUM_CLASSES = 1000
GEMM_SIDE = 2048


@dataclass(frozen=True)
class Comparison:
    """One model in one phase. Times are ours over timm's: below 1 is faster. Shares are of the measured GEMM peak."""

    model: str
    phase: Phase
    precision: Precision
    compiled: bool
    batch_size: int
    images_per_second: float
    timm_images_per_second: float
    time_ratio: float
    time_ratio_q1: float
    time_ratio_q3: float
    share_of_peak: float
    timm_share_of_peak: float
    peak_bytes: int
    timm_peak_bytes: int
    repetitions: int

    @property
    def memory_ratio(self) -> float:
        """Our peak memory over timm's."""
        return self.peak_bytes / max(self.timm_peak_bytes, 1)


def compare_with_timm(
    name: str, precision: Precision, batch_size: int, repetitions: int, compiled: bool, device: torch.device
) -> list[Comparison]:
    """Measure training and inference of one named model.

    Raises:
        ValueError: not a name of both.
    """
    pair = {whose: build(name, whose, compiled, device) for whose in ("vitlab", "timm")}
    peak = gemm_peak(dtype_of(TRAINER_PRECISION[precision]), device, GEMM_SIDE, clock=clock_for(device))
    pair["vitlab"].load_state_dict(pair["timm"].state_dict())
    images, labels = _batch(name, batch_size, device)
    rows = []
    for phase in ("training", "inference"):
        steps = {whose: make_step(model, images, labels, phase, precision) for whose, model in pair.items()}
        times = alternate(steps, repetitions, device)
        q1, middle, q3 = ratios(times["vitlab"], times["timm"])
        flops = count_flops(pair["vitlab"], images[:1], labels[:1], phase)
        rate = {whose: batch_size / statistics.median(values) for whose, values in times.items()}
        memory = {whose: peak_memory(name, whose, precision, batch_size, phase, compiled, device) for whose in pair}
        rows.append(
            Comparison(
                name,
                phase,
                precision,
                compiled,
                batch_size,
                rate["vitlab"],
                rate["timm"],
                middle,
                q1,
                q3,
                flops * rate["vitlab"] / peak,
                flops * rate["timm"] / peak,
                memory["vitlab"],
                memory["timm"],
                repetitions,
            )
        )
    return rows


def check_names(names: Sequence[str]) -> None:
    """Do nothing if models of these names are timm's and ours: before hours are spent on the first of them.

    Raises:
        ValueError: one is not.
    """
    import timm

    for name in names:
        if name not in models.__all__ or not timm.is_model(name):
            near = difflib.get_close_matches(name, filter(timm.is_model, models.__all__), n=1)
            raise ValueError(f"{name} is not a model of both." + (f" Did you mean {near[0]}?" if near else ""))


def size_of(name: str) -> tuple[int, int]:
    """Return the height and width in pixels that a model of ours is made for."""
    with torch.device("meta"):
        return vars(models)[name]().img_size


def build(name: str, whose: str, compiled: bool, device: torch.device) -> nn.Module:
    """Build a model of that name without drop path, ours or timm's, compiled in place where asked.

    Raises:
        ValueError: not a name of both.
    """
    import timm

    check_names([name])
    arguments: dict[str, Any] = {"num_classes": NUM_CLASSES, "drop_path_rate": 0.0}
    model = timm.create_model(name, **arguments) if whose == "timm" else vars(models)[name](**arguments)
    model = model.to(device)
    if compiled:
        model.compile()
    return model


def make_step(
    model: nn.Module, images: Tensor, labels: Tensor, phase: Phase, precision: Precision
) -> Callable[[], object]:
    """Return one step: forward and backward, or forward alone; mixed precision as a Trainer would."""
    autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def training() -> None:
        model.zero_grad(set_to_none=True)
        with autocast:
            loss = F.cross_entropy(model(images), labels)
        loss.backward()

    def inference() -> None:
        with torch.inference_mode(), autocast:
            model(images)

    model.train(phase == "training")
    return training if phase == "training" else inference


def count_flops(model: nn.Module, image: Tensor, label: Tensor, phase: Phase) -> int:
    """Count the useful FLOPs of one image's step, a multiplication with its addition as two."""
    return flops_of(make_step(model, image, label, phase, "float32"))


def peak_memory(
    name: str, whose: str, precision: Precision, batch_size: int, phase: Phase, compiled: bool, device: torch.device
) -> int:
    """Return the bytes that two steps need beyond the model itself, measured in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        threads = torch.get_num_threads()
        return pool.submit(_peak, name, whose, precision, batch_size, phase, compiled, str(device), threads).result()


def _peak(
    name: str, whose: str, precision: Precision, batch: int, phase: Phase, compiled: bool, device: str, threads: int
) -> int:
    torch.set_num_threads(threads)
    model = build(name, whose, compiled, torch.device(device))
    images, labels = _batch(name, batch, torch.device(device))
    memory = PeakMemory(torch.device(device))
    step = make_step(model, images, labels, phase, precision)
    memory.reset_peak()
    for _ in range(2):
        step()
    wait_for(torch.device(device))
    return memory.growth()


def _batch(name: str, batch_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    images = torch.randn(batch_size, 3, *size_of(name), device=device)
    return images, torch.randint(NUM_CLASSES, (batch_size,), device=device)


def markdown(rows: Sequence[Comparison], device: torch.device) -> str:
    """Return the table, with the machine and the versions in its header."""
    import timm

    machine = f"{device_name(device)}, threads: {torch.get_num_threads()}"
    lines = [
        f"{machine}, torch {torch.__version__}, timm {timm.__version__}. "
        "Ratios are vitlab over timm: below 1 is faster or smaller.",
        "",
        "| model | phase | precision | batch | images/s | timm's | time ratio [quartiles] | of GEMM peak | timm's "
        "| memory ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        how = f"{r.precision}, compiled" if r.compiled else r.precision
        ratio = f"**{r.time_ratio:.2f}** [{r.time_ratio_q1:.2f}, {r.time_ratio_q3:.2f}]"
        lines.append(
            f"| {r.model} | {r.phase} | {how} | {r.batch_size} | {r.images_per_second:.1f} | "
            f"{r.timm_images_per_second:.1f} | {ratio} | {r.share_of_peak:.0%} | {r.timm_share_of_peak:.0%} | "
            f"{r.memory_ratio:.2f} |"
        )
    return "\n".join(lines) + "\n"


def write_table(rows: Sequence[Comparison], device: torch.device, folder: Path) -> None:
    """Write models.csv and models.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "models.md").write_text(markdown(rows, device), encoding="utf-8")
    with (folder / "models.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Comparison)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
