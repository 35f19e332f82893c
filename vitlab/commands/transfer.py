"""Test runs at other image sizes, windows in proportion: as they are and, on request, after fine-tuning there."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlab.commands.options import StudyParser
from vitlab.config import Config, merge

if TYPE_CHECKING:
    from vitlab.experiment.experiment import Experiment

log = logging.getLogger("vitlab")


def run(arguments: Sequence[str]) -> int:
    """Print and write the table. It is rewritten after each measurement; a killed command continues with the next."""
    options, rest = parse(arguments)

    import pandas as pd

    from vitlab.analysis.transfer import read_transfer, write_transfer
    from vitlab.commands.quiet import quiet
    from vitlab.studies.format import clock

    quiet()
    weights = read_runs(options.config, rest)
    jobs = {}
    for run in weights:
        for size in sorted({run.data.image_size, *options.sizes}):
            config = resized(run, size)
            jobs[key_of(weights[run], config, options)] = (run, size, config)
    rows = {row["key"]: row for row in read_transfer(options.out) if row["key"] in jobs}
    if rows:
        log.info("%d of %d measurements are already in %s", len(rows), len(jobs), options.out / "transfer.csv")
    waiting = {key: job for key, job in jobs.items() if key not in rows}
    start, pixels, total = time.monotonic(), 0, sum(size**2 for _, size, _ in waiting.values())
    for key, (run, size, config) in waiting.items():
        row = measure(run, weights[run], size, config, options)
        rows[key] = {"key": key, "name": run.directory.parent.name, "seed": run.seed} | row
        table = pd.DataFrame([rows[key] for key in jobs if key in rows])
        write_transfer(table, options.out)
        pixels += size**2  # most of the time is proportional to them
        left = clock((time.monotonic() - start) / pixels * (total - pixels))
        accuracy = 100 * row.get("tuned", row["direct"])
        log.info("%s, %d px: %.1f %% (about %s left)", run.directory, size, accuracy, left)
    print((options.out / "transfer.md").read_text(encoding="utf-8"), end="")
    return 0


def parse(arguments: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Return the command's options and the changes of the runs' configurations."""
    parser = StudyParser(
        "python -m vitlab transfer",
        "Test trained runs at other image sizes, windows in proportion. An interrupted command continues with the next "
        "size. Other arguments change the runs' configurations, e.g. --data.eval_batch_size 100.",
    )
    parser.add_argument("-c", "--config", nargs="+", action="extend", required=True, help="config.yaml of each run")
    parser.add_argument("--sizes", nargs="+", type=int, required=True, help="image sizes in px")
    parser.add_argument("--images", type=int, help="number of test images, stratified by class [all]")
    parser.add_argument("--epochs", type=int, default=0, help="epochs of fine-tuning at each other size [0]")
    parser.add_argument("--lr", type=float, help="learning rate of fine-tuning [4 %% of the training's, as published]")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables, the figure and the tuned runs")
    options, rest = parser.parse_known_args(arguments)
    if options.epochs < 0 or min(options.sizes) < 1:
        raise ValueError(f"--epochs {options.epochs}, --sizes {options.sizes}: expected 0 or more, and 1 px or more.")
    if options.images is not None and options.images < 1:
        raise ValueError(f"--images {options.images}: expected 1 or more.")
    return options, rest


def read_runs(configs: Sequence[str], rest: Sequence[str]) -> dict[Experiment, Path]:
    """Return the runs of the configurations, which classify the same test images, with their checkpoints.

    Raises:
        ValueError: a run that does not classify, two of one name and seed, or runs on different images.
    """
    from vitlab.experiment.experiment import Experiment

    runs: dict[tuple[str, int], Experiment] = {}
    weights: dict[Experiment, Path] = {}
    for config in dict.fromkeys(configs):
        run = Experiment.from_arguments(["--config", config, *rest])
        checkpoint = run.checkpoint()
        if checkpoint is None or not run.objective.backbone.num_classes:
            raise ValueError(f"{config}: not a finished run of a classifier; give the config.yaml of one.")
        name = run.directory.parent.name
        if (name, run.seed) in runs:
            raise ValueError(f"{config} is a second run called {name}, seed {run.seed}; the table needs unique names.")
        runs[name, run.seed], weights[run] = run, checkpoint
        first = next(iter(runs.values()))
        if not isinstance(run.data.image_size, int):
            raise ValueError(
                f"{config} sees images of {run.data.image_size} px; only squares are resized. Give other runs."
            )
        if run.data.image_names("test") != first.data.image_names("test"):
            raise ValueError(f"{config} is tested on other images than {configs[0]}; give runs on the same images.")
    return weights


