"""TFLOP/s of a run, and the fraction of the device's peak that they are.

Model FLOPs utilization (Chowdhery et al., "PaLM", 2022, appendix B) = FLOPs of a step / seconds of a step / peak. What
gradient checkpointing recomputes does not count. The peak is that of a large matrix product measured on the device of
the run; data sheets promise more, and the utilization by theirs would be smaller.
"""

from contextlib import ExitStack
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.flop_counter import FlopCounterMode

from vitlab.evaluation.cost.flops import dtype_of, gemm_peak
from vitlab.internals import flop_counter


class Utilization(Callback):
    """Counts the FLOPs of a run's first batch, and keeps the count in the run's state for when it continues.

    Where images grow over the run, it counts the first batch of each size. Compiled blocks run uncompiled during a
    count, so that the count depends on the steps of the run alone.
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

    def state_dict(self) -> dict[str, Any]:
        return {"flops": self.flops, "grown": self.grown, "first": self._first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.flops = state_dict["flops"]
        self.grown, self._first = state_dict.get("grown", {}), state_dict.get("first", 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        if device.type == "cuda":
            self.peak = gemm_peak(dtype_of(str(trainer.precision)), device)

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

    def on_train_batch_end(self, *args: Any) -> None:
        self._stop()  # if a step accumulates batches, after the first
        if self.flops:
            self._epoch.append(self.grown.get(self._side, self.flops))

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
        """Return the TFLOP/s since the last report and, where the peak is known, the utilization.

        Nothing before anything was counted.
        """
        if not self.flops:
            return {}
        batches, self._epoch = self._epoch or [self.flops], []
        rate = sum(batches) / len(batches) * batches_per_second
        return {"tflops": rate / 1e12} | ({"mfu": rate / self.peak} if self.peak else {})
