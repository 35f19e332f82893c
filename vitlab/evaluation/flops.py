"""How much arithmetic a training step does, and what share that is of what the device can do (MFU).

Model FLOPs utilization (Chowdhery et al., "PaLM", 2022, appendix B) = FLOPs of a step / seconds of a step / peak. What
gradient checkpointing computes a second time is no part of it. The peak is that of a large matrix product, measured
where the run is, since no list knows every device; data sheets promise more, and a share of theirs is smaller.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.flop_counter import FlopCounterMode

from vitlab.internals import count_attention_on_cpu, flop_counter

GEMM_SIDE = 4096  # a product of two such matrices keeps the largest GPU busy for a tenth of a millisecond


count_attention_on_cpu()


class Utilization(Callback):
    """Counts the FLOPs of the first batch's step and keeps them with the run's state: a continued run counts nothing.

    Within the count compiled blocks run as they are written, in the first step of a run and in no other.
    """

    def __init__(self) -> None:
        self.flops: int | None = None  # of one batch on this device
        self.peak: float | None = None  # FLOP/s; None on a CPU, where measuring would take as long as some epochs
        self._counter: FlopCounterMode | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"flops": self.flops}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.flops = state_dict["flops"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        if device.type == "cuda":
            self.peak = gemm_peak(dtype_of(str(trainer.precision)), device)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.flops is None and trainer.global_step == 0 and batch_idx == 0:
            self._counter = flop_counter()
            self._counter.__enter__()

    def on_before_optimizer_step(self, *args: Any) -> None:
        self._stop()

    def on_train_batch_end(self, *args: Any) -> None:
        self._stop()  # of several batches of a step, the first

    def on_exception(self, *args: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self.flops, self._counter = int(self._counter.get_total_flops()), None

    def rates(self, batches_per_second: float) -> dict[str, float]:
        """Return TFLOP/s and, where the peak is known, the share of it; nothing where nothing was counted."""
        if not self.flops:
            return {}
        rate = self.flops * batches_per_second
        return {"tflops": rate / 1e12} | ({"mfu": rate / self.peak} if self.peak else {})


def flops_of(step: Callable[[], object]) -> int:
    """Count the FLOPs of a step as torch does: a multiplication with its addition as two, recomputed ones too."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def dtype_of(precision: str) -> torch.dtype:
    """Return the type that a Trainer of this precision multiplies in."""
    if precision.startswith("bf16"):
        return torch.bfloat16
    return {"16": torch.float16, "64": torch.float64}.get(precision[:2], torch.float32)


def choose_tf32(precision: str) -> None:
    """Let a GPU round what it multiplies in float32 to TF32, several times as fast, unless float32 was asked for.

    A run in mixed precision multiplies little in float32, and rounds all else further. By itself PyTorch rounds
    convolutions and nothing else, whatever the precision. By its older switches, since Lightning reads those.
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
    """Return the FLOP/s of the fastest of some squares of a matrix."""
    # Not zeros, which are multiplied faster; not random, which would move the run's generators.
    a = torch.linspace(-1, 1, side * side, device=device, dtype=dtype).view(side, side)
    best = float("inf")
    for _ in range(repetitions):
        wait_for(device)
        begin = clock()
        a @ a
        wait_for(device)
        best = min(best, clock() - begin)
    return 2.0 * side**3 / best


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was given; a CPU has when the call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
