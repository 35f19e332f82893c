"""Measure the cost of an experiment's training step, taking turns with other processes.

Runs in a separate process, because peak memory is a property of the process. A turn is inference, then training, each
for a fixed time: processes that begin a turn together disturb each other as parallel runs do.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from vitlab.config import Config
from vitlab.data.photos import height_and_width
from vitlab.evaluation.allocator import map_tensors
from vitlab.evaluation.busy_cores import OtherPrograms
from vitlab.evaluation.cost import Cost, count_flops, count_flops_in_training, device_name
from vitlab.evaluation.energy import meter_for
from vitlab.evaluation.flops import clock_for, wait_for
from vitlab.evaluation.memory import PeakMemory
from vitlab.experiment.noise_training import on_noise, train_on_noise
from vitlab.models import ImageModel
from vitlab.models.backbone import in_eval_mode
from vitlab.runs.finite_steps import FiniteSteps
from vitlab.runs.utilization import Utilization

TURNS = 5
SECONDS = 0.5  # of a turn, for training and for inference
WARM_UP = 5  # optimizer steps before the first turn, two if they exceed SECONDS
ENDLESS = 10**9  # optimizer steps: the turns end the training


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
        encoder: Of the objective, for inference.
        images: A batch for it, (B, C, H, W).
        accumulate: Batches of a training step.
    """

    def __init__(self, turns: Iterator[object], encoder: ImageModel, images: Tensor, accumulate: int) -> None:
        self.turns, self.encoder, self.images, self.accumulate = turns, encoder, images, accumulate
        self.training, self.inference = Timed(accumulate * len(images)), Timed(len(images))
        self.inference_peak = 0
        self._warm = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.device, self.clock = pl_module.device, clock_for(pl_module.device)
        self.energy, self.others = meter_for(self.device), OtherPrograms() if self.device.type == "cpu" else None
        self.images = trainer.precision_plugin.convert_input(self.images.to(self.device))
        weights = [*self.encoder.parameters(), *self.encoder.buffers()]
        memory = PeakMemory(self.device)
        memory.reset_peak()
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


def measure(config: Config, turns: Iterator[object], processes: int = 1) -> Cost:
    """Return the cost of an experiment; each item of `turns` is a turn, at least one.

    Args:
        processes: That work on the device at once, this one included.
    """
    map_tensors()
    experiment = on_noise(config)
    objective, data, like = experiment.objective, experiment.data, experiment.trainer
    device, accumulate = like.strategy.root_device, like.accumulate_grad_batches
    images = torch.randn(data.batch_size, data.in_chans, *height_and_width(data.image_size))
    training = objective.encoder.training
    flops = count_flops(objective.encoder, images[:1])
    by_side = {
        size: count_flops_in_training(objective.backbone, images[:1, :, :rows, :columns].expand(2, -1, -1, -1))
        for size, (rows, columns) in ((size, height_and_width(size)) for size in data.training_shares)
    }
    forward_flops = by_side[data.image_size]
    mean_share = sum(share * by_side[side] / forward_flops for side, share in data.training_shares.items())
    objective.encoder.train(training)
    if experiment.config["run"]["compile"]:
        objective.compile_parts()
    meter, counter = Turns(turns, objective.encoder, images, accumulate), Utilization()
    checks = FiniteSteps("skip")
    peaks = train_on_noise(objective, data, like, accumulate, ENDLESS, [counter, checks, meter])

    train_speed, train_quartiles = meter.training.images_per_second
    speed, quartiles = meter.inference.images_per_second
    threads, others = torch.get_num_threads(), meter.others.mean if meter.others else None
    return Cost(
        parameters=sum(parameter.numel() for parameter in objective.backbone.parameters()),
        flops=flops,
        train_flops=int(mean_share * (counter.flops or 0)) // data.batch_size,
        train_images_per_second=train_speed,
        inference_images_per_second=speed,
        train_peak_bytes=peaks.peak_bytes,
        inference_peak_bytes=meter.inference_peak,
        # The device's energy in this process's time is that of all processes, which take their steps together.
        train_joules_per_image=meter.training.joules_per_image / processes if meter.energy else None,
        inference_joules_per_image=meter.inference.joules_per_image / processes if meter.energy else None,
        batch_size=data.batch_size,
        repetitions=min(meter.training.steps, meter.inference.steps),
        device=device_name(device),
        threads=threads,
        torch=torch.__version__,
        train_quartiles=train_quartiles,
        inference_quartiles=quartiles,
        others=None if others is None else max(0.0, others - (processes - 1) * threads),
        cores=meter.others.cores if meter.others else None,
        precision=str(like.precision),
        compiled=bool(experiment.config["run"]["compile"]),
        processes=processes,
        train_forward_flops=forward_flops,
        mean_share=mean_share,
    )
