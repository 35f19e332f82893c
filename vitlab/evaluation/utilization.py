"""What a run's training takes: TFLOP/s, the fraction of the device's peak that they are, peak memory and energy.

Model FLOPs utilization (Chowdhery et al., "PaLM", 2022, appendix B) = FLOPs of a step / seconds of a step / peak. What
gradient checkpointing recomputes does not count. The peak is that of a large matrix product measured on the device of
the run; data sheets promise more, and the utilization by theirs would be smaller.
"""

from contextlib import ExitStack
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.flop_counter import FlopCounterMode

from vitlab.evaluation.cost import Nvml, PeakMemory, Rapl, bytes_of_tensors, dtype_of, gemm_peak, meter_for
from vitlab.internals import flop_counter


class Utilization(Callback):
    """Counts the FLOPs of a run's first batch, and keeps the count in the run's state for when it continues.

    Where images grow over the run, it counts the first batch of each size. Compiled blocks run uncompiled during a
    count, so that the count depends on the steps of the run alone.

    Peak memory is that of all tensors in training and validation; on a CPU, that of the tensors after the first batch,
    which also loads libraries, and by how much the process grew later. Energy is the device's, other programs included.
    """

    state_key = "Utilisation"  # in checkpoints, as first versions spelled it

    def __init__(self) -> None:
        self.flops: int | None = None  # of one batch on this device, the first
        self.grown: dict[int, int] = {}  # of a batch of larger images, by their side in pixels
        self.peak: float | None = None  # FLOP/s; None on a CPU, where measuring takes too long
        self._counter: FlopCounterMode | None = None
        self._counting = ExitStack()
        self._first = self._side = 0  # of images in the first batch and in this one
        self._epoch: list[int] = []  # FLOPs of the batches since the last report
        self.peak_bytes: int | None = None  # in training
        self._memory: PeakMemory | None = None
        self._held = 0  # bytes of tensors when it was made
        self.joules: float | None = None  # of training; None: the device has no meter
        self._meter: Nvml | Rapl | None = None
        self._joules_before = 0.0  # what `joules` is the meter's reading less

    def state_dict(self) -> dict[str, Any]:
        self._read_meters()
        taken = {"peak_bytes": self.peak_bytes, "joules": self.joules}
        return {"flops": self.flops, "grown": self.grown, "first": self._first, **taken}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.flops = state_dict["flops"]
        self.grown, self._first = state_dict.get("grown", {}), state_dict.get("first", 0)
        self.peak_bytes, self.joules = state_dict.get("peak_bytes"), state_dict.get("joules")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        if device.type == "cuda":
            self.peak = gemm_peak(dtype_of(str(trainer.precision)), device)
            self._memory = PeakMemory(device)
        self._meter = meter_for(device)
        if self._meter is not None:
            self._joules_before = self._meter.joules() - (self.joules or 0.0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._side = batch[0][0].shape[-1]
        if self.flops is None and trainer.global_step == 0 and batch_idx == 0:
            self._first = self._side
        elif not self.flops or self._side in {self._first, *self.grown} or not self._first:
            return
        # Some versions of torch (2.11) never compile a function that they first meet under a counter.
        self._counting.enter_context(torch.compiler.set_stance("force_eager"))
        self._counter = self._counting.enter_context(flop_counter())

    def on_before_optimizer_step(self, *args: Any) -> None:
        self._stop()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._stop()  # if a step accumulates batches, after the first
        if self.flops:
            self._epoch.append(self.grown.get(self._side, self.flops))
        if self._memory is None:
            self._held, self._memory = bytes_of_tensors(), PeakMemory(trainer.strategy.root_device)

    def on_train_end(self, *args: Any) -> None:
        self._read_meters()
        self._memory = self._meter = None

    def _read_meters(self) -> None:
        if self._memory is not None:
            peak = self._memory.growth() + self._held if self._held else self._memory.peak()
            self.peak_bytes = max(peak, self.peak_bytes or 0)
        if self._meter is not None:
            self.joules = self._meter.joules() - self._joules_before

    def on_exception(self, *args: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._counter is None:
            return
        self._counting.close()
        flops, self._counter = int(self._counter.get_total_flops()), None
        if self._side == self._first:
            self.flops = flops
        else:
            self.grown[self._side] = flops

    def rates(self, batches_per_second: float) -> dict[str, float]:
        """Return the TFLOP/s since the last report, if they were counted, and if the peak is known the utilization."""
        if not self.flops:
            return {}
        batches, self._epoch = self._epoch or [self.flops], []
        rate = sum(batches) / len(batches) * batches_per_second
        return {"tflops": rate / 1e12} | ({"mfu": rate / self.peak} if self.peak else {})
