"""Test runs at other image sizes, windows in proportion: as they are and, if asked, after fine-tuning there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlab.commands.options import StudyParser
from vitlab.config import Config, merge

if TYPE_CHECKING:
    from vitlab.evaluation.probe import Accuracy
    from vitlab.experiment.experiment import Experiment

log = logging.getLogger("vitlab")


def run(arguments: Sequence[str]) -> int:
    """Print and write the table; it is written again after each row, so that an interruption keeps what is done."""
    parser = StudyParser(
        "python -m vitlab transfer",
        "Test trained runs at other image sizes, windows grown in proportion. Other arguments change the runs' "
        "configurations, e.g. --data.eval_batch_size 100.",
    )
    parser.add_argument("-c", "--config", nargs="+", action="extend", required=True, help="config.yaml of each run")
    parser.add_argument("--sizes", nargs="+", type=int, required=True, help="sides of the images in px")
    parser.add_argument("--epochs", type=int, default=0, help="fine-tune for so many epochs at each other size [0]")
    parser.add_argument("--lr", type=float, help="of the fine-tuning [4 %% of the training's, as published]")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables, the figure and the tuned runs")
    options, rest = parser.parse_known_args(arguments)
    if options.epochs < 0 or min(options.sizes) < 1:
        raise ValueError(f"--epochs {options.epochs}, --sizes {options.sizes}: give 0 or more, and sides from 1 px.")

    import pandas as pd
    from tqdm import tqdm

    from vitlab.analysis.transfer import write_transfer
    from vitlab.commands.quiet import quiet

    quiet()
    runs = read_runs(options.config, rest)
    jobs = [(run, size) for run in runs for size in sorted({run.data.image_size, *options.sizes})]
    rows: list[dict[str, Any]] = []
    with tqdm(jobs, leave=False, disable=None) as bar:
        for run, size in bar:
            name = run.directory.parent.name
            bar.set_description(f"{name}, seed {run.seed}, {size} px")
            row = test_at(run, size, options.epochs, options.lr, options.out)
            rows.append({"name": name, "seed": run.seed} | row)
            table = write_transfer(pd.DataFrame(rows), options.out)
    print(table.read_text(encoding="utf-8"), end="")
    return 0


def read_runs(configs: Sequence[str], rest: Sequence[str]) -> list[Experiment]:
    """Return the runs of the configurations, which classify the same test images.

    Raises:
        ValueError: a run that does not classify, two of one name and seed, or runs on different images.
    """
    from vitlab.experiment.experiment import Experiment

    runs: dict[tuple[str, int], Experiment] = {}
    for config in dict.fromkeys(configs):
        run = Experiment.from_arguments(["--config", config, *rest])
        if run.checkpoint() is None or not run.objective.backbone.num_classes:
            raise ValueError(f"{config}: not a finished run of a classifier; give the config.yaml of one.")
        name = run.directory.parent.name
        if (name, run.seed) in runs:
            raise ValueError(f"{config} is a second run called {name}, seed {run.seed}; a table needs other names.")
        runs[name, run.seed] = run
        first = next(iter(runs.values()))
        if run.data.image_names("test") != first.data.image_names("test"):
            raise ValueError(f"{config} is tested on other images than {configs[0]}; give runs of the same.")
    return list(runs.values())


def test_at(run: Experiment, size: int, epochs: int, lr: float | None, out: Path) -> dict[str, Any]:
    """Return the row of `vitlab.analysis.transfer` for a run at one image size."""
    from vitlab.evaluation.classify import classify
    from vitlab.evaluation.cost import device_for
    from vitlab.evaluation.probe import Accuracy
    from vitlab.experiment.experiment import Experiment
    from vitlab.models.weights import load_weights
    from vitlab.studies.execution.local import shortfalls

    device, checkpoint = device_for("auto"), run.checkpoint()
    assert checkpoint is not None
    arguments = run.config["model"]["init_args"]["backbone"]["init_args"]
    backbone = {"init_args": run.objective.backbone.arguments_at(size, arguments)}
    changes = {"model": {"init_args": {"backbone": backbone}}, "data": {"init_args": {"image_size": size}}}
    resized = Experiment(merge(run.config, changes))
    model, data = resized.objective.backbone, resized.data
    load_weights(model, checkpoint)
    model.to(device).eval()
    row = {
        "trained_at": run.data.image_size,
        "image_size": size,
        "window": "",
        "bias": "",
        **model.describe(),
        "partial": ", ".join(shortfalls(run.directory)),
        "images": len(data.labels("test")),
        **Accuracy.of(*classify(model, data.batches("test", device))).columns("direct"),
    }
    if epochs and size != run.data.image_size:
        row |= fine_tune(resized.config, checkpoint, epochs, lr, out, size).columns("tuned")
    return row


def fine_tune(config: Config, checkpoint: Path, epochs: int, lr: float | None, out: Path, size: int) -> Accuracy:
    """Train a configuration from a checkpoint, as an ordinary run in `out/<name>-<size>px/seed-<n>/`; test it."""
    import torch

    from vitlab.analysis.transfer import LR_SHARE, WARMUP_SHARE
    from vitlab.evaluation.predictions import read_predictions
    from vitlab.evaluation.probe import Accuracy
    from vitlab.experiment.experiment import Experiment

    recipe = config["model"]["init_args"]
    arguments = {
        "init_from": str(checkpoint),
        "optimizer": {"init_args": {"lr": lr or LR_SHARE * recipe["optimizer"]["init_args"]["lr"]}},
        "schedule": {"init_args": {"warmup_epochs": WARMUP_SHARE * epochs}},
    }
    changes = {
        "model": {"init_args": arguments},
        "trainer": {"max_epochs": epochs},
        "run": {"root": str(out), "name": f"{config['run']['name']}-{size}px", "test": True},
    }
    tuned = Experiment(merge(config, changes))
    tuned.fit()
    predictions = read_predictions(tuned.directory / "predictions.parquet")
    # The average where one is kept, as before the fine-tuning.
    logits = predictions.logits if predictions.logits_ema is None else predictions.logits_ema
    return Accuracy.of(torch.from_numpy(logits.argmax(axis=1)), torch.tensor(predictions.labels))
