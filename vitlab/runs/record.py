"""The run directory: configuration, environment, data, predictions and summary of a run."""

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import huggingface_hub  # its parts are imported on use, and tqdm with them
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from vitlab import log
from vitlab.atomic_files import write_text
from vitlab.config import Config, dump_yaml, texts_of, weights_of
from vitlab.data import ImageDataModule
from vitlab.data.photos import height_and_width
from vitlab.distributed import from_all_processes
from vitlab.evaluation import predictions as predicted
from vitlab.evaluation.cost import inference_cost, processor_name
from vitlab.evaluation.per_class import stratum_metrics, write_per_class
from vitlab.evaluation.utilization import Utilization
from vitlab.internals import is_within_an_epoch
from vitlab.objectives.objective import weights_path
from vitlab.objectives.sharding import FSDP
from vitlab.runs.directory import CONFIG, DATA, ENVIRONMENT, METRICS, PREDICTIONS, SUMMARY, VALUES, RunDirectory
from vitlab.runs.exactness import inexact
from vitlab.runs.lock import check_held
from vitlab.runs.loggers import MetricsFile, UnbreakableWandbLogger

OWN_FILES = (  # patterns
    *(CONFIG, ENVIRONMENT, DATA, METRICS, PREDICTIONS, VALUES, SUMMARY),
    *("per_class.csv", "per_stratum.csv", "confusion.csv", "robustness.csv", "pictures/*.png", "other_test/*"),
    "checkpoints/**/*.ckpt",  # a user's own too
    "probe-*.json",  # of the earlier weights
    "wandb/run-id.txt",  # or the new curves would follow the old ones
)


