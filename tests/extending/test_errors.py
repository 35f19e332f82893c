"""An error in a class of the user's is a traceback, after one line that names the call with its shapes."""

import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor

from vitlab.commands.dispatch import run
from vitlab.data import InMemoryDataModule, PhotoSource
from vitlab.models import Features, ImageModel, VisionTransformer
from vitlab.objectives import Supervised
from vitlab.optim import Optimizer, Schedule

Write = Callable[..., Path]


class Unpacks(Supervised):
    def loss(self, views: Any, labels: Any) -> Any:
        a, b = views
        return a + b


class CallsTorch(Supervised):
    def loss(self, views: Any, labels: Any) -> Any:
        return F.cross_entropy(self.backbone(views[0])[:3], labels)


class Returns(Supervised):
    def __init__(self, backbone: ImageModel, optimizer: Optimizer, schedule: Schedule, what: str = "") -> None:
        super().__init__(backbone, optimizer, schedule)
        self.what = what

    def loss(self, views: Any, labels: Any) -> Any:
        losses = F.cross_entropy(self.backbone(views[0]), labels, reduction="none")
        return {"None": None, "float": 1.0, "vector": losses, "detached": losses.mean().detach()}[self.what]


class Builds(Supervised):
    def __init__(self, backbone: ImageModel, optimizer: Optimizer, schedule: Schedule) -> None:
        super().__init__(backbone, optimizer, schedule)
        raise ValueError("mine")


class Network(VisionTransformer):
    def encode(self, tokens: Tensor) -> Features:
        a, b = tokens
        return super().encode(a + b)


class Heads(VisionTransformer):
    def __init__(self, img_size: int = 8, in_chans: int = 1, num_classes: int = 10, patch_size: int = 4) -> None:
        super().__init__(img_size, patch_size, in_chans, num_classes, embed_dim=10, num_heads=3)


class Shortens(VisionTransformer):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:5]


class Metric(torchmetrics.Metric):
    def update(self, preds: Tensor, target: Tensor) -> None:
        (self.last,) = preds

    def compute(self) -> Tensor:
        return torch.zeros(())


class Photos(PhotoSource):
    def __init__(self, broken: str) -> None:
        self.location, self.class_names, self.broken = "mine", ["a", "b"], broken
        names = {split: [f"{split}{number}" for number in range(8)] for split in ("train", "val", "test")}
        self.splits = {split: (each, np.arange(8) % 2) for split, each in names.items()}

    def read(self, name: str, half: Any = None) -> np.ndarray:
        if name == self.broken:
            Path("nowhere").read_text()
        return np.zeros((20, 20, 3), np.uint8)


class Memory(InMemoryDataModule):
    class_names = ("a", "b")
    native_size = 8

    def read_splits(self) -> Any:
        return Path("nowhere").read_text()


def objective(name: str, **arguments: str) -> dict:
    return {"model": {"class_path": f"{__name__}.{name}", "init_args": arguments}}


def backbone(name: str, **arguments: int) -> dict:
    described = {"class_path": f"{__name__}.{name}", "init_args": {"patch_size": 4, **arguments}}
    return {"model": {"init_args": {"backbone": described}}}


def photos(broken: str, workers: int) -> dict:
    source = {"class_path": f"{__name__}.Photos", "init_args": {"broken": broken}}
    settings = {"source": source, "image_size": 16, "batch_size": 4, "num_workers": workers}
    return {"data": {"class_path": "ImageFolder", "init_args": settings}}


METRIC = {"model": {"init_args": {"extra_metrics": {"mine": {"class_path": f"{__name__}.Metric"}}}}}
SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2}
BATCH = r"views=\[\(64, 1, 8, 8\)\], labels=\(64,\)"


@pytest.mark.parametrize(
    ("changes", "error", "call"),
    [
        (objective("Unpacks"), ValueError, rf"Unpacks\.loss\({BATCH}\)"),
        (objective("CallsTorch"), ValueError, rf"CallsTorch\.loss\({BATCH}\)"),
        (objective("Builds"), ValueError, r"Builds\.__init__\(backbone=VisionTransformer, .*\)"),
        (backbone("Network", **SMALL), ValueError, r"Network\.encode\(tokens=\(64, 2, 2, 16\)\)"),
        (METRIC, ValueError, r"Metric\.update\(preds=\(60, 10\), target=\(60,\)\)"),
        (photos("train0", 0), OSError, r"Photos\.read\(name='train0', half=None\)"),
        (photos("train3", 2), OSError, r"read of .*\.py"),
        ({"data": {"class_path": f"{__name__}.Memory"}}, OSError, r"Memory\.read_splits\(\)"),
    ],
    ids=lambda value: "" if isinstance(value, dict | type) else value.split("\\")[0],
)
def test_the_call_is_named(
    changes: dict, error: type[Exception], call: str, tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    short = {"trainer": {"limit_train_batches": 2}}
    with pytest.raises(error) as raised:
        run("fit", ["--config", str(tiny(changes | short))])
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(rf"error in ({__name__}\.)?{call}:", last), last
    assert __file__ in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (objective("Returns", what="None"), "Returns.loss returned None; return one number"),
        (objective("Returns", what="float"), "Returns.loss returned 1.0; return one number"),
        (objective("Returns", what="vector"), r"Returns.loss returned \[64\], requires_grad True; return one number"),
        (objective("Returns", what="detached"), r"Returns.loss returned \[\], requires_grad False; return one number"),
        (backbone("Heads"), "heads"),  # what vitlab refuses, whoever calls it
        ({"model": {"class_path": "examples.objective.BYOL"}}, "BYOL compares 2 global crops .*; set data.multi_crop"),
    ],
)
def test_vitlab_answers_in_one_line(
    changes: dict, message: str, tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", ["--config", str(tiny(changes))]) == 2
    assert re.match(f"error: .*{message}", capsys.readouterr().err.splitlines()[-1])


def test_outputs_that_do_not_fit_the_labels_are_a_traceback(tiny: Write) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        run("fit", ["--config", str(tiny(backbone("Shortens", **SMALL)))])
