"""What happens around training: the run directory and its records, a monitor of features, the progress bar."""

import importlib.metadata
import json
import logging
import math
import os
import platform
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from tqdm import tqdm

import vitlab
from vitlab.atomic_files import write_text
from vitlab.distributed import from_all_processes
from vitlab.evaluation.collapse import rank_me, relative_std
from vitlab.evaluation.features import extract
from vitlab.evaluation.flops import Utilisation
from vitlab.evaluation.knn import predict_weighted
from vitlab.evaluation.labels import require_classes
from vitlab.evaluation.per_class import write_per_class
from vitlab.evaluation.predictions import Predictions, write_predictions
from vitlab.objectives import Classification, Objective
from vitlab.objectives.self_distillation import REMEDIES
from vitlab.objectives.sharding import gathered
from vitlab.runs.checkpoints import RunCheckpoints
from vitlab.runs.resume import inexact
from vitlab.runs.wandb import MetricsFile, UnbreakableWandbLogger

log = logging.getLogger("vitlab")

OWN_FILES = (
    "config.yaml",
    "environment.json",
    "data.json",
    "metrics.csv",
    "predictions.parquet",
    "per_class.csv",
    "confusion.csv",
    "summary.json",
)


class RunRecord(Callback):
    """Writes the run directory: configuration, environment and data before the first step, the results after the last.

    Nothing is written until the model and the data have been built and set up, so that a failed start leaves nothing.
    """

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        self.directory = directory
        self.config = config
        self.seconds = 0.0
        self._started: float | None = None
        self._restarted = False
        self._outputs: list[dict[str, Tensor]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give a user's own ModelCheckpoint a folder beside our checkpoints; Lightning would name it after a logger."""
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(self.directory / "checkpoints" / "own")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        log.info("%s: %s", self.directory, f"continuing from {trainer.ckpt_path}" if trainer.ckpt_path else "training")
        self.directory.mkdir(parents=True, exist_ok=True)
        now = environment(trainer) | {"compiled": self.config["run"]["compile"]}
        if trainer.ckpt_path is None:
            erase(self.directory)
        else:
            self._say_what_is_inexact(now)
        write_text(self.directory / "config.yaml", yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))
        write_text(self.directory / "environment.json", json.dumps(now, indent=2))
        facts = trainer.datamodule.facts()  # type: ignore[attr-defined]
        write_text(self.directory / "data.json", json.dumps(facts, indent=2, ensure_ascii=False))
        for logger in trainer.loggers:
            if isinstance(logger, UnbreakableWandbLogger):
                logger.start()

    def _say_what_is_inexact(self, now: dict[str, Any]) -> None:
        file = self.directory / "environment.json"
        before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else now
        if found := inexact(before, now):
            log.warning("Continued, but not to the bit: %s.", "; ".join(found))

    def keep_rows(self, trainer: Trainer) -> None:
        """Drop the rows of metrics.csv that the run is about to write again."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.keep_until(trainer.global_step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.keep_rows(trainer)
        self._started = time.perf_counter()
        self._restarted = trainer.ckpt_path is not None

    def on_train_batch_end(self, *args: Any) -> None:
        if self._restarted:
            self._restarted = False
            log.info("first new step %.1f s after the start of the command", time.perf_counter() - vitlab.BEGAN)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += self._since_start()
        self._started = None

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds + self._since_start()}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.seconds = state_dict["seconds"]

    def _since_start(self) -> float:
        return time.perf_counter() - self._started if self._started is not None else 0.0

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["vitlab_config"] = self.config

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        if isinstance(pl_module, Classification):  # what another objective's test step returns is its own
            self._outputs.append({name: value.float().cpu() for name, value in outputs.items()})

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        self.on_test_batch_end(trainer, pl_module, outputs)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._outputs:
            return
        outputs = {name: torch.cat([o[name] for o in self._outputs]) for name in self._outputs[0]}
        self._outputs = []
        names: list[str] = trainer.datamodule.image_names("test")  # type: ignore[attr-defined]
        outputs = {name: in_order(values) for name, values in outputs.items()}
        if trainer.is_global_zero:
            self.directory.mkdir(parents=True, exist_ok=True)
            arrays = {name: values.numpy() for name, values in outputs.items()}
            labels = arrays.pop("label").astype(np.int64)
            names = names[: len(labels)]  # all, unless Trainer's limit_test_batches stopped early
            predictions = Predictions(names, labels, **arrays)
            write_predictions(self.directory / "predictions.parquet", predictions)
            write_per_class(self.directory, predictions, trainer.datamodule.class_names)  # type: ignore[attr-defined]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_test_end(trainer, pl_module)

    def finish(
        self, trainer: Trainer, pl_module: LightningModule, metrics: dict[str, float], partial: list[str]
    ) -> None:
        """Write summary.json, which makes the run a finished one, and close W&B.

        Args:
            partial: why its figures are no result, if they are none: untrained, out of time, or tested on a part.
        """
        for logger in trainer.loggers:
            if isinstance(logger, UnbreakableWandbLogger):
                logger.finish()
        if trainer.is_global_zero:
            summary = {
                "finished": True,
                "seconds": round(self.seconds, 3),
                "epochs": trainer.current_epoch,
                "steps": trainer.global_step,
                "images_seen": trainer.global_step * pl_module.global_batch,  # type: ignore[operator]
                "partial": partial,
                "metrics": metrics,
            }
            write_text(self.directory / "summary.json", json.dumps(summary, indent=2))


def in_order(values: Tensor) -> Tensor:
    """Return the rows of all processes in the order of the data set; process r of w has rows r, r + w, r + 2w, …"""
    shards: list[Tensor] = from_all_processes(values)
    whole = torch.empty(sum(map(len, shards)), *values.shape[1:], dtype=values.dtype)
    for rank, shard in enumerate(shards):
        whole[rank :: len(shards)] = shard
    return whole


def erase(directory: Path) -> None:
    """Remove what an earlier run wrote into its directory; files of others stay."""
    for name in OWN_FILES:
        (directory / name).unlink(missing_ok=True)
    for file in (
        *directory.glob("checkpoints/**/*.ckpt"),  # a user's own too
        *directory.glob("pictures/*.png"),
        *directory.glob("not_finite/*"),
    ):
        file.unlink()


def environment(trainer: Trainer) -> dict[str, Any]:
    """Describe what the run ran on: versions, device, commit, command."""
    packages = ("vitlab", "torch", "torchvision", "lightning", "torchmetrics", "timm", "jsonargparse", "numpy")
    device = trainer.strategy.root_device
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "git": commit.stdout.strip() or None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "devices": trainer.world_size,
        "precision": trainer.precision,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "command": "python -m vitlab " + " ".join(sys.argv[1:]),
        "folder": str(Path.cwd()),  # from which relative paths in config.yaml lead
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def is_last_epoch(trainer: Trainer) -> bool:
    """Return, at the end of an epoch, whether the training ends with it."""
    ended = trainer.max_steps >= 0 and trainer.global_step >= trainer.max_steps
    return ended or trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs


class KnnMonitor(Callback):
    """Logs what an encoder's features are worth while an objective without labels trains, and names their collapse.

    For YAML, under `trainer.callbacks`. `val/knn`: what k-NN gets right (k = 20, weighted as in DINO), neighbours being
    training images and queries the validation images. `val/rank` and `val/std` of the queries ask for no label: the
    effective number of dimensions, and how far features of length 1 spread, from 0 to about 1.

    Args:
        every_n_epochs: how often, and after the last epoch.
        most: at most so many neighbours, spread evenly over the training images.
    """

    def __init__(self, every_n_epochs: int = 10, most: int = 10_000) -> None:
        if every_n_epochs < 1 or most < 1:
            raise ValueError(f"KnnMonitor: every_n_epochs is {every_n_epochs} and most {most}; both must be 1 or more.")
        self.every_n_epochs, self.most = every_n_epochs, most

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse data without classes before the training, not after its first epochs."""
        require_classes(torch.from_numpy(trainer.datamodule.labels("train")[:1]))  # type: ignore[attr-defined]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Objective)
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs and not is_last_epoch(trainer):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        every = -(-len(data.labels("train")) // self.most)
        with gathered(pl_module):
            bank, labels = extract(pl_module.encoder, data.batches("train", pl_module.device, every))
            queries, truth = extract(pl_module.encoder, data.batches("val", pl_module.device))
        right = predict_weighted(queries, bank, labels, data.num_classes) == truth
        seen = {"val/knn": float(right.float().mean()), "val/rank": rank_me(queries), "val/std": relative_std(queries)}
        pl_module.log_dict(seen, rank_zero_only=True)
        if seen["val/rank"] < 1.5 and trainer.is_global_zero:  # an encoder as it is built has 2 or more
            log.warning("Collapse: val/rank is %.2f, all images look alike.\n%s", seen["val/rank"], REMEDIES)


class Pace:
    """What a stretch of training did: batches, images, seconds, and seconds of these spent waiting for data."""

    def __init__(self) -> None:
        self.batches = self.images = 0
        self.waited = self.aside = 0.0
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the beginning, without what was no training."""
        return max(time.perf_counter() - self.began - self.aside, 1e-9)


class RunProgress(Callback):
    """One bar for the whole run: epoch, time left for all epochs, images/s, share of the time spent waiting for data.

    Where the output is not a terminal, a line now and then instead. The loss is read from the device once a second,
    not at each step. Logged of each epoch, validation and checkpoints left out: images/s, the share of the time that
    went into waiting for data, the TFLOP/s of a device and, on a GPU, the model FLOPs utilisation.

    Args:
        shown: False: only log, where `trainer.enable_progress_bar` is off or a bar of the user's own is shown.
    """

    def __init__(self, utilisation: Utilisation, seconds_between_lines: float = 10.0, shown: bool = True) -> None:
        super().__init__()
        self.utilisation = utilisation
        self.enabled = shown
        self.seconds_between_lines = seconds_between_lines
        self._run, self._epoch = Pace(), Pace()
        self._last, self._paused_before = time.perf_counter(), 0.0
        self.bar: tqdm[Any] | None = None
        self._eval_bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused_before = self._paused(trainer)
        self._run, self._epoch = Pace(), Pace()
        self._last = self._refreshed = self._line = time.perf_counter()
        self._steps = int(trainer.estimated_stepping_batches) * trainer.accumulate_grad_batches
        self._epochs = math.ceil(self._steps / max(int(trainer.num_training_batches), 1))
        self._first = trainer.fit_loop.total_batch_idx + 1
        if self.enabled and trainer.is_global_zero and sys.stderr.isatty():
            self.bar = tqdm(total=self._steps, initial=self._first, desc="train", dynamic_ncols=True, mininterval=0.5)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        paused = self._paused(trainer) - self._paused_before
        waited = time.perf_counter() - self._last - paused
        self._paused_before += paused
        for pace in (self._run, self._epoch):
            pace.waited += waited
            pace.aside += paused

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = self._last = time.perf_counter()
        for pace in (self._run, self._epoch):
            pace.batches += 1
            pace.images += len(batch[1]) * trainer.world_size
        if self.bar is not None:
            self.bar.update()
        if now - self._refreshed >= 1.0 or trainer.is_last_batch:
            self._refreshed = now
            if self.bar is not None:
                self.bar.set_description_str(f"epoch {trainer.current_epoch + 1}/{self._epochs}", refresh=False)
                self.bar.set_postfix_str(f"{self._rates()}, loss {float(outputs['loss']):.3f}", refresh=False)
            if now - self._line >= 6 * self.seconds_between_lines:  # an epoch of more than a minute
                self._print_line(trainer, now)

    def _leave_out(self, trainer: Trainer) -> None:
        """Count what passed since the last batch as no training: validation, or a checkpoint."""
        now = time.perf_counter()
        for pace in (self._run, self._epoch):
            pace.aside += now - self._last
        self._last, self._paused_before = now, self._paused(trainer)

    @staticmethod
    def _paused(trainer: Trainer) -> float:
        """Return the seconds that went into checkpoints, which is not waiting for data either."""
        return sum(each.seconds for each in trainer.checkpoint_callbacks if isinstance(each, RunCheckpoints))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave_out(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave_out(trainer)
        now = self._last
        pace, self._epoch = self._epoch, Pace()
        rates = {"images_per_second": pace.images / pace.seconds, "data_wait": pace.waited / pace.seconds}
        rates |= self.utilisation.rates(pace.batches / pace.seconds)
        for name, value in rates.items():
            pl_module.log(name, value, rank_zero_only=True)
        if is_last_epoch(trainer) or now - self._line >= self.seconds_between_lines:
            self._print_line(trainer, now)

    def _print_line(self, trainer: Trainer, now: float) -> None:
        """Say how far the run is, where there is no terminal for a bar."""
        if not (self.enabled and trainer.is_global_zero) or self.bar is not None:
            return
        self._line = now
        done = trainer.fit_loop.total_batch_idx + 1
        left = timedelta(seconds=round((self._steps - done) * (now - self._run.began) / max(done - self._first, 1)))
        objective = trainer.lightning_module
        assert isinstance(objective, Objective)
        name = objective.monitor.metric if objective.monitor else "train/loss"
        value = trainer.callback_metrics.get(name)
        reading = f", {name} {float(value):.4f}" if value is not None else ""
        epoch = f"{trainer.current_epoch + 1}/{self._epochs}"
        log.info("epoch %s: %s%s, %s left", epoch, self._rates(), reading, left)

    def _rates(self) -> str:
        pace = self._run
        return f"{pace.images / pace.seconds:,.0f} images/s, {pace.waited / pace.seconds:.0%} waiting for data"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.on_train_end(trainer, pl_module)
