"""FLOPs of a step, what a forward pass of a trained model takes, and the peak FLOP/s of a device."""

import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vitlab.evaluation.cost.device import wait_for
from vitlab.evaluation.cost.memory import PeakMemory
from vitlab.internals import count_attention_on_cpu
from vitlab.models import ImageModel
from vitlab.models.backbone import in_eval_mode

PASSES = 5  # of which the median is the speed of inference
GEMM_SIDE = 4096  # large enough to keep the largest GPU busy for a tenth of a millisecond


count_attention_on_cpu()


def flops_of(step: Callable[[], object]) -> int:
    """Count the FLOPs of a step as torch does: two per multiply-add, recomputed ones included."""
    # torch 2.11 never compiles a function that it first meets under a counter.
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def count_flops(model: nn.Module, image: Tensor) -> int:
    """Count the FLOPs of one forward pass; fused attention counts as its matrix products."""
    model.eval()
    with torch.no_grad():
        return flops_of(lambda: model(image))


def count_flops_in_training(model: nn.Module, images: Tensor) -> int:
    """Count the FLOPs per image of a forward pass in training, of two images or more, as batch norm needs."""
    model.train()
    with torch.no_grad():
        return flops_of(lambda: model(images)) // len(images)


def inference_cost(
    encoder: ImageModel, backbone: ImageModel, images: Tensor, precision: Callable[[], AbstractContextManager[None]]
) -> dict[str, float]:
    """Return what a forward pass of a trained encoder takes on the device of `images`, as in a test.

    `flops` are of one image, two per multiply-add. `train_forward_flops`, of the backbone in training, are fewer where
    a model averages several views at test time.
    """
    device, place = images.device, next(encoder.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # what comes later draws as without
        trained = copy.deepcopy(backbone).to(device)  # whose statistics change
        train_forward_flops = count_flops_in_training(trained, images[:1].expand(2, -1, -1, -1))
        del trained
    encoder.to(device)
    seconds = []
    with in_eval_mode(encoder), encoder.biases_kept(), torch.inference_mode(), precision():
        memory = PeakMemory(device)
        for _ in range(PASSES + 1):
            wait_for(device)
            begin = time.perf_counter()
            encoder(images)
            wait_for(device)
            seconds.append(time.perf_counter() - begin)
        peak = memory.growth()
    with in_eval_mode(encoder):
        flops = count_flops(encoder, images[:1])
    encoder.to(place)
    return {
        "flops": flops,
        "train_forward_flops": train_forward_flops,
        "inference_images_per_second": len(images) / median(seconds[1:]),  # the first warms up
        "inference_peak_bytes": peak + sum(each.nbytes for each in (*encoder.parameters(), *encoder.buffers())),
    }


def dtype_of(precision: str) -> torch.dtype:
    """Return the data type in which a Trainer of this precision multiplies."""
    if precision.startswith("bf16"):
        return torch.bfloat16
    return {"16": torch.float16, "64": torch.float64}.get(precision[:2], torch.float32)


def choose_tf32(precision: str) -> None:
    """Use TF32 for float32 products on a GPU, several times as fast, where the run is in mixed precision anyway.

    By default PyTorch uses it for convolutions only, whatever the precision. These are its older switches, which
    Lightning reads.
    """
    mixed = precision.endswith("-mixed")
    torch.set_float32_matmul_precision("high" if mixed else "highest")
    torch.backends.cudnn.allow_tf32 = mixed


def gemm_peak(
    dtype: torch.dtype,
    device: torch.device,
    side: int = GEMM_SIDE,
    repetitions: int = 20,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the FLOP/s of the fastest of several matrix squarings."""
    # Not zeros or other regular numbers, which a GPU multiplies faster. The run's own generators stay where they are.
    a = torch.randn(side, side, generator=torch.Generator(device).manual_seed(0), device=device, dtype=dtype)
    in_a_row = 10 if device.type == "cuda" else 1  # to start one product and wait for it takes a tenth of its time
    best = float("inf")
    for _ in range(repetitions):
        wait_for(device)
        begin = clock()
        for _ in range(in_a_row):
            a @ a
        wait_for(device)
        best = min(best, (clock() - begin) / in_a_row)
    return 2.0 * side**3 / best
