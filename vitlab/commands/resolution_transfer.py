"""Runs tested and trained further at other image sizes; `vitlab.analysis.transfer` tells what came of it."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from vitlab.analysis.transfer import LR_SHARE, WARMUP_SHARE
from vitlab.config import Config, merge
from vitlab.evaluation.classify import classify
from vitlab.evaluation.cost import device_for
from vitlab.evaluation.predictions import read_predictions
from vitlab.evaluation.probe import Accuracy
from vitlab.experiment.parser import VitlabCLI
from vitlab.models.weights import load_weights
from vitlab.studies.execution.local import shortfalls


def transfer_run(
    trained: VitlabCLI, checkpoint: Path, sizes: Sequence[int], epochs: int, lr: float | None, out: Path
) -> Iterator[dict[str, Any]]:
    """Yield a row for each image size, the run's own among them; `vitlab.analysis.transfer` says what is in a row."""
    device = device_for("auto")
    own, arguments = trained.datamodule.image_size, trained.resolved["model"]["init_args"]["backbone"]["init_args"]
    for size in sorted({own, *sizes}):
        backbone = {"init_args": trained.model.backbone.arguments_at(size, arguments)}
        changes = {"model": {"init_args": {"backbone": backbone}}, "data": {"init_args": {"image_size": size}}}
        resized = merge(trained.resolved, changes)
        cli = VitlabCLI("test", resized, start=False)
        load_weights(cli.model.backbone, checkpoint)
        model, data = cli.model.backbone.to(device).eval(), cli.datamodule
        row = {
            "trained_at": own,
            "image_size": size,
            "window": "",
            "bias": "",
            **model.describe(),
            "partial": ", ".join(shortfalls(trained.directory)),
            "images": len(data.labels("test")),
            **Accuracy.of(*classify(model, data.batches("test", device))).columns("direct"),
        }
        if epochs and size != own:
            row |= fine_tune(resized, checkpoint, epochs, lr, out, size).columns("tuned")
        yield row


def fine_tune(config: Config, checkpoint: Path, epochs: int, lr: float | None, out: Path, size: int) -> Accuracy:
    """Train a configuration from a checkpoint, as an ordinary run in `out/<name>-<size>px/seed-<n>/`; test it."""
    recipe = config["model"]["init_args"]
    arguments = {
        "init_from": str(checkpoint),
        "optimizer": {"init_args": {"lr": lr or LR_SHARE * recipe["optimizer"]["init_args"]["lr"]}},
        "schedule": {"init_args": {"warmup_epochs": WARMUP_SHARE * epochs}},
    }
    name = f"{config['run']['name']}-{size}px"
    changes = {
        "model": {"init_args": arguments},
        "trainer": {"max_epochs": epochs},
        "run": {"root": str(out), "name": name, "test": True},
    }
    with suppress(SystemExit):  # it is finished
        VitlabCLI("fit", merge(config, changes))
    said = read_predictions(out / name / f"seed-{config['seed_everything']}" / "predictions.parquet")
    # The average where one is kept, as before the fine-tuning.
    logits = said.logits if said.logits_ema is None else said.logits_ema
    return Accuracy.of(torch.from_numpy(logits.argmax(axis=1)), torch.from_numpy(said.labels))
