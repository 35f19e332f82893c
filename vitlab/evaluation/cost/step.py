"""Measure the cost of a training step, taking turns with other processes.

Needs its own process, because peak memory is a property of the process. A turn is inference, then training, each for a
fixed time: processes that begin a turn together disturb each other as parallel runs do.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor

from vitlab.evaluation.cost.busy_cores import OtherPrograms
from vitlab.evaluation.cost.cost import Cost
from vitlab.evaluation.cost.device import clock_for, device_name, wait_for
from vitlab.evaluation.cost.energy import meter_for
from vitlab.evaluation.cost.flops import count_flops, count_flops_in_training
from vitlab.evaluation.cost.memory import PeakMemory, TrainingPeak
from vitlab.evaluation.cost.utilization import Utilization
from vitlab.models import ImageModel
from vitlab.models.backbone import in_eval_mode

TURNS = 5
SECONDS = 0.5  # of a turn, for training and for inference
WARM_UP = 5  # optimizer steps before the first turn, two if they exceed SECONDS
ENDLESS = 10**9  # steps of a training that its turns end


@dataclass
class Timed:
    """Measurements of one kind of step of `images` images."""

    images: int
    seconds: list[float] = field(default_factory=list)  # of the median step of each turn
    steps: int = 0
    joules: float = 0.0

    @property
    def images_per_second(self) -> tuple[float, tuple[float, float]]:
        """Median and quartiles over the turns."""
        low, median, high = np.quantile(self.images / np.array(self.seconds), [0.25, 0.5, 0.75]).tolist()
        return median, (low, high)

    @property
    def joules_per_image(self) -> float:
        """Energy of the device."""
        return self.joules / (self.steps * self.images)


class Turns(Callback):
    """Lets a training take turns: after its warm-up, inference and training are timed once for each item of `turns`.

    The training ends with the turns. Its learning rate is zero, which does not affect the cost and keeps every number
    finite.

    Args:
        encoder: For inference.
        images: A batch for it, (B, C, H, W), as large as those of training.
    """

    def __init__(self, turns: Iterator[object], encoder: ImageModel, images: Tensor) -> None:
        self.turns, self.encoder, self.images = turns, encoder, images
        self.inference, self.inference_peak = Timed(len(images)), 0
        self._warm = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.accumulate = trainer.accumulate_grad_batches
        self.training = Timed(self.accumulate * len(self.images))
        self.device, self.clock = pl_module.device, clock_for(pl_module.device)
        self.energy, self.others = meter_for(self.device), OtherPrograms() if self.device.type == "cpu" else None
        self.images = trainer.precision_plugin.convert_input(self.images.to(self.device))
        weights = [*self.encoder.parameters(), *self.encoder.buffers()]
        memory = PeakMemory(self.device)
        self._infer(trainer)
        self.inference_peak = memory.growth() + sum(weight.nbytes for weight in weights)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for config in trainer.lr_scheduler_configs:
            config.scheduler.base_lrs = [0.0 for _ in config.scheduler.base_lrs]
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 0.0
        self._begin(Timed(1))  # the warm-up's, which nobody reads

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self.accumulate:
            return
        self._time_step()
        steps, enough = len(self._times), time.perf_counter() - self._began > SECONDS
        if not self._warm:
            enough = steps >= WARM_UP or (enough and steps >= 2)
        if not enough:
            return
        self._end()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # the next turn is another process's
        if next(self.turns, self) is self:
            trainer.should_stop = True
            return
        self._warm = True
        self._begin(self.inference)
        while time.perf_counter() - self._began <= SECONDS:
            self._infer(trainer)
            self._time_step()
        self._end()
        self._begin(self.training)

    def _infer(self, trainer: Trainer) -> None:
        with in_eval_mode(self.encoder), torch.inference_mode(), trainer.precision_plugin.val_step_context():
            self.encoder(self.images)

    # ---- a stretch of steps of one kind

    def _begin(self, timed: Timed) -> None:
        self._timed, self._times = timed, list[float]()
        self._joules = self.energy.joules() if self.energy else 0.0
        if self.others:
            self.others.__enter__()
        self._began, self._mark = time.perf_counter(), self.clock()

    def _time_step(self) -> None:
        wait_for(self.device)
        now = self.clock()
        self._times.append(now - self._mark)
        self._mark = now

    def _end(self) -> None:
        if self.others:
            self.others.__exit__()
        self._timed.joules += self.energy.joules() - self._joules if self.energy else 0.0
        self._timed.seconds.append(float(np.median(self._times)))
        self._timed.steps += len(self._times)


def measure(
    objective: LightningModule,
    trainer: Trainer,
    batches: LightningDataModule,
    images: Tensor,
    shares: Mapping[tuple[int, int], float],
    turns: Iterator[object],
    processes: int = 1,
    compiled: bool = False,
) -> Cost:
    """Return the cost of training a module; each item of `turns` is a turn, at least one.

    Args:
        objective: With a `backbone`, and an `encoder` for inference.
        trainer: Trains it for ENDLESS steps.
        batches: As many, of training images.
        images: A batch for the encoder, (B, C, H, W), as large as the largest of training.
        shares: The fraction of the training for which images have each size, by height and width.
        processes: That work on the device at once, this one included.
        compiled: Whether the module is.
    """
    backbone, encoder = objective.backbone, objective.encoder
    assert isinstance(backbone, ImageModel)
    assert isinstance(encoder, ImageModel)
    flops, forward_flops, mean_share = _count(backbone, encoder, images, shares)
    counter, memory, meter = Utilization(), TrainingPeak(), Turns(turns, encoder, images)
    trainer.callbacks += [counter, memory, meter]  # type: ignore[attr-defined]
    trainer.fit(objective, datamodule=batches)

    (train_speed, train_quartiles), (speed, quartiles) = (
        timed.images_per_second for timed in (meter.training, meter.inference)
    )
    # The device's energy in this process's time is that of all processes, which take their steps together.
    train_joules, joules = (
        timed.joules_per_image / processes if meter.energy else None for timed in (meter.training, meter.inference)
    )
    threads, others = torch.get_num_threads(), meter.others.mean if meter.others else None
    return Cost(
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        flops=flops,
        train_flops=int(mean_share * (counter.flops or 0)) // len(images),
        train_images_per_second=train_speed,
        inference_images_per_second=speed,
        train_peak_bytes=memory.peak,
        inference_peak_bytes=meter.inference_peak,
        train_joules_per_image=train_joules,
        inference_joules_per_image=joules,
        batch_size=len(images),
        repetitions=min(meter.training.steps, meter.inference.steps),
        device=device_name(meter.device),
        threads=threads,
        torch=torch.__version__,
        train_quartiles=train_quartiles,
        inference_quartiles=quartiles,
        others=None if others is None else max(0.0, others - (processes - 1) * threads),
        cores=meter.others.cores if meter.others else None,
        precision=str(trainer.precision),
        compiled=compiled,
        processes=processes,
        train_forward_flops=forward_flops,
        mean_share=mean_share,
    )


def _count(
    backbone: ImageModel, encoder: ImageModel, images: Tensor, shares: Mapping[tuple[int, int], float]
) -> tuple[int, int, float]:
    """Return the FLOPs of an image at test and in training, and the mean of the latter over that of the largest."""
    training = encoder.training
    flops = count_flops(encoder, images[:1])
    by_size = {
        (height, width): count_flops_in_training(backbone, images[:1, :, :height, :width].expand(2, -1, -1, -1))
        for height, width in shares
    }
    encoder.train(training)
    largest = by_size[images.shape[-2], images.shape[-1]]
    return flops, largest, sum(share * by_size[size] / largest for size, share in shares.items())
