"""vitlab's models against timm's, with the same weights: speed and memory, or whether they compute the same.

    python -m benchmarks.against_timm swin_tiny_patch4_window7_224 --precision bfloat16
    python -m benchmarks.against_timm --parity

The steps of the two alternate; a ratio is the median over neighboring steps. Each peak memory is measured in a process
of its own.

Parity is of the logits, and of each parameter's gradient, in float32: the largest difference of any value, relative
to the largest value. A gradient that is 0 in exact arithmetic, like that of a bias shared by all keys, is noise in both
models, so none is compared with less than a hundredth of the model's largest.
"""

import multiprocessing
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.measuring import CPU, alternate, clock_for, machine, markdown, parser_of, ratios, save
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
BOTH = [*SPEEDRUN, *filter(timm.is_model, models.__all__)]
OF_PARITY = (
    "vit_tiny_patch16_224",
    "vit_small_patch32_224",
    "vit_base_patch16_384",
    "deit_tiny_distilled_patch16_224",
    "deit_small_patch16_224",
    "deit_base_patch16_224",
    "deit3_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "swin_small_patch4_window7_224",
    "swin_base_patch4_window7_224",
    "swin_base_patch4_window12_384",
    "swinv2_tiny_window8_256",
    "swinv2_tiny_window16_256",
    "swinv2_base_window8_256",
    "swinv2_base_window12to24_192to384",
)
TRAINER_PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed"}
NUM_CLASSES = 1000
GEMM_SIDE = 2048


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("against_timm", __doc__, "models.md or parity.md")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=BOTH, help="models that both have")
    parser.add_argument("--parity", action="store_true", help="compare what they compute")
    parser.add_argument("--precision", nargs="+", choices=TRAINER_PRECISION, default=list(TRAINER_PRECISION))
    parser.add_argument("--batch", type=int, default=8, help="images per step [8]")
    parser.add_argument("--repetitions", type=int, default=15, help="timed steps of each [15]")
    parser.add_argument("--compile", action="store_true", help="compile both with torch.compile")
    options = parser.parse_args(arguments)
    device = CPU if options.parity else device_for("auto")
    names, rows = options.names or (OF_PARITY if options.parity else NAMES), []
    if options.parity:
        header = f"{machine(device, 'timm')} float32; one image, the largest relative difference."
        measurements = [partial(parity, name) for name in names]
    else:
        header = f"{machine(device, 'timm')} Ratios are vitlab over timm: below 1 is faster or smaller."
        measurements = [
            partial(compare, name, precision, options.batch, phase, options.compile, device, options.repetitions)
            for name, precision, phase in product(names, options.precision, ("training", "inference"))
        ]
    for measure in tqdm(measurements):
        rows.append(measure())
        save(options.out / ("parity.md" if options.parity else "models.md"), markdown(header, rows))
    print(markdown(header, rows), end="")


def compare(
    name: str, precision: str, batch_size: int, phase: str, compiled: bool, device: torch.device, repetitions: int
) -> dict[str, str]:
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


def parity(name: str) -> dict[str, str]:
    """Run both models on one image with timm's weights, each moved a little: some start as 0 and would hide others."""
    theirs, ours = build(name, "timm", False, CPU), build(name, "vitlab", False, CPU)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    ours.load_state_dict(theirs.state_dict())
    size = size_of(name)
    images = torch.randn(1, 3, *size, generator=generator)
    outcomes = []
    for model in (ours, theirs):
        logits = model.train()(images)
        logits.square().sum().backward()
        outcomes.append((logits.detach(), gradients_of(model)))
    (logits, gradients), (expected, expected_gradients) = outcomes
    return {
        "model": name,
        "image size": " × ".join(map(str, size)),
        "logits": f"{difference(logits, expected):.1e}",
        "gradients": f"{largest_difference(gradients, expected_gradients):.1e}",
        "parameters": f"{sum(p.numel() for p in ours.parameters()):,}",
        "timm's": f"{sum(p.numel() for p in theirs.parameters()):,}",
    }


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def largest_difference(gradients: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the largest difference of any gradient from the expected one, relative to its largest value."""
    least = 1e-2 * max(float(gradient.abs().max()) for gradient in expected.values())
    return max(difference(gradients[key], value, least) for key, value in expected.items())


def difference(ours: Tensor, theirs: Tensor, least: float = 0.0) -> float:
    """Return the largest difference, relative to the largest value expected, which is taken to be at least `least`."""
    return float((ours - theirs).abs().max()) / max(float(theirs.abs().max()), least)


def size_of(name: str) -> tuple[int, int]:
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


def peak_memory(*how: Any) -> int:
    """Return the bytes that two steps need beyond the model itself, measured in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, torch.get_num_threads(), *how).result()


def _peak(
    threads: int, name: str, whose: str, precision: str, batch: int, phase: str, compiled: bool, device: torch.device
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
