"""Skip an optimizer step whose loss or gradient is not finite, and name its images.

The check runs on the device, and nothing waits for it: a fused optimizer reads the result (`found_inf`) in its own
kernel and leaves the weights unchanged. On a GPU the result is read one step later, on a CPU at once. Other optimizers
cannot read it; for them it is read at once on a GPU too, and the step is not taken.
"""

from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils import get_total_norm

from vitlab import log
from vitlab.data import ImageDataModule
from vitlab.distributed import mean_over_processes
from vitlab.internals import can_skip_its_step, skip_step_if
from vitlab.objectives.objective import SkippedStep
from vitlab.objectives.sharding import as_gradients, local_shards

MAX_CONSECUTIVE = 50  # more skipped steps in a row are not the fault of a batch: the weights themselves have diverged


class Check:
    """The result of a step's check on its way to the host: reading it waits for what was queued before it alone."""

    def __init__(self, finite: Tensor, step: int, epoch: int, batch: int) -> None:
        self.finite = finite.to("cpu", non_blocking=True)
        self.step, self.epoch = step, epoch  # both from 0
        self.batch = batch  # of the epoch, from 0; the first where gradients are accumulated
        self.arrived = torch.cuda.Event() if finite.is_cuda else None
        if self.arrived is not None:
            self.arrived.record()

    def result(self) -> bool:
        if self.arrived is not None:
            self.arrived.synchronize()
        return bool(self.finite)


class FiniteSteps(Callback):
    """Skips every optimizer step whose loss or gradient is not finite, then stops the run or continues it.

    Args:
        action: stop: with status 1, and the last checkpoint from before. skip: continue, and count the skipped steps.
    """

    def __init__(self, action: Literal["stop", "skip"]) -> None:
        self.action = action
        self.left_out = self._consecutive = 0
        self._batch: int | None = None  # the first of this step
        self._loss_is_finite: Tensor | None = None
        self._pending: Check | None = None

    def state_dict(self) -> dict[str, int]:
        return {"left_out": self.left_out}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.left_out = state_dict["left_out"]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch = batch_idx if self._batch is None else self._batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        finite = torch.isfinite(loss.detach())
        self._loss_is_finite = finite if self._loss_is_finite is None else self._loss_is_finite & finite

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert self._loss_is_finite is not None
        assert self._batch is not None
        # float16's scaler produces infinite gradients by design, and skips such steps itself.
        finite, scaled = self._loss_is_finite, getattr(trainer.precision_plugin, "scaler", None) is not None
        skips_itself = scaled or can_skip_its_step(optimizer)
        if not scaled:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            # Each process has its own loss, but the same gradient as all others or its own shard of it.
            finite = all_finite(local_shards(gradients)) & (finite if trainer.world_size == 1 else True)
            if isinstance(pl_module, FSDPModule):
                finite = mean_over_processes(finite.float()) == 1
            if skips_itself:
                skip_step_if(optimizer, as_gradients((~finite).float(), gradients))
        check = Check(finite, trainer.global_step, trainer.current_epoch, self._batch)
        self._loss_is_finite = self._batch = None
        known: Check | None = check
        if finite.is_cuda and skips_itself:
            known, self._pending = self._pending, check
        if known is not None:
            self._read(trainer, pl_module, known)
        if not skips_itself and not bool(check.finite):  # known by now
            raise SkippedStep

    def settle(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the result that is still on its way."""
        check, self._pending = self._pending, None
        if check is not None:
            self._read(trainer, pl_module, check)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.settle(trainer, pl_module)
        if self.left_out:
            pl_module.log("train/steps_left_out", float(self.left_out), rank_zero_only=True)

    def _read(self, trainer: Trainer, objective: Any, check: Check) -> None:
        if check.result():
            self._consecutive = 0
            return
        self.left_out, self._consecutive = self.left_out + 1, self._consecutive + 1
        if self.action == "skip" and self._consecutive <= MAX_CONSECUTIVE:
            message = "Step %d is skipped: its loss or gradient is not finite (%d skipped so far)."
            log.warning(message, check.step, self.left_out)
            return
        if trainer.is_global_zero:
            data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
            _, images = data.training_batch(check.epoch, check.batch, objective.device)
            remedy = "--trainer.detect_anomaly true names the operation, --run.not_finite skip leaves such steps out"
            stopped = "the run stops before it, and the same command continues from the last checkpoint"
            message = "Step %d: loss or gradient not finite, with %s …; %s: %s."  # one line: a study reports the last
            log.error(message, check.step, ", ".join(images[:3]), stopped, remedy)
        raise SystemExit(1)


def all_finite(tensors: list[Tensor]) -> Tensor:
    """Return, on their device, whether all tensors are finite, from one number of each.

    On a GPU this is the largest absolute value. On a CPU, where that takes nine times as long, it is the sum, which
    also overflows where finite numbers add up to more than 3e38; no optimizer could take a step of such gradients.
    """
    if any(tensor.device.type != "cpu" for tensor in tensors):
        return torch.isfinite(get_total_norm(tensors, float("inf")))
    return torch.isfinite(torch.stack([tensor.sum().float() for tensor in tensors])).all()