class RunRecord(Callback):
    """Writes configuration, environment and data before the first step, and the results after the last.

    Nothing is written until the model and the data are built and set up, so that a failed start leaves nothing behind.
    """

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        self.directory = self.results = directory  # `results`: where a test writes
        self.config = config
        self.computed: dict[str, float] = {}  # from the predictions of the last test
        self.best: dict[str, float] | None = None  # epoch, and its metric
        self.before: dict[str, Path] = {}  # by setting, the runs that this one takes weights from
        self.overwrite = False  # whether it may replace another; both are set by `Experiment.fit`
        self.metrics: dict[str, float] = {}  # of training and validation, as an earlier start ended with
        self._ended = False  # whether an earlier start ended before the last epoch, as EarlyStopping does
        self.began = time.perf_counter()  # what is timed as the whole command; `Experiment.fit` sets it
        self.seconds = self._wall_before = 0.0
        self.images: int | None = None  # seen without a step
        self._started: float | None = None
        self._outputs: list[dict[str, Tensor]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give a user's ModelCheckpoint a folder next to our checkpoints; Lightning would name it after a logger."""
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(self.directory / "checkpoints" / "own")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        log.info("%s: %s", self.directory, f"continuing from {trainer.ckpt_path}" if trainer.ckpt_path else "training")
        self.directory.mkdir(parents=True, exist_ok=True)
        # Hashes, since version numbers do not show changes: of vitlab's files that train, of classes from elsewhere by
        # class path, and of the weights that the training starts from or is taught by.
        hashes = {"code": LOADED, "sources": sources(self.config), "weights": weights(self.config, self.before)}
        known = {name: entry for name, entry in hashes.items() if entry}
        now = environment(trainer) | {"compiled": self.config["run"]["compile"]} | known
        if trainer.ckpt_path is None:
            erase(self.directory)
        else:
            before = RunDirectory(self.directory).environment or now
            if differences := inexact(before, now):
                log.warning("Continued, but not to the bit: %s.", "; ".join(differences))
            now = continued(before, now)
        write_text(self.directory / CONFIG, dump_yaml(self.config))
        write_text(self.directory / ENVIRONMENT, json.dumps(now, indent=2))
        if not (self.directory / DATA).is_file() or self.overwrite:  # else of the start: equal
            facts = trainer.datamodule.facts()  # type: ignore[attr-defined]
            write_text(self.directory / DATA, json.dumps(facts, indent=2, ensure_ascii=False))
        for logger in trainer.loggers:
            if isinstance(logger, UnbreakableWandbLogger):
                logger.start()

    def drop_rows_ahead(self, trainer: Trainer) -> None:
        """Remove the rows of metrics.csv that the run is about to write again."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.keep_until(trainer.global_step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.drop_rows_ahead(trainer)
        trainer.should_stop |= self._ended
        self._started = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember what the epochs before logged, which no later one may log again."""
        self.metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Remember the best epoch, which the released scripts of DeiT, Swin, SimMIM and MAE print."""
        monitor = pl_module.monitor
        if trainer.state.fn != TrainerFn.FITTING or monitor is None or monitor.metric not in trainer.callback_metrics:
            return
        value = float(f"{trainer.callback_metrics[monitor.metric]:.8g}")  # as metrics.csv has it
        sign = 1 if monitor.mode == "max" else -1
        if not math.isnan(value) and (self.best is None or sign * value > sign * self.best[monitor.metric]):
            self.best = {"epoch": trainer.current_epoch + 1, monitor.metric: value}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += self._since_start()
        self._started = None

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds + self._since_start(), "wall_seconds": self.wall_seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.seconds, self._wall_before = state_dict["seconds"], state_dict["wall_seconds"]

    @property
    def wall_seconds(self) -> float:
        """Seconds since the start of the command, and those of earlier starts up to their last checkpoint."""
        return self._wall_before + time.perf_counter() - self.began

    def _since_start(self) -> float:
        return time.perf_counter() - self._started if self._started is not None else 0.0

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        check_held(self.directory)
        checkpoint["vitlab_config"], checkpoint["vitlab_best"] = self.config, self.best
        if not is_within_an_epoch(trainer):
            self.metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
            checkpoint["vitlab_ended"] = trainer.should_stop
        checkpoint["vitlab_metrics"] = dict(self.metrics)
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        checkpoint["vitlab_inference"] = {  # what `vitlab.load` needs besides the model
            "class_names": data.class_names if pl_module.encoder.num_classes else [],
            "one_class": pl_module.one_class,
            **data.preprocessing.metadata(),
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember how the training ended, for a run that was killed while testing."""
        self.metrics, self._ended = checkpoint.get("vitlab_metrics", {}), checkpoint.get("vitlab_ended", False)
        self.best = checkpoint["vitlab_best"]

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
        if pl_module.task is not None:  # what another objective's test step returns is its own
            self._outputs.append({name: value.float().cpu() for name, value in outputs.items()})

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not self._outputs:
            return
        check_held(self.directory)
        arrays = {name: in_order(torch.cat([o[name] for o in self._outputs])).numpy() for name in self._outputs[0]}
        self._outputs = []
        if not trainer.is_global_zero:
            return
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        labels = arrays.pop("label").astype(np.int64 if pl_module.one_class else np.float32)
        names = data.image_names("test")[: len(labels)]  # all, unless Trainer's limit_test_batches stopped early
        strata = {name: values[: len(labels)] for name, values in data.strata("test").items()}
        by_image = {name: arrays.pop(name) for name in [*arrays] if name not in ("logits", "logits_ema")}
        by_image |= pl_module.task.values(arrays["logits"], labels)
        self.write_values(names, by_image)
        predictions = predicted.Predictions(names, labels, **arrays, strata=strata)
        predicted.write_predictions(self.results / PREDICTIONS, predictions)
        if pl_module.one_class:
            write_per_class(self.results, predictions, data.class_names)
            self.computed = stratum_metrics(predictions)
            if not (data.tests_on_validation or isinstance(trainer.strategy, FSDP)):  # as export --calibrate does
                batches = data.batches("val", pl_module.device)
                val = torch.cat([pl_module.backbone(images) for (images,), _ in batches]).float().cpu().numpy()
                if not math.isnan(temperature := predicted.fitted_temperature(val, data.labels("val"))):
                    after = predicted.calibration_error(predictions.logits / temperature, labels)
                    self.computed |= {"test/temperature": temperature, "test/ece_calibrated": after}

    def write_values(self, images: Sequence[str], values: Mapping[str, np.ndarray]) -> None:
        """Write metrics by test image, as `RunDirectory.values` has them; their names may begin with `test/`."""
        for name, value in values.items():
            if value.shape != (len(images),):
                raise ValueError(f"{name} is {value.shape}; give a value for each of the {len(images)} test images.")
        if values:
            columns = {name.removeprefix("test/"): value.astype(np.float64) for name, value in values.items()}
            predicted.write_values(self.results / VALUES, images, columns)

    def classified(self, trainer: Trainer, metrics: Mapping[str, float], seconds: float) -> None:
        """Record, in place of a training, that a frozen encoder saw each image once, and was classified."""
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self.seconds, self.images = seconds, len(data.labels("train")) + len(data.labels("val"))
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": 0, **metrics}, step=0)
            logger.save()

    def finish(
        self, trainer: Trainer, pl_module: LightningModule, metrics: dict[str, float], partial: list[str]
    ) -> None:
        """Write summary.json, which makes the run a finished one, and close W&B; `partial` is why it has no result."""
        for logger in trainer.loggers:
            if isinstance(logger, UnbreakableWandbLogger):
                logger.finish()
        if not trainer.is_global_zero:
            return
        check_held(self.directory)
        before = [RunDirectory(directory).summary for directory in self.before.values()]
        if (images := self.images) is None:  # the last step of an epoch may have fewer batches than the others
            batches, accumulate = trainer.num_training_batches, trainer.accumulate_grad_batches
            processed = trainer.global_step * accumulate
            if not math.isinf(batches):  # it is where no epoch began
                epochs, steps = divmod(trainer.global_step, math.ceil(batches / accumulate))
                processed = epochs * int(batches) + steps * accumulate
            images = processed * trainer.datamodule.batch_size * trainer.world_size  # type: ignore[attr-defined]
        summary = {
            "finished": True,
            "seconds": round(self.seconds, 3),
            "wall_seconds": round(self.wall_seconds, 3),
            "seconds_before": round(sum(each["seconds"] + each["seconds_before"] for each in before), 3),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "images_seen": images,
            "partial": partial,
            "metrics": metrics,
            "cost": _cost(trainer, pl_module),
            "best_epoch": self.best,
        }
        write_text(self.directory / SUMMARY, json.dumps(summary, indent=2))
        RunDirectory(self.directory).previous_checkpoint.unlink(missing_ok=True)  # nothing continues from it now


def _cost(trainer: Trainer, pl_module: Any) -> dict[str, float | None]:
    """Return what the training took, and what a forward pass of its encoder takes; None: not known."""
    data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
    device = trainer.strategy.root_device
    training = next(callback for callback in trainer.callbacks if isinstance(callback, Utilization))  # type: ignore[attr-defined]
    own = trainer.world_size if device.type == "cuda" else 1  # whose joules are of this process's device
    cost = {
        "parameters": sum(parameter.numel() for parameter in pl_module.backbone.parameters()),
        "train_peak_bytes": training.peak_bytes,
        "train_joules": None if training.joules is None else training.joules * own,
    }
    if isinstance(trainer.strategy, FSDP):  # no process has the whole encoder
        return cost
    shape = (data.eval_batch_size or data.batch_size, data.in_chans, *height_and_width(data.image_size))
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    images, precision = trainer.precision_plugin.convert_input(images), trainer.precision_plugin.val_step_context
    try:
        return cost | inference_cost(pl_module.encoder, pl_module.backbone, images, precision)
    except (RuntimeError, TypeError, ValueError) as error:  # the training is worth more than this
        log.warning("The cost of a forward pass is not known: %s", error)
        return cost


def in_order(values: Tensor) -> Tensor:
    """Return the rows of all processes in the order of the data set; process r of w has rows r, r + w, r + 2w, …"""
    shards: list[Tensor] = from_all_processes(values)
    whole = torch.empty(sum(map(len, shards)), *values.shape[1:], dtype=values.dtype)
    for rank, shard in enumerate(shards):
        whole[rank :: len(shards)] = shard
    return whole


def erase(directory: Path) -> None:
    """Remove the files of an earlier run, also checkpoints of the user's own callbacks; other files stay."""
    for file in [file for pattern in OWN_FILES for file in directory.glob(pattern)]:
        file.unlink()


def environment(trainer: Trainer) -> dict[str, Any]:
    """Return versions, device, commit and command of the run."""
    device, commit = trainer.strategy.root_device, None
    with suppress(OSError):  # without git
        command = ["git", "describe", "--always", "--dirty"]
        told = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
        commit = told.stdout.strip() or None
    versions: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):  # of a clone that is not installed
            versions[package] = importlib.metadata.version(package)
    return {
        "python": platform.python_version(),
        **versions,
        "git": commit,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "devices": trainer.world_size,
        "precision": trainer.precision,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),  # the vector units that decide how sums are rounded
        **{name.lower(): os.environ.get(name) for name in ("ONEDNN_MAX_CPU_ISA", "MKL_CBWR")},  # which choose kernels
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "command": "python -m vitlab " + " ".join(sys.argv[1:]),
        "folder": str(Path.cwd()),  # to which relative paths in config.yaml refer
    }