def resized(run: Experiment, size: int) -> Config:
    """Return the run's configuration at another image size.

    Raises:
        ValueError: the architecture does not accept this size.
    """
    arguments = run.config["model"]["init_args"]["backbone"]["init_args"]
    backbone = {"init_args": run.objective.backbone.arguments_at(size, arguments)}
    changes = {"model": {"init_args": {"backbone": backbone}}, "data": {"init_args": {"image_size": size}}}
    return merge(run.config, changes)


def key_of(checkpoint: Path, config: Config, options: Namespace) -> str:
    """Return a hash of what a row depends on: the configuration, the run's weights, and the options."""
    weights = [str(checkpoint), checkpoint.stat().st_mtime_ns]
    content = [config["model"], config["data"], config["trainer"], weights, options.images, options.epochs, options.lr]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def measure(run: Experiment, checkpoint: Path, size: int, config: Config, options: Namespace) -> dict[str, Any]:
    """Return the row of `vitlab.analysis.transfer` for a run at one image size."""
    import numpy as np
    import torch
    from tqdm import tqdm

    from vitlab.evaluation.classify import classify
    from vitlab.evaluation.cost import device_for
    from vitlab.evaluation.probe import Accuracy
    from vitlab.evaluation.robustness import select_images
    from vitlab.experiment.experiment import Experiment
    from vitlab.models.weights import load_weights
    from vitlab.runs.directory import RunDirectory
    from vitlab.studies.baselines import stratified_sample

    device = device_for("auto")
    experiment = Experiment(config)
    model, data = experiment.objective.backbone, experiment.data
    load_weights(model, checkpoint)
    model.to(device).eval()
    labels = data.labels("test")
    chosen = stratified_sample(labels, options.images or len(labels), np.random.default_rng(0))
    batches = tqdm(data.batches("test", device), desc=f"{run.directory}, {size} px", leave=False, disable=None)
    row = {
        "trained_at": run.data.image_size,
        "image_size": size,
        "window": "",
        "bias": "",
        **model.describe(),
        "partial": ", ".join(RunDirectory(run.directory).shortfalls),
        "images": len(chosen),
        **Accuracy.of(*classify(model, select_images(batches, chosen))).columns("direct"),
    }
    if options.epochs and size != run.data.image_size:
        logits = torch.from_numpy(fine_tune(config, checkpoint, size, options)[chosen])
        row |= Accuracy.of(logits.argmax(dim=1), torch.from_numpy(labels[chosen])).columns("tuned")
    return row


def fine_tune(config: Config, checkpoint: Path, size: int, options: Namespace) -> Any:
    """Train a configuration from a checkpoint, as an ordinary run in `out/<name>-<size>px/seed-<n>/`.

    Returns:
        The logits (N, K) of its test images, of the averaged weights where they are kept, as before fine-tuning.
    """
    from vitlab.analysis.transfer import LR_SHARE, WARMUP_SHARE
    from vitlab.experiment.experiment import Experiment
    from vitlab.runs.directory import RunDirectory

    recipe = config["model"]["init_args"]
    rates = {key: recipe["optimizer"]["init_args"].get(key) for key in ("lr", "muon_lr", "head_lr")}
    share = options.lr / rates["lr"] if options.lr else LR_SHARE
    as_trained = {"whiten": False, "head_rows": None, "init_raw": False}  # all is in the weights, which were averaged
    arguments = {
        **{key: value for key, value in as_trained.items() if key in recipe},
        "init_from": str(checkpoint),
        "optimizer": {"init_args": {key: share * rate for key, rate in rates.items() if rate is not None}},
        "schedule": {"init_args": {"warmup_epochs": WARMUP_SHARE * options.epochs}},
    }
    changes = {
        "model": {"init_args": arguments},
        "trainer": {"max_epochs": options.epochs},
        "run": {"root": str(options.out), "name": f"{config['run']['name']}-{size}px", "test": True},
    }
    tuned = Experiment(merge(config, changes))
    tuned.fit()
    predictions = RunDirectory(tuned.directory).predictions
    return predictions.logits if predictions.logits_ema is None else predictions.logits_ema
