"""What one training step of each architecture spends a GPU's time on: its three largest costs, by the kernels' names.

On a CPU the costs are those of PyTorch's operations. Kernels of which the names differ in their sizes alone are one.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.against_timm import NUM_CLASSES, make_step
from benchmarks.gpu.architectures import Architecture, chosen, make, side
from benchmarks.gpu.measuring import Figures, Measurement, Setting
from benchmarks.gpu.speed import COMPILED, EAGER, compile_as, products_as_in
from benchmarks.step_profile import kind_of
from vitlab.evaluation.cost import wait_for

WARM_UP, LARGEST = 3, 3

# Names of CUDA kernels; the first that fits. What fits none is what `step_profile.kind_of` takes it for.
KINDS = {
    r"fmha|flash|attention": "attention, fused",
    r"gemm|nvjet|cutlass|cublas|cudnn.*conv|convolve|wgrad|dgrad": "matrix products, convolutions",
    r"layer_norm|batch_norm|bn_fw|bn_bw|LayerNorm": "norms",
    r"[Gg]elu|[Ss]oft[Mm]ax|nll_loss": "GELU, softmax",
    r"multi_tensor_apply|FusedAdam|fused_adam": "optimizer, weight averages",
    r"copy|Cat|index|gather|scatter|roll|pad|Memcpy|Memset|transpose|fill": "copies",
}


def measurements(setting: Setting) -> Iterator[Measurement]:
    for mode in (EAGER,) if setting.dry else (EAGER, COMPILED):
        for title, architecture in chosen(setting.dry).items():
            yield Measurement(f"{title}, {mode}", partial(one_step, title, architecture, mode, setting))


def one_step(title: str, architecture: Architecture, mode: str, setting: Setting) -> Figures:
    """Profile a training step in bfloat16."""
    device, batch = setting.device, 2 if setting.dry else architecture.batch // 2
    model = make(architecture, "vitlab", device, setting.dry)
    compile_as(model, mode, setting.dry)
    images = torch.randn(batch, 3, *[side(architecture, setting.dry)] * 2, device=device)
    labels = torch.randint(NUM_CLASSES, (batch,), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    step = make_step(model, images, labels, "training", "bfloat16", optimizer)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with products_as_in("bf16-mixed"):
        for _ in range(1 if setting.dry else WARM_UP):
            step()
        wait_for(device)
        with profile(activities=activities) as watch:
            step()
            wait_for(device)
    times = costs(watch, device)
    total = sum(times.values())
    kinds: Counter[str] = Counter()
    for name, took in times.items():
        kinds[kind(name)] += took
    return {
        "model": title,
        "mode": mode,
        "batch": batch,
        "milliseconds": total / 1e3,
        "largest": [[name, took / total] for name, took in times.most_common(LARGEST)],
        "kinds": {name: took / total for name, took in kinds.most_common()},
    }


def costs(watch: profile, device: torch.device) -> Counter[str]:
    """Return the microseconds of each kernel, or of each operation on a CPU."""
    times: Counter[str] = Counter()
    for event in watch.key_averages():
        if device.type == "cuda" and event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            times[short(event.key)] += event.self_device_time_total
        elif device.type != "cuda" and event.key.startswith("aten::"):
            times[event.key.removeprefix("aten::")] += event.self_cpu_time_total
    return times


def kind(name: str) -> str:
    """Return what a kernel or an operation does."""
    return next((meaning for pattern, meaning in KINDS.items() if re.search(pattern, name)), kind_of(name))


def short(kernel: str) -> str:
    """Return a kernel's name without types and arguments, and what a generic one is applied to."""
    if product := re.search(r"cutlass_\w+", kernel):
        return product[0]
    name = re.split(r"[<(]", kernel.removeprefix("void "))[0].rpartition("::")[2]
    applied = re.search(r"(\w*(?:Functor|KernelImpl|_kernel_cuda|Ops?)\w*)", kernel[len(name) :])
    return f"{name}, {applied[1]}" if applied and re.search("elementwise|reduce|apply", name) else name