# Their versions are in environment.json, so their classes need no hash.
PACKAGES = ("vitlab", "torch", "torchvision", "lightning", "torchmetrics", "timm", "jsonargparse", "numpy")
ELSEWHERE = ("__main__.py", "analysis", "commands", "deployment", "studies")  # what no training uses


def continued(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a run that continues: with the weights it began with, and what has changed since."""
    changed = [*before.get("changed", []), *(n for n in ("code", "sources") if before.get(n) != now.get(n))]
    kept = {"weights": before["weights"]} if "weights" in before else {}
    return {**now, **kept} | ({"changed": [*dict.fromkeys(changed)]} if changed else {})


def code() -> str:
    """Return the hash of vitlab's files that train."""
    package = Path(__file__).parents[1]
    names = sorted(path.relative_to(package) for path in package.rglob("*.py"))
    used = (name for name in names if name.parts[0] not in ELSEWHERE)
    return _hash(part for name in used for part in (name.as_posix().encode(), (package / name).read_bytes()))


def sources(config: Config) -> dict[str, dict[str, str]]:
    """Return file and hash of each class of the user's own, by its class path.

    The hash is of the modules that are loaded and lie where the class's package lies, which it may use; of an
    installed one, of its own package.
    """
    own: dict[str, dict[str, str]] = {}
    files = {name: getattr(module, "__file__", None) for name, module in [*sys.modules.items()]}
    loaded = {name: Path(file) for name, file in files.items() if file}
    for path in sorted({text for text, _ in texts_of(config)}):  # a class path, or a class as a value: `my.Block`
        module, package = path.rpartition(".")[0], path.partition(".")[0]
        if module not in loaded or package in PACKAGES:
            continue
        home = loaded[module].parents[module.count(".") + hasattr(sys.modules[module], "__path__")]
        used = set()
        for name, file in loaded.items():
            if file.is_relative_to(home) and name != "__main__":
                installed = any(part.endswith("-packages") for part in (home.name, *file.relative_to(home).parts))
                other = name.partition(".")[0]
                if other == package or not (installed or other in PACKAGES):
                    used.add(file)
        hashed = _hash([file.read_bytes() for file in sorted(used) if file.is_file()])
        own[path] = {"file": str(loaded[module]), "hash": hashed}
    return own


def weights(config: Config, before: Mapping[str, Path]) -> dict[str, dict[str, str | None]]:
    """Return path and hash of each file of weights that a configuration names, by its key; no hash if it is gone."""
    named: dict[str, dict[str, str | None]] = {}
    for key, source in weights_of(config).items():
        source = str(before.get(key, source))
        file, digest = source, None
        if key.endswith(".pretrained"):
            import timm

            name = source.removeprefix("timm/")
            cfg = timm.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
            file = str(cfg.hf_hub_id) if cfg is not None else source
        with suppress(OSError, ValueError):  # a continued run no longer needs them
            if file.startswith("timm/"):  # the file that was read, without asking the hub again
                path = Path(str(huggingface_hub.try_to_load_from_cache(file, "model.safetensors")))
            else:
                path = weights_path(file)
            with path.open("rb") as content:
                digest = hashlib.file_digest(content, "blake2b").hexdigest()[:16]
        named[key] = {"path": source, "hash": digest}
    return named


def _hash(contents: Iterable[bytes]) -> str:
    return hashlib.blake2b(b"".join(hashlib.blake2b(content).digest() for content in contents)).hexdigest()[:16]


LOADED = code()  # also of runs that fork from this process after files have changed
